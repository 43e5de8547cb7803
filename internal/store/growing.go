package store

import (
	"io"
	"os"
	"sync"
)

// growing is a file that one goroutine writes while others read it.
type growing struct {
	*tempFile

	mu   sync.Mutex
	more *sync.Cond // size or end has changed, or a reader was closed
	size int64      // bytes that are there
	end  error      // nil while it grows; io.EOF when it is whole
}

func newGrowing(f *tempFile) *growing {
	g := &growing{tempFile: f}
	g.more = sync.NewCond(&g.mu)
	return g
}

func (g *growing) Write(p []byte) (int, error) {
	n, err := g.tempFile.Write(p)
	g.mu.Lock()
	g.size += int64(n)
	g.mu.Unlock()
	g.more.Broadcast()
	return n, err
}

// finish says that nothing more comes: err is why not all is there, nil that it
// is.
func (g *growing) finish(err error) {
	if err == nil {
		err = io.EOF
	}
	g.mu.Lock()
	g.end = err
	g.mu.Unlock()
	g.more.Broadcast()
}

// follow opens the file for reading from its start: what comes to its end while
// it grows waits there.
func (g *growing) follow() (*follower, error) {
	f, err := os.Open(g.Name())
	if err != nil {
		return nil, err
	}
	return &follower{of: g, f: f}, nil
}

// follower is one reader of a growing file. Close may be called while Read waits.
type follower struct {
	of     *growing
	f      *os.File
	off    int64
	closed bool // under of.mu
}

func (r *follower) Read(p []byte) (int, error) {
	left, end := r.wait()
	if left == 0 {
		return 0, end
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), left)], r.off)
	r.off += int64(n)
	return n, err
}

// wait returns how much there is to read, and when there is nothing, why.
func (r *follower) wait() (int64, error) {
	g := r.of
	g.mu.Lock()
	defer g.mu.Unlock()
	for r.off == g.size && g.end == nil && !r.closed {
		g.more.Wait()
	}
	if r.closed {
		return 0, os.ErrClosed
	}
	return g.size - r.off, g.end
}

func (r *follower) Close() error {
	r.of.mu.Lock()
	was := r.closed
	r.closed = true
	r.of.mu.Unlock()
	r.of.more.Broadcast()
	if was {
		return nil
	}
	return r.f.Close()
}
