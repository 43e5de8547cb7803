package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Folder is an OCI layout in a folder that grows. Each file in it is there whole or not
// at all, and what index.json names is complete: a crash leaves at most blobs that nothing
// names. Who changes the index holds the lock; processes that do so at once wait for each
// other. What others have put into it is as hostile as what comes from a registry.
type Folder struct{ dirTarget }

// OpenFolder opens the layout in dir, which is made if make says so; else it is an
// error, fs.ErrNotExist, if it is not there.
func OpenFolder(dir string, make bool) (*Folder, error) {
	if make {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if make {
		if err := root.MkdirAll(manifest.BlobsDir+"/sha256", 0o777); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return &Folder{dirTarget{root: root, right: map[string]bool{}}}, nil
}

// Close gives the folder up.
func (f *Folder) Close() error { return f.root.Close() }

// Lock waits until nobody else changes the index, or, to change it, until nobody reads it
// either. unlock gives the lock back; the end of the process does so too.
func (f *Folder) Lock(ctx context.Context, change bool) (unlock func(), err error) {
	top, err := f.root.Open(".")
	if err != nil {
		return nil, err
	}
	how := flock.Shared
	if change {
		how = flock.Exclusive
	}
	if err := flock.Wait(ctx, top, how, nil); err != nil {
		return nil, errors.Join(err, top.Close())
	}
	return func() { flock.Unlock(top); top.Close() }, nil
}

// Index lists what index.json names; nothing where there is none.
func (f *Folder) Index() ([]Descriptor, error) {
	b, err := f.read(manifest.IndexFile, manifest.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, manifest.OCIIndex)
	if err != nil {
		return nil, &Error{Msg: fmt.Sprintf("%s: %v", manifest.IndexFile, err), Err: err, Way: "name another folder, or one that is not there"}
	}
	return p.Index.Manifests, nil
}

// Tagged is the entry of the index with this tag.
func (f *Folder) Tagged(tag string) (Descriptor, bool, error) {
	list, err := f.Index()
	i := slices.IndexFunc(list, func(d Descriptor) bool { return d.Annotations[manifest.AnnotationRefName] == tag })
	if err != nil || i < 0 {
		return Descriptor{}, false, err
	}
	return list[i], true, nil
}

// Bytes reads a blob of at most limit bytes whole, and checks it.
func (f *Folder) Bytes(d Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("blob %s: %d bytes, more than %d", d.Digest.Short(), d.Size, limit)
	}
	b, err := f.read(blobPath(d.Digest), d.Size)
	if err == nil {
		err = d.Bytes(b)
	}
	return b, err
}

// Open opens a blob; reading it to its end checks it.
func (f *Folder) Open(d Descriptor) (io.ReadCloser, error) {
	in, err := f.open(blobPath(d.Digest), d.Size)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{d.Verify(in), in}, nil
}

// Has says whether a blob is there, by its size: who reads it checks it.
func (f *Folder) Has(d Descriptor) bool { return f.sized(blobPath(d.Digest), d.Size) }

// Holds says whether a blob is there as it should be, and reads it for that: who adds what
// needs it names it to others.
func (f *Folder) Holds(d Descriptor) bool { return f.have(blobPath(d.Digest), d.Size) }

// Put stores a blob, checked, unless it is there as it should be.
func (f *Folder) Put(d Descriptor, in io.Reader) error {
	if f.Holds(d) {
		return nil
	}
	return f.put(blobPath(d.Digest), d.Size, d.Verify(in))
}

// Tag makes the index name d, a manifest that is there, by a tag, in the place of what
// had the tag. The lock is held to change it.
func (f *Folder) Tag(tag string, d Descriptor) error {
	d.Annotations = map[string]string{manifest.AnnotationRefName: tag}
	return f.add([]Descriptor{d})
}

// add makes the index name more.
func (f *Folder) add(more []Descriptor) error {
	old, err := f.Index()
	if err != nil {
		return fmt.Errorf("%s: %w", f.root.Name(), err)
	}
	return writeIndex(&f.dirTarget, replaced(old, more))
}

// abandoned is after what time nobody writes to a temporary file any more.
const abandoned = time.Hour

// Sweep removes what writers left behind that were killed.
func (f *Folder) Sweep() error {
	top, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	list, err := top.ReadDir(-1)
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), tmpPrefix) {
			continue
		}
		if st, serr := e.Info(); serr == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) > abandoned {
			err = errors.Join(err, f.root.Remove(e.Name()))
		}
	}
	return err
}

// tmpPrefix begins the names of files that are being written.
const tmpPrefix = ".whittle-"

// Remove removes a blob; that it is not there is no error.
func (f *Folder) Remove(d digest.Digest) error {
	if err := f.root.Remove(blobPath(d)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// open opens a regular file of at most limit bytes.
func (f *Folder) open(name string, limit int64) (*os.File, error) {
	in, size, err := openRegular(f.root, name)
	if err == nil && size > limit {
		err = errors.Join(fmt.Errorf("%s: %d bytes, more than %d", name, size, limit), in.Close())
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

func (f *Folder) read(name string, limit int64) (b []byte, err error) {
	in, err := f.open(name, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return io.ReadAll(io.LimitReader(in, limit))
}

// dirTarget writes a layout into a folder, each file whole or not at all.
type dirTarget struct {
	root *os.Root

	mu    sync.Mutex
	right map[string]bool // blobs that were read or written, and are as they should be
}

// sized says whether a file is there with that many bytes.
func (t *dirTarget) sized(name string, size int64) bool {
	st, err := t.root.Lstat(name)
	return err == nil && st.Mode().IsRegular() && st.Size() == size
}

// have reads what is there already, once: a disk, or somebody else, may have spoilt it, and
// it would be named as good.
func (t *dirTarget) have(name string, size int64) bool {
	d, err := digest.ParseHex(path.Base(name))
	if err != nil || !t.sized(name, size) {
		return false
	}
	t.mu.Lock()
	known := t.right[name]
	t.mu.Unlock()
	if known {
		return true
	}
	in, _, err := openRegular(t.root, name)
	if err != nil {
		return false
	}
	defer in.Close()
	if _, err := io.Copy(io.Discard, Descriptor{Digest: d, Size: size}.Verify(in)); err != nil {
		return false
	}
	t.isRight(name)
	return true
}

func (t *dirTarget) isRight(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.right[name] = true
}

func (t *dirTarget) put(name string, size int64, r io.Reader) (err error) {
	tmp := tmpPrefix + rand.Text()[:12]
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
		err = f.Sync() // who reads the layout may know its blobs by their sizes alone
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := t.root.Rename(tmp, name); err != nil {
		return err
	}
	t.isRight(name)
	return nil
}
