package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
)

// A View is one layer as an entry.FS: deletions are entries of kind Whiteout,
// directories that hide those below are Opaque. It may be used by several
// goroutines, until it is closed.
type View struct{ view }

type view interface {
	entry.FS
	Close() error
	// RootImplied reports that the layer does not say what its root
	// directory is.
	RootImplied() bool
}

// Loader returns an entry.Loader.
func (v *View) Loader() entry.Loader { return entry.LoaderOf(v.view) }

// tarView reads the tar form through its index, without a mount.
type tarView struct {
	img    image
	mapped []byte
	tar    *os.File
	index  *os.File
}

// OpenTar opens the tar form of the layer folder dir. index is the name of
// the index in dir, or a path when it has a slash; "" is the layer's own.
func OpenTar(dir, index string) (*View, error) {
	t, err := os.Open(filepath.Join(dir, TarName))
	if err != nil {
		return nil, err
	}
	v := &tarView{tar: t}
	if err := v.open(indexPath(dir, index)); err != nil {
		v.Close()
		return nil, err
	}
	return &View{v}, nil
}

func indexPath(dir, index string) string {
	if index == "" {
		return filepath.Join(dir, IndexName)
	}
	if strings.ContainsRune(index, filepath.Separator) {
		return index
	}
	return filepath.Join(dir, index)
}

func (v *tarView) open(index string) error {
	f, err := os.Open(index)
	if err != nil {
		return err
	}
	v.index = f
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < superOffset+superSize {
		return fmt.Errorf("index %s: %d bytes: %w", index, st.Size(), errImage)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return &fs.PathError{Op: "mmap", Path: index, Err: err}
	}
	v.mapped = b
	v.img, err = openImage(b)
	if err != nil {
		return fmt.Errorf("index %s: %w", index, err)
	}
	return nil
}

// Close ends the use of v. Files opened through it are closed with it.
func (v *tarView) Close() error {
	var errs []error
	if v.mapped != nil {
		errs = append(errs, syscall.Munmap(v.mapped))
		v.mapped, v.img.b = nil, nil
	}
	for _, f := range []*os.File{v.index, v.tar} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// RootImplied implements view.
func (v *tarView) RootImplied() bool { return v.img.rootImplied }

// Lstat implements entry.FS.
func (v *tarView) Lstat(p string) (entry.Entry, error) {
	nid, err := v.img.find(p)
	if err != nil {
		return entry.Entry{}, pathError("lstat", p, err)
	}
	e, err := v.img.entry(nid, p)
	if err != nil {
		return entry.Entry{}, pathError("lstat", p, err)
	}
	return e, nil
}

// ReadDir implements entry.FS.
func (v *tarView) ReadDir(p string) ([]entry.Entry, error) {
	nid, err := v.img.find(p)
	if err != nil {
		return nil, pathError("readdir", p, err)
	}
	var out []entry.Entry
	err = v.img.each(nid, func(name string, kid uint32) error {
		e, err := v.img.entry(kid, entry.Join(p, name))
		out = append(out, e)
		return err
	})
	if err != nil {
		return nil, pathError("readdir", p, err)
	}
	return out, nil
}

// Open implements entry.FS. The result is an io.ReaderAt and an io.Seeker
// besides.
func (v *tarView) Open(p string) (io.ReadCloser, error) {
	nid, err := v.img.find(p)
	if err != nil {
		return nil, pathError("open", p, err)
	}
	r, err := v.content(nid)
	if err != nil {
		return nil, pathError("open", p, err)
	}
	return r, nil
}

// content returns a reader of a regular file's content.
func (v *tarView) content(nid uint32) (*content, error) {
	ino, err := v.img.inode(nid)
	if err != nil {
		return nil, err
	}
	pieces, err := v.img.pieces(ino)
	if err != nil {
		return nil, err
	}
	c := &content{size: ino.size, chunk: int64(blockSize) << ino.chunkBits}
	for _, p := range pieces {
		switch p.dev {
		case noDevice:
			p.f = nil
		case 0:
			p.f = v.index
		case 1:
			p.f = v.tar
		default:
			return nil, fmt.Errorf("device %d: %w", p.dev, errImage)
		}
		c.pieces = append(c.pieces, p)
	}
	c.SectionReader = io.NewSectionReader(c, 0, c.size)
	return c, nil
}

// content reads a file's chunks.
type content struct {
	*io.SectionReader
	pieces []piece
	size   int64
	chunk  int64
}

// A piece is one chunk: a place in a file, or zeros.
type piece struct {
	dev uint32
	off int64
	f   *os.File
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < c.size {
		i, in := off/c.chunk, off%c.chunk
		k := int(min(int64(len(p)-n), c.chunk-in, c.size-off))
		part := p[n : n+k]
		pc := c.pieces[i]
		if pc.f == nil {
			clear(part)
		} else if m, err := pc.f.ReadAt(part, pc.off+in); m < k {
			return n + m, noEOF(err)
		}
		n += k
		off += int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// noEOF is for a file that ends where the index says that there is more.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer; there is nothing to close.
func (c *content) Close() error { return nil }

// where returns the file and offset of a content that is in one piece.
func (c *content) where() (f *os.File, off int64, ok bool) {
	if len(c.pieces) != 1 || c.pieces[0].f == nil {
		return nil, 0, false
	}
	return c.pieces[0].f, c.pieces[0].off, true
}

func pathError(op, p string, err error) error {
	return &fs.PathError{Op: op, Path: p, Err: err}
}
