package cachemount

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/flock"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
)

const (
	blobs     = manifest.BlobsDir + "/sha256"
	mark      = "build.whittle.cache-mounts" // on an index: what the layout is
	idMark    = "build.whittle.cache-mount.id"
	tmpPrefix = "tmp-"
)

// folder is an export on disk. It is locked while it is open: shared by
// imports, alone by an export.
type folder struct {
	dir   string
	root  *fsroot.Root // locked
	index []byte       // as it is; nil when there is none
	list  []manifest.Descriptor
}

// openFolder opens an export for reading, or with write for another export
// into it; then it is made if need be.
func openFolder(ctx context.Context, dir string, write bool) (*folder, error) {
	how := flock.Shared
	if write {
		how = flock.Exclusive
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, err
		}
	}
	root, err := fsroot.Open(dir)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir, root: root}
	if err = flock.Wait(ctx, root.Dir(), how, nil); err == nil {
		err = f.read()
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *folder) close() { f.root.Close() }

// read reads the index. A folder of other things is refused, so that no export
// removes what is not its own. An empty one is an export of nothing.
func (f *folder) read() error {
	b, err := f.file(manifest.IndexFile, manifest.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return f.empty()
	}
	if err != nil {
		return err
	}
	p, err := manifest.Parse(b, manifest.OCIIndex)
	if err != nil {
		return &ForeignError{f.dir, manifest.IndexFile}
	}
	if p.Index == nil || p.Index.Annotations[mark] == "" {
		return &ForeignError{f.dir, "an image layout"}
	}
	f.index, f.list = b, p.Index.Manifests
	return nil
}

// empty checks that nothing lies there but what a first export leaves that was
// killed.
func (f *folder) empty() error {
	names, err := f.names(".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != manifest.BlobsDir && n != manifest.LayoutFile && n != "lost+found" && !strings.HasPrefix(n, tmpPrefix) {
			return &ForeignError{f.dir, n}
		}
	}
	return nil
}

func (f *folder) names(dir string) ([]string, error) {
	names, err := f.root.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// file reads a regular file of at most limit bytes.
func (f *folder) file(name string, limit int64) ([]byte, error) {
	r, err := f.root.OpenNoFollow(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", name, st.Size(), limit)
	}
	b := make([]byte, st.Size())
	_, err = io.ReadFull(r, b)
	return b, err
}

// blob reads a blob whole and checks it.
func (f *folder) blob(d manifest.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("blob %s: %d bytes, more than %d", d.Digest.Short(), d.Size, limit)
	}
	b, err := f.file(blobs+"/"+d.Digest.Hex(), limit)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest.Short(), err)
	}
	if int64(len(b)) != d.Size || digest.Of(b) != d.Digest {
		return nil, fmt.Errorf("blob %s: another content than its name says", d.Digest.Short())
	}
	return b, nil
}

// has says whether a blob is there and as long as it should be.
func (f *folder) has(d manifest.Descriptor) bool {
	st, err := f.root.Lstat(blobs + "/" + d.Digest.Hex())
	return err == nil && st.Kind == entry.File && st.Size == d.Size
}

// compress writes a compressed blob.
func (f *folder) compress(mediaType string, r io.Reader) (manifest.Descriptor, error) {
	var b bytes.Buffer
	if err := layer.Compress(&b, r, layer.Zstd, 0); err != nil {
		return manifest.Descriptor{}, err
	}
	return f.put(mediaType, b.Bytes())
}

// put writes a blob that is not there yet, durably.
func (f *folder) put(mediaType string, b []byte) (manifest.Descriptor, error) {
	d := manifest.Descriptor{MediaType: mediaType, Digest: digest.Of(b), Size: int64(len(b))}
	if f.has(d) {
		return d, nil
	}
	if err := f.root.MkdirAll(blobs, 0o755); err != nil {
		return d, err
	}
	return d, f.write(blobs+"/"+d.Digest.Hex(), b)
}

