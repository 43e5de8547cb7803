package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// WriteLayout writes images into an OCI layout folder, which is made if it is
// not there. Images that the layout has stay; one under a name that is given
// again is replaced, its blobs are not removed. index.json is written last,
// so that a crash leaves the layout as it was, with blobs nobody names.
func (e Exporter) WriteLayout(ctx context.Context, dir string, images []Export) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := root.MkdirAll("blobs/sha256", 0o755); err != nil {
		return err
	}
	out := &dirTarget{root}
	old, err := readIndex(out)
	if err != nil {
		return err
	}
	done, err := e.blobs(ctx, out, images)
	if err != nil {
		return err
	}
	return writeIndex(out, done, without(old, done))
}

// readIndex returns the entries of a layout's index, none if there is none.
func readIndex(a archive) ([]Descriptor, error) {
	b, err := readAll(a, manifest.IndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, manifest.OCIIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.IndexFile, err)
	}
	return p.Index.Manifests, nil
}

// without drops the entries that are written anew: those with one of their
// names, and unnamed ones with their digest.
func without(entries []Descriptor, images []saved) []Descriptor {
	gone := map[string]bool{}
	for _, s := range images {
		for _, n := range s.Names {
			gone[n.String()] = true
		}
		if len(s.Names) == 0 {
			gone[s.manifest.Digest.String()] = true
		}
	}
	var keep []Descriptor
	for _, d := range entries {
		key := d.Annotations[manifest.AnnotationImageName]
		if key == "" && d.Annotations[manifest.AnnotationRefName] == "" {
			key = d.Digest.String()
		}
		if !gone[key] {
			keep = append(keep, d)
		}
	}
	return keep
}

// dirTarget is a layout in a folder. Nothing in it leads out of the folder.
type dirTarget struct {
	root *os.Root
}

func (t *dirTarget) has(name string) (int64, bool) {
	fi, err := t.root.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

func (t *dirTarget) put(name string, size int64, r io.Reader) (err error) {
	tmp := name + ".part"
	if err := t.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := t.root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes, want %d", name, n, size)
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return t.root.Rename(tmp, name)
}

func (t *dirTarget) putBytes(name string, b []byte) error {
	return t.put(name, int64(len(b)), bytes.NewReader(b))
}

// open implements archive.
func (t *dirTarget) open(name string) (io.ReadCloser, int64, error) {
	// O_NONBLOCK: a fifo in its place must not hang the open.
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: %s, not a regular file", name, fi.Mode().Type())
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}
