package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
)

// A sink writes a file and hashes it on the way. Hashing and writing run
// beside each other and beside the caller, who meanwhile fills the next buffer.
type sink struct {
	f      *os.File // nil: it is only hashed
	h      hash.Hash
	n      int64 // bytes taken
	buf    []byte
	free   chan []byte // nil is a buffer that nobody has needed yet
	full   chan []byte
	hashed chan []byte
	done   chan error
	bad    atomic.Pointer[error] // what the file said: whatever follows is in vain
	// direct says to go past the page cache when there is much: set before the
	// first Write, see Builder.Direct.
	direct bool
}

const (
	// The first buffer is small: most layers of a RUN are.
	firstBuffer = 16 << 10
	sinkBuffer  = 1 << 20
	sinkBuffers = 4
	// writeBack is how much is left to lie before the disk is told to begin: a
	// large layer is then all but durable when its last byte is written.
	writeBack = 8 << 20
	// directFrom is how much is written through the page cache in any case.
	directFrom = 8 << 20
)

// newSink makes the file, which must not be there. Whoever has a sink calls
// finish or abort.
func newSink(name string) (*sink, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return sinkInto(f), nil
}

func sinkInto(f *os.File) *sink {
	s := &sink{
		f: f, h: sha256.New(), done: make(chan error, 1),
		free: make(chan []byte, sinkBuffers), full: make(chan []byte, sinkBuffers), hashed: make(chan []byte, sinkBuffers),
	}
	for range sinkBuffers - 1 {
		s.free <- nil
	}
	s.buf = make([]byte, 0, firstBuffer)
	go s.sum()
	go s.drain()
	return s
}

// sum is the hashing side.
func (s *sink) sum() {
	for b := range s.full {
		s.h.Write(b)
		s.hashed <- b
	}
	close(s.hashed)
}

// drain is the writing side. After an error it only takes buffers, so that
// the caller never waits for ever.
func (s *sink) drain() {
	var err error
	var at, begun int64 // so much is written, and so much on its way to the disk
	w := directWriter{f: s.f}
	for b := range s.hashed {
		if err == nil && s.f != nil {
			if s.direct && at >= directFrom && !w.tried {
				w.begin()
			}
			if err = w.write(b); err != nil {
				s.bad.Store(&err)
			}
			at += int64(len(b))
			if w.on {
				begun = at
			}
			if at-begun >= writeBack {
				// Only a hint: the store's syncfs(2) is what promises something.
				_ = unix.SyncFileRange(int(s.f.Fd()), begun, at-begun, unix.SYNC_FILE_RANGE_WRITE)
				begun = at
			}
		}
		s.free <- b[:0]
	}
	s.done <- err
}

func (s *sink) next() {
	s.full <- s.buf
	if s.buf = <-s.free; cap(s.buf) < sinkBuffer {
		s.buf = aligned(sinkBuffer)
	}
}

// failed returns the file's error, so that those who fill the sink stop and
// say why.
func (s *sink) failed() error {
	if err := s.bad.Load(); err != nil {
		return *err
	}
	return nil
}

// Write implements io.Writer. Errors of the file may come late.
func (s *sink) Write(p []byte) (int, error) {
	n := len(p)
	s.n += int64(n)
	for len(p) > 0 {
		k := min(len(p), cap(s.buf)-len(s.buf))
		s.buf = append(s.buf, p[:k]...)
		p = p[k:]
		if len(s.buf) == cap(s.buf) {
			s.next()
		}
	}
	return n, s.failed()
}

// take reads exactly n bytes of r, without another buffer between.
func (s *sink) take(r io.Reader, n int64) error {
	for n > 0 {
		if err := s.failed(); err != nil {
			return err
		}
		room := int(min(n, int64(cap(s.buf)-len(s.buf))))
		k, err := r.Read(s.buf[len(s.buf) : len(s.buf)+room])
		s.buf = s.buf[:len(s.buf)+k]
		s.n += int64(k)
		n -= int64(k)
		if len(s.buf) == cap(s.buf) {
			s.next()
		}
		if n > 0 && err == io.EOF {
			return fmt.Errorf("content ended %d bytes early: %w", n, io.ErrUnexpectedEOF)
		}
		if n > 0 && err != nil {
			return err
		}
	}
	return nil
}

// align writes zeros up to the next multiple of a tar's block.
func (s *sink) align() {
	var zero [blockSize]byte
	s.Write(zero[:alignUp(s.n, blockSize)-s.n])
}

func (s *sink) finish() (digest.Digest, error) {
	if len(s.buf) > 0 {
		s.full <- s.buf
	}
	close(s.full)
	err := errors.Join(<-s.done, s.close())
	var d digest.Digest
	s.h.Sum(d[:0])
	return d, err
}

// abort gives up; the file stays for the caller to remove.
func (s *sink) abort() {
	close(s.full)
	<-s.done
	_ = s.close()
}

func (s *sink) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}
