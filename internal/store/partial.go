package store

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

const (
	// partialPrefix begins the names in tmp/ of what has no owner for a while.
	partialPrefix = "partial-"
	// partialAge is for how long that is kept.
	partialAge = 24 * time.Hour
)

// Partial is as much of a blob as came before its transfer was interrupted, for the
// process that asks for it next. It is never trusted: who goes on with it checks all
// of it against the blob's digest.
type Partial struct {
	f    *os.File
	size int64
}

// Partial returns what there is of the blob d, perhaps nothing; nil when another
// process has it, or it cannot be had: then the blob comes without.
func (s *Store) Partial(d digest.Digest) *Partial {
	path := s.path(tmpDir, partialPrefix+d.Hex())
	var f *os.File
	err := withParent(path, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
		return err
	})
	if err != nil {
		return nil
	}
	locked, err := flock.Try(f, flock.Exclusive)
	st, serr := f.Stat()
	if err != nil || serr != nil || !locked || !linked(f) || !st.Mode().IsRegular() {
		f.Close()
		return nil
	}
	return &Partial{f, st.Size()}
}

// Size is how many bytes there were.
func (p *Partial) Size() int64 { return p.size }

// ReadAt implements io.ReaderAt.
func (p *Partial) ReadAt(b []byte, off int64) (int, error) { return p.f.ReadAt(b, off) }

// WriteAt implements io.WriterAt.
func (p *Partial) WriteAt(b []byte, off int64) (int, error) { return p.f.WriteAt(b, off) }

// Close leaves what there is to the next, or with over removes it.
func (p *Partial) Close(over bool) {
	if st, err := p.f.Stat(); over || err == nil && st.Size() == 0 {
		os.Remove(p.f.Name())
	}
	p.f.Close()
}

// resting says whether what is at path in tmp/ is a partial blob that somebody may still
// go on with.
func resting(path string) bool {
	if !strings.HasPrefix(path[strings.LastIndexByte(path, '/')+1:], partialPrefix) {
		return false
	}
	st, err := os.Lstat(path)
	return err == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) < partialAge
}
