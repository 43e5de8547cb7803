package copying

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// A reading makes a hash of parts in their order, while the contents that they
// end with are read side by side: most of the time goes to opening files.
type reading struct {
	from   entry.FS
	h      hash.Hash
	jobs   chan *part // in any order
	order  chan *part // the same, in order
	wg     sync.WaitGroup
	failed atomic.Bool
	err    error // of the first part that failed, when all is over
}

// A part is some of the description, and a file whose digest follows it.
type part struct {
	text []byte
	path string
	size int64
	sum  digest.Digest
	err  error
	done chan struct{}
}

const (
	// ahead is how many parts wait at most: with their texts, of some hundred
	// bytes each, that is all the memory that a reading takes.
	ahead      = 256
	bufferSize = 128 << 10
)

var errStopped = errors.New("not read, as an earlier file could not be")

// newReading starts a reading, which must be ended.
func newReading(from entry.FS, h hash.Hash) *reading {
	r := &reading{from: from, h: h, jobs: make(chan *part, ahead), order: make(chan *part, ahead)}
	for range 4 * max(runtime.GOMAXPROCS(0), 2) { // they wait for the disk
		r.wg.Go(r.read)
	}
	r.wg.Go(r.sum)
	return r
}

// add hands over the next part. Its error is that parts go unread, because one
// before has failed; end says why.
func (r *reading) add(text []byte, path string, size int64) error {
	if r.failed.Load() {
		return errStopped
	}
	p := &part{text: text, path: path, size: size, done: make(chan struct{})}
	r.order <- p
	r.jobs <- p
	return nil
}

// end waits for all parts. The hash is then of all of them, or it is an error.
func (r *reading) end() error {
	close(r.jobs)
	close(r.order)
	r.wg.Wait()
	return r.err
}

func (r *reading) read() {
	l := entry.LoaderOf(r.from)
	defer l.Close()
	h, buf := sha256.New(), make([]byte, bufferSize)
	for p := range r.jobs {
		switch {
		case r.failed.Load():
			p.err = errStopped
		case p.size <= bufferSize:
			if p.err = l.Load(p.path, buf[:p.size]); p.err == nil {
				p.sum = sha256.Sum256(buf[:p.size])
			}
		default:
			p.err = r.digest(p, h, buf)
		}
		close(p.done)
	}
}

// digest reads a large file.
func (r *reading) digest(p *part, h hash.Hash, buf []byte) (err error) {
	f, err := r.from.Open(p.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h.Reset()
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			h.Sum(p.sum[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *reading) sum() {
	for p := range r.order {
		<-p.done
		if p.err != nil {
			r.failed.Store(true)
			if r.err == nil {
				r.err = p.err
			}
			continue
		}
		r.h.Write(p.text)
		r.h.Write(p.sum[:])
	}
}
