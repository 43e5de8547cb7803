package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

const (
	// maxFiles bounds the entries of an archive.
	maxFiles = 200_000
	// defaultMaxArchive bounds an archive after decompression.
	defaultMaxArchive = 256 << 30
	// maxLinks bounds the links from one name to another.
	maxLinks = 8
)

// archive is a tar or a folder that holds images. A missing file is
// fs.ErrNotExist.
type archive interface {
	open(name string) (io.ReadCloser, int64, error)
}

// readAll reads a whole document of bounded size.
func readAll(a archive, name string) (_ []byte, err error) {
	rc, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	if size > manifest.MaxSize {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", name, size, manifest.MaxSize)
	}
	b, err := io.ReadAll(io.LimitReader(rc, size))
	if err == nil && int64(len(b)) != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
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

func (t *tarFile) open(name string) (io.ReadCloser, int64, error) {
	key := inArchive(name)
	for range maxLinks {
		if s, ok := t.files[key]; ok {
			return io.NopCloser(io.NewSectionReader(t.r, s.off, s.size)), s.size, nil
		}
		next, ok := t.links[key]
		if !ok {
			break
		}
		key = next
	}
	return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// spool makes r readable at any place: an uncompressed regular file is used
// as it is, all else goes, decompressed, to an unnamed temporary file in dir.
// done releases it.
func spool(ctx context.Context, r io.Reader, dir string, limit int64) (_ io.ReaderAt, size int64, done func() error, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	if f, ok := r.(*os.File); ok {
		at, size, ok, err := plainFile(f)
		if ok || err != nil {
			return at, size, func() error { return nil }, err
		}
	}
	plain, err := decompress(br)
	if err != nil {
		return nil, 0, nil, err
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

// plainFile reports whether f is a regular file, at its start, that holds a
// tar and not something compressed.
func plainFile(f *os.File) (io.ReaderAt, int64, bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, false, err
	}
	if !fi.Mode().IsRegular() {
		return nil, 0, false, nil
	}
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil || pos != 0 {
		return nil, 0, false, nil
	}
	var head [6]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, 0, false, err
	}
	if compression(head[:n]) != "" {
		return nil, 0, false, nil
	}
	return f, fi.Size(), true, nil
}

// compression names the compression of something that begins with head, or
// returns "".
func compression(head []byte) string {
	for _, c := range []struct{ name, magic string }{
		{"gzip", "\x1f\x8b\x08"}, {"bzip2", "BZh"}, {"xz", "\xfd7zXZ\x00"}, {"zstd", "\x28\xb5\x2f\xfd"},
	} {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.name
		}
	}
	return ""
}

func decompress(br *bufio.Reader) (io.Reader, error) {
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("archive: %w", err)
	}
	switch c := compression(head); c {
	case "":
		return br, nil
	case "gzip":
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		return zr, nil
	case "bzip2":
		return bzip2.NewReader(br), nil
	default:
		return nil, &Error{Msg: "archive: compressed with " + c, Way: "decompress it on the way in: " + c + " -dc FILE | whittle load"}
	}
}
