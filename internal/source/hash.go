package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// ErrChanged is the cause of an error about a file that was changed while the
// build looked at it.
var ErrChanged = errors.New("changed while it was read")

// FileDigest implements entry.Digester.
func (c *Context) FileDigest(e entry.Entry) (digest.Digest, error) {
	if d, ok := c.known(&e); ok {
		return d, nil
	}
	n, err := c.get("digest", e.Path)
	if err != nil {
		return digest.Digest{}, err
	}
	if err := c.hashOne(n, e.Path); err != nil {
		return digest.Digest{}, err
	}
	d, ok := c.known(&e)
	if !ok {
		return digest.Digest{}, pathError("read", e.Path, ErrChanged)
	}
	return d, nil
}

// known returns the digest of e, if it is known and e is what it is of.
func (c *Context) known(e *entry.Entry) (digest.Digest, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n, sure := c.find(e.Path)
	if !sure || n == nil || n.flags&hasDigest == 0 || n.size != e.Size || n.msec != e.Mtime.Sec || n.mnsec != e.Mtime.Nsec {
		return digest.Digest{}, false
	}
	return n.digest, true
}

// hashOne reads the file at path, unless its digest is known.
func (c *Context) hashOne(n *node, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !n.isRegular() {
		return pathError("read", path, errors.New("not a regular file"))
	}
	if n.flags&hasDigest == 0 {
		if err := newHasher(c).file(context.Background(), path, n); err != nil {
			return err
		}
		c.dirty = c.dirty || n.flags&isTrusted != 0
	}
	return nil
}

// unread is a file whose digest is not known. There may be millions: it is told
// by its directory, which many share, and its name.
type unread struct {
	dir string
	n   *node
}

// withUnread adds what j is about to a list.
func withUnread(list []unread, j job) []unread {
	dir := entry.Parent(j.path)
	if last := len(list) - 1; last >= 0 && list[last].dir == dir {
		dir = list[last].dir // and not another part of another path
	}
	return append(list, unread{dir, j.n})
}

// hashAll reads the files of todo on all processors. The caller holds the
// lock; each node is the work of one goroutine.
func (c *Context) hashAll(ctx context.Context, todo []unread) error {
	// The largest come first: the last file to be read should be a small one.
	const large = 8 << 20
	slices.SortStableFunc(todo, func(a, b unread) int {
		return cmp.Compare(max(b.n.size, large), max(a.n.size, large))
	})
	var (
		mu    sync.Mutex
		next  int
		first error
		all   sync.WaitGroup
	)
	take := func(err error) (f unread, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = err
		}
		if first != nil || next == len(todo) {
			return f, false
		}
		next++
		return todo[next-1], true
	}
	for range min(workers(), len(todo)) {
		all.Go(func() {
			h := newHasher(c)
			for f, ok := take(nil); ok; {
				f, ok = take(h.file(ctx, entry.Join(f.dir, f.n.name), f.n))
			}
		})
	}
	all.Wait()
	for _, f := range todo[:next] {
		c.dirty = c.dirty || f.n.flags&isTrusted != 0
	}
	return first
}

// hasher reads files for one goroutine.
type hasher struct {
	c     *Context
	start time.Time // before anything was read
	sum   hash.Hash
	buf   []byte
}

const readBuffer = 128 << 10

func newHasher(c *Context) *hasher {
	return &hasher{c: c, start: c.now(), sum: sha256.New(), buf: make([]byte, readBuffer)}
}

// file fills in the digest of n, which is at path, with the metadata that belongs to it.
func (h *hasher) file(ctx context.Context, path string, n *node) error {
	if err := cause(ctx); err != nil {
		return err
	}
	fd, err := openBeneath(h.c.root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return pathError("open", path, err)
	}
	defer unix.Close(fd)
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return pathError("stat", path, err)
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return pathError("open", path, ErrChanged)
	}
	var last digest.Digest // of the read before
	for try := range 3 {
		n.setXattrs(readXattrs(fd)) // a change of theirs is one of ctime
		// Two reads more: a new link or a chmod is a change too, but a short
		// one. What a file that grows had at first must be the same twice.
		if err := h.read(ctx, fd, path, before.Size); err != nil {
			return err
		}
		if err := unix.Fstat(fd, &after); err != nil {
			return pathError("stat", path, err)
		}
		if !n.same(&before) {
			h.c.moved.Add(1)
		}
		n.set(&before)
		h.sum.Sum(n.digest[:0])
		n.flags &^= isTrusted | hasDigest
		switch {
		case n.same(&after):
			n.flags |= hasDigest
			n.flags |= h.c.trust(n, &after, fd, h.start)
			return nil
		case !n.grown(&after):
			before = after
		case try > 0 && last == n.digest:
			n.flags |= hasDigest
			return nil
		}
		last = n.digest
	}
	return pathError("read", path, ErrChanged)
}

// trust is trusted for a file that may be on another file system than the context: a mount
// in it may be an image.
func (c *Context) trust(n *node, st *unix.Stat_t, fd int, start time.Time) uint32 {
	if uint64(st.Dev) != c.links.main && frozenClock(fd) {
		return 0
	}
	return trusted(n, start)
}

// read digests the first size bytes of the file: one to which somebody writes,
// such as the log of this build, is what it was when the build saw it.
func (h *hasher) read(ctx context.Context, fd int, path string, size int64) error {
	h.sum.Reset()
	for at := int64(0); at < size; {
		n, err := unix.Pread(fd, h.buf[:min(int64(len(h.buf)), size-at)], at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return pathError("read", path, err)
		}
		if n == 0 {
			return nil // shorter now, which its size will tell
		}
		h.sum.Write(h.buf[:n])
		at += int64(n)
		if err := cause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// OpenFile opens the regular file at path for reading, if it is still the one
// that was scanned. It may have grown since: only as many bytes as it had are
// part of the context. The caller reads a file that others may write to at the
// same time; Verify says afterwards whether somebody did.
func (c *Context) OpenFile(path string) (*os.File, error) {
	fd, _, err := c.open(path)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), show(path)), nil
}

// open opens the regular file at path if it is still the one that was scanned.
func (c *Context) open(path string) (fd int, n *node, err error) {
	n, err = c.get("open", path)
	if err != nil {
		return -1, nil, err
	}
	if !n.isRegular() {
		return -1, nil, pathError("open", path, errors.New("not a regular file"))
	}
	fd, err = openBeneath(c.root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return -1, nil, pathError("open", path, err)
	}
	if err := c.verify(n, path, fd); err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, n, nil
}

// Verify reports whether f, which OpenFile(path) returned, is unchanged since
// the scan, so that what was read of it has the digest that FileDigest tells.
// Of a file that has grown, the bytes that it had must be the same.
func (c *Context) Verify(path string, f *os.File) error {
	n, err := c.get("read", path)
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = c.verify(n, path, int(fd)) })
	return cmp.Or(err, cerr)
}

func (c *Context) verify(n *node, path string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", path, err)
	}
	c.mu.RLock()
	// Who appends to a file changes its time first, and a moment later its size.
	same, longer, size := n.same(&st), n.asLong(&st), n.size
	have, want := n.flags&hasDigest != 0, n.digest
	c.mu.RUnlock()
	if same {
		return nil
	}
	if !longer || !have {
		return pathError("read", path, ErrChanged)
	}
	h := newHasher(c)
	if err := h.read(context.Background(), fd, path, size); err != nil {
		return err
	}
	if digest.Digest(h.sum.Sum(nil)) != want {
		return pathError("read", path, ErrChanged)
	}
	return nil
}
