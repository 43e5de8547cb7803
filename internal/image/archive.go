package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
)

const (
	// maxFiles bounds the entries of an archive.
	maxFiles = 200_000
	// defaultMaxArchive bounds an archive after decompression.
	defaultMaxArchive = 256 << 30
	// maxImages bounds the images of an archive, and the names of all of them.
	maxImages = 4096
	// maxLinks bounds the links from one name to another.
	maxLinks = 8
)

// archive is files by name: a tar, or a folder of the same form. A missing one
// is fs.ErrNotExist.
type archive interface {
	open(name string) (*io.SectionReader, error)
}

// readAll reads a whole document of bounded size.
func readAll(a archive, name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > manifest.MaxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", name, r.Size(), manifest.MaxSize)
	}
	b := make([]byte, r.Size())
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// tarFile is an archive in a tar that can be read at any place. Nothing is
// unpacked: names are only keys, so none can lead anywhere.
type tarFile struct {
	r     io.ReaderAt
	files map[string]span
	links map[string]string
}

type span struct{ off, size int64 }

// openTar reads the headers of the tar of size bytes at r.
func openTar(ctx context.Context, r io.ReaderAt, size int64) (*tarFile, error) {
	t := &tarFile{r: r, files: map[string]span{}, links: map[string]string{}}
	sr := io.NewSectionReader(r, 0, size)
	tr := tar.NewReader(sr)
	for n := 0; ; n++ {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil && n == 0 && context.Cause(ctx) == nil {
			return nil, &Error{
				Msg: fmt.Sprintf("archive: not a tar: %v", err), Err: err,
				Way: "load takes what docker save, whittle save and OCI tools write, compressed or not",
			}
		}
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		if n == maxFiles {
			return nil, fmt.Errorf("archive: more than %d entries", maxFiles)
		}
		off, err := sr.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.add(h, off); err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
	}
}

// add notes one entry. A name twice is refused: tools differ in which of the
// two they take.
func (t *tarFile) add(h *tar.Header, off int64) error {
	name := inArchive(h.Name)
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	_, isFile := t.files[name]
	_, isLink := t.links[name]
	if isFile || isLink {
		return fmt.Errorf("%s: twice in the archive", name)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if isSparse(h) {
			return fmt.Errorf("%s: a sparse file", name)
		}
		t.files[name] = span{off, h.Size}
	case tar.TypeSymlink:
		// docker save wrote ../ID/layer.tar for a layer that it has written before.
		t.links[name] = inArchive(path.Join(path.Dir(name), h.Linkname))
	case tar.TypeLink:
		t.links[name] = inArchive(h.Linkname)
	default:
		return fmt.Errorf("%s: entry of type %q", name, h.Typeflag)
	}
	return nil
}

// isSparse reports files whose bytes in the archive are not their content.
func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// inArchive is the key of a name: ".." ends at the root.
func inArchive(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// open implements archive.
func (t *tarFile) open(name string) (*io.SectionReader, error) {
	key := inArchive(name)
	for range maxLinks {
		if s, ok := t.files[key]; ok {
			return io.NewSectionReader(t.r, s.off, s.size), nil
		}
		next, ok := t.links[key]
		if !ok {
			break
		}
		key = next
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// spool makes r readable at any place: an uncompressed regular file is used
// as it is, all else goes, decompressed, to an unnamed temporary file in dir.
// done releases it.
func spool(ctx context.Context, r io.Reader, dir string, limit int64) (_ io.ReaderAt, size int64, done func() error, err error) {
	file, size := wholeFile(r)
	if file != nil {
		r = io.NewSectionReader(file, 0, size)
	}
	plain, alg, err := layer.Decompress(r)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if file != nil && alg == layer.None {
		return file, size, func() error { return nil }, nil
	}
	tmp, err := os.CreateTemp(dir, "load-*")
	if err != nil {
		return nil, 0, nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, 0, nil, errors.Join(err, tmp.Close())
	}
	size, err = io.Copy(tmp, io.LimitReader(&interruptible{ctx, plain}, limit+1))
	if err == nil && size > limit {
		err = fmt.Errorf("more than %d bytes after decompression", limit)
	}
	if err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("archive: %w", err), tmp.Close())
	}
	return tmp, size, tmp.Close, nil
}

// wholeFile returns r with its size when it is a regular file at its start,
// which can be read at any place; else nil.
func wholeFile(r io.Reader) (*os.File, int64) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, 0
	}
	if pos, err := f.Seek(0, io.SeekCurrent); err != nil || pos != 0 {
		return nil, 0
	}
	return f, fi.Size()
}
