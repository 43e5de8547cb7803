package fetch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/store"
)

// File is a file that was downloaded.
type File struct {
	// Said is the name that the server gives it (Content-Disposition), safe to
	// use; "" when it gives none. ADD does not ask the server.
	Said     string
	Digest   digest.Digest
	Size     int64
	Modified time.Time // zero when the server does not say

	store *store.Store
}

// Open reads the content. Its end is an error when the store's copy is not
// what was downloaded; that copy is removed then.
func (f *File) Open() (io.ReadCloser, error) {
	b, err := f.store.OpenBlob(f.Digest)
	if err != nil {
		return nil, err
	}
	return &checked{file: f, r: b, h: sha256.New()}, nil
}

// checked hashes what is read.
type checked struct {
	file *File
	r    *os.File
	h    hash.Hash
	n    int64
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.h.Write(p[:n])
	c.n += int64(n)
	// The last bytes are not handed out before it is known that they are good:
	// who knows the size reads no further.
	if err == nil && c.n < c.file.Size || err != nil && err != io.EOF {
		return n, err
	}
	if c.n != c.file.Size || !bytes.Equal(c.h.Sum(nil), c.file.Digest[:]) {
		err := fmt.Errorf("blob %s: %w, and removed: build again", c.file.Digest.Short(), store.ErrDamaged)
		return 0, errors.Join(err, c.file.store.DeleteBlob(c.file.Digest))
	}
	return n, err
}

func (c *checked) Close() error { return c.r.Close() }

// FS is the file system that ADD copies from: a root with the file in it,
// called name, with mode 0600 and the server's time. It is an entry.Digester.
func (f *File) FS(name string) entry.FS {
	e := entry.Entry{Path: name, Kind: entry.File, Mode: 0o600, Size: f.Size}
	if !f.Modified.IsZero() {
		e.Mtime.Sec = f.Modified.Unix()
	}
	return &single{f, e}
}

// single is a file system of one file.
type single struct {
	file *File
	e    entry.Entry
}

// Lstat implements entry.FS.
func (s *single) Lstat(p string) (entry.Entry, error) {
	switch p {
	case ".":
		return entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755, Mtime: s.e.Mtime}, nil
	case s.e.Path:
		return s.e, nil
	}
	return entry.Entry{}, entry.NotExist("lstat", p)
}

// ReadDir implements entry.FS.
func (s *single) ReadDir(p string) ([]entry.Entry, error) {
	if p != "." {
		return nil, entry.NotExist("readdir", p)
	}
	return []entry.Entry{s.e}, nil
}

// Open implements entry.FS.
func (s *single) Open(p string) (io.ReadCloser, error) {
	if p != s.e.Path {
		return nil, entry.NotExist("open", p)
	}
	return s.file.Open()
}

// FileDigest implements entry.Digester.
func (s *single) FileDigest(e entry.Entry) (digest.Digest, error) {
	if e.Path != s.e.Path {
		return digest.Digest{}, errors.New("not a file of this file system")
	}
	return s.file.Digest, nil
}