// write replaces a file: temporary file, complete, rename.
func (f *folder) write(name string, b []byte) (err error) {
	var random [8]byte
	rand.Read(random[:])
	tmp := filepath.Join(filepath.Dir(name), tmpPrefix+hex.EncodeToString(random[:]))
	w, err := f.root.OpenNoFollow(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.root.Remove(tmp)
		}
	}()
	_, err = w.Write(b)
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return err
	}
	return f.root.Rename(tmp, name)
}

// commit makes list what the folder holds, and removes what nothing needs any
// more. Manifests are in the order of their ids.
func (f *folder) commit(list []manifest.Descriptor, needed map[digest.Digest]bool) error {
	b, _, err := manifest.NewIndex(manifest.OCI, list, map[string]string{mark: "1"})
	if err != nil {
		return err
	}
	crash.Point("cachemount.blobs")
	if !bytes.Equal(b, f.index) {
		if err := f.publish(b); err != nil {
			return err
		}
	}
	crash.Point("cachemount.committed")
	names, err := f.names(blobs)
	if err != nil {
		return err
	}
	for _, n := range names {
		d, err := digest.ParseHex(n)
		if err == nil && !needed[d] || err != nil && strings.HasPrefix(n, tmpPrefix) {
			if err := f.root.Remove(blobs + "/" + n); err != nil {
				return err
			}
		}
	}
	if names, err = f.names("."); err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tmpPrefix) {
			if err := f.root.Remove(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *folder) publish(index []byte) error {
	layout, err := json.Marshal(map[string]string{"imageLayoutVersion": manifest.LayoutVersion})
	if err != nil {
		return err
	}
	if have, err := f.file(manifest.LayoutFile, manifest.MaxSize); err != nil || !bytes.Equal(have, layout) {
		if err := f.write(manifest.LayoutFile, layout); err != nil {
			return err
		}
	}
	if d, err := f.root.OpenNoFollow(blobs, unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		err = errors.Join(d.Sync(), d.Close())
		if err != nil {
			return err
		}
	}
	if err := f.write(manifest.IndexFile, index); err != nil {
		return err
	}
	return f.root.Dir().Sync()
}

// saved is one cache of a folder.
type saved struct {
	desc     manifest.Descriptor // of its manifest
	manifest *manifest.Manifest
	Identity
}

// caches reads what the folder holds, without the trees.
func (f *folder) caches() ([]*saved, error) {
	out := make([]*saved, 0, len(f.list))
	for _, d := range f.list {
		s, err := f.cache(d)
		if err != nil {
			return nil, &DamagedError{f.dir, err}
		}
		if slices.ContainsFunc(out, func(o *saved) bool { return o.Name() == s.Name() }) {
			return nil, &DamagedError{f.dir, fmt.Errorf("the cache %q is there twice", s.ID)}
		}
		out = append(out, s)
	}
	return out, nil
}

func parseManifest(b []byte) (*manifest.Manifest, error) {
	p, err := manifest.Parse(b, manifest.OCIManifest)
	if err != nil {
		return nil, err
	}
	m := p.Manifest
	if m == nil || m.Config.MediaType != configType || len(m.Layers) == 0 || m.Layers[0].MediaType != treeType {
		return nil, errors.New("not the manifest of a cache")
	}
	for _, l := range m.Layers[1:] {
		if l.MediaType != packType {
			return nil, fmt.Errorf("%q is no pack", l.MediaType)
		}
	}
	return m, nil
}

func (f *folder) cache(d manifest.Descriptor) (*saved, error) {
	b, err := f.blob(d, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest.Short(), err)
	}
	s := &saved{desc: d, manifest: m}
	text, err := f.blob(m.Config, manifest.MaxSize)
	if err == nil {
		err = json.Unmarshal(text, &s.Identity)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("config of a cache: %w", err)
	}
	return s, nil
}
