package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
)

func (s *Store) blobPath(d digest.Digest) string { return s.sharded(blobDir, d) }

// PutBlob stores what r gives and returns its digest and size. An error of r
// is returned and leaves nothing. Bytes that are there already are replaced
// by themselves, so that putting a blob again also mends a damaged one.
func (s *Store) PutBlob(r io.Reader) (digest.Digest, int64, error) { return s.GrowBlob(r, nil) }

// GrowBlob is PutBlob for whoever wants the bytes at once: see, unless it is nil,
// is given a reader of what is there so far, which waits for more, and ends with
// the blob or with the error of r. It must be closed, by any goroutine.
func (s *Store) GrowBlob(r io.Reader, see func(io.ReadCloser)) (digest.Digest, int64, error) {
	f, err := s.tempFile("blob")
	if err != nil {
		return digest.Digest{}, 0, fmt.Errorf("blob: %w", err)
	}
	defer f.drop()
	h := sha256.New()
	g := newGrowing(f)
	if see != nil {
		reader, err := g.follow()
		if err != nil {
			return digest.Digest{}, 0, fmt.Errorf("blob: %w", err)
		}
		see(reader)
	}
	n, err := io.CopyBuffer(io.MultiWriter(g, h), r, make([]byte, 256<<10))
	g.finish(err)
	if err != nil {
		return digest.Digest{}, n, fmt.Errorf("blob: after %d bytes: %w", n, s.Explain(err))
	}
	crash.Point("store.blob.written")
	d := digest.Digest(h.Sum(nil))
	err = s.holding(d, func() error { return f.moveTo(s.blobPath(d)) })
	if err != nil {
		return digest.Digest{}, n, fmt.Errorf("blob %s: %w", d.Short(), s.Explain(err))
	}
	crash.Point("store.blob.renamed")
	s.wrote()
	return d, n, nil
}

// PutBlobBytes stores b.
func (s *Store) PutBlobBytes(b []byte) (digest.Digest, error) {
	d, _, err := s.PutBlob(bytes.NewReader(b))
	return d, err
}

// OpenBlob opens a blob for reading. The bytes are not checked: whoever sends
// or keeps them hashes them on the way, or uses ReadBlob.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	var f *os.File
	err := s.holding(d, func() (err error) {
		f, err = os.Open(s.blobPath(d))
		return err
	})
	if err != nil {
		return nil, blobError(d, errors.Join(err, closeIf(f)))
	}
	if fi, err := f.Stat(); err == nil {
		s.touch(f.Name(), fi)
	}
	return f, nil
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// ReadBlob returns a blob of at most max bytes and checks its digest. Bytes
// that do not match are ErrDamaged, never returned.
func (s *Store) ReadBlob(d digest.Digest, max int64) ([]byte, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, blobError(d, err)
	}
	if fi.Size() > max {
		return nil, blobError(d, fmt.Errorf("%d bytes, at most %d were expected", fi.Size(), max))
	}
	b := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, blobError(d, err)
	}
	if digest.Of(b) != d {
		return nil, blobError(d, fmt.Errorf("%w: the content has another digest", ErrDamaged))
	}
	return b, nil
}

// StatBlob returns the size of a blob.
func (s *Store) StatBlob(d digest.Digest) (int64, error) {
	var size int64
	err := s.holding(d, func() error {
		fi, err := os.Lstat(s.blobPath(d))
		if err != nil {
			return err
		}
		size = fi.Size()
		s.touch(s.blobPath(d), fi)
		return nil
	})
	if err != nil {
		return 0, blobError(d, err)
	}
	return size, nil
}

// DeleteBlob removes a blob; one that is not there is no error.
func (s *Store) DeleteBlob(d digest.Digest) error {
	s.wrote()
	if err := os.Remove(s.blobPath(d)); ignoreAbsent(err) != nil {
		return blobError(d, err)
	}
	return nil
}

func blobError(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	return fmt.Errorf("blob %s: %w", d.Short(), err)
}
