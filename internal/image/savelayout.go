package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// SaveLayout adds images to the OCI layout in the folder dir, which is made when it
// is not there, and returns what names their manifests. Other images that are in it
// stay, but for the names that these take. Blobs come first and the index last, so
// a crash leaves at most blobs that nothing names. Those who write one folder at
// once wait for each other.
func (e Exporter) SaveLayout(ctx context.Context, dir string, images []Export) (_ []Descriptor, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := root.MkdirAll(manifest.BlobsDir+"/sha256", 0o755); err != nil {
		return nil, err
	}
	out := &dirTarget{root}
	saved, err := e.blobs(ctx, out, images)
	if err != nil {
		return nil, err
	}
	top, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer top.Close() // with the lock
	if err := lock(top); err != nil {
		return nil, fmt.Errorf("%s: lock: %w", dir, err)
	}
	old, err := indexed(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return manifests(saved), writeIndex(out, replaced(old, entries(saved)))
}

// lock waits until nobody else has f locked; closing it gives the lock back.
func lock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			return err
		}
	}
}

// indexed is what the index.json in root names; nothing where there is none.
func indexed(root *os.Root) ([]Descriptor, error) {
	st, err := root.Stat(manifest.IndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && st.Size() > manifest.MaxSize {
		err = fmt.Errorf("%s: %d bytes, more than %d", manifest.IndexFile, st.Size(), manifest.MaxSize)
	}
	if err != nil {
		return nil, err
	}
	b, err := root.ReadFile(manifest.IndexFile)
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, manifest.OCIIndex)
	if err != nil {
		return nil, &Error{Msg: fmt.Sprintf("%s: %v", manifest.IndexFile, err), Err: err, Way: "name another folder, or one that is not there"}
	}
	return p.Index.Manifests, nil
}

// replaced is an index with more in it: a name is in it once.
func replaced(old, more []Descriptor) []Descriptor {
	same := func(a, b Descriptor) bool {
		if n := imageName(a); n != "" || imageName(b) != "" {
			return n == imageName(b)
		}
		return a.Digest == b.Digest
	}
	old = slices.DeleteFunc(old, func(d Descriptor) bool {
		return slices.ContainsFunc(more, func(m Descriptor) bool { return same(d, m) })
	})
	return append(old, more...)
}

// imageName is what an entry of an index is called: "" when it is not.
func imageName(d Descriptor) string {
	return cmp.Or(d.Annotations[manifest.AnnotationImageName], d.Annotations[manifest.AnnotationRefName])
}

// dirTarget writes a layout into a folder, each file whole or not at all.
type dirTarget struct{ root *os.Root }

// maxChecked is how large a blob that is there already is read again: manifests and
// configs, on which everything else depends.
const maxChecked = 1 << 20

func (t *dirTarget) have(name string, size int64) bool {
	st, err := t.root.Lstat(name)
	if err != nil || !st.Mode().IsRegular() || st.Size() != size {
		return false
	}
	if size > maxChecked {
		return true
	}
	b, err := t.root.ReadFile(name)
	return err == nil && blobPath(digest.Of(b)) == name
}

func (t *dirTarget) put(name string, size int64, r io.Reader) (err error) {
	tmp := ".whittle-" + rand.Text()[:12]
	f, err := t.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = t.root.Remove(tmp)
		}
	}()
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes, there should be %d", name, n, size)
	}
	if err == nil {
		err = f.Sync() // a blob of the right size is not looked at again
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return t.root.Rename(tmp, name)
}
