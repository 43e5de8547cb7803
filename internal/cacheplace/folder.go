package cacheplace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// folder is a cache under a tag of an OCI layout. Unlike a registry's its index can be
// locked: there are no segments.
type folder struct{ dir, tag string }

// Folder is the cache under a tag of the OCI layout in dir, which the first that adds to
// it makes.
func Folder(dir, tag string) Place { return &folder{dir, tag} }

// Read implements Place.
func (f *folder) Read(ctx context.Context, t Trust) (set *sharedcache.Set, err error) {
	in, err := image.OpenFolder(f.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	unlock, err := in.Lock(ctx, false) // what is replaced is removed
	if err != nil {
		return nil, err
	}
	defer unlock()
	set, _, err = f.read(in, t)
	return set, err
}

// read returns the set, and the blobs with which it goes.
func (f *folder) read(in *image.Folder, t Trust) (*sharedcache.Set, []digest.Digest, error) {
	d, ok, err := in.Tagged(f.tag)
	if err == nil && !ok {
		err = ErrNone
	}
	if err != nil {
		return nil, nil, err
	}
	list, err := parts(in, d)
	if err != nil {
		return nil, nil, err
	}
	doc := list[1]
	b, err := in.Bytes(doc, sharedcache.MaxDocument)
	if err != nil {
		return nil, nil, err
	}
	set, err := t.decode(b, doc.Annotations[signatureOfRecords])
	return set, []digest.Digest{d.Digest, doc.Digest}, err
}

// parts are the manifest that d names and the document of the cache that it is of.
func parts(in *image.Folder, d manifest.Descriptor) ([]manifest.Descriptor, error) {
	b, err := in.Bytes(d, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	doc, err := sharedcache.Document(p.Manifest)
	return []manifest.Descriptor{d, doc}, err
}

// Add implements Place. What it replaces is removed: a folder that a CI job carries
// along does not grow by what nobody reads.
func (f *folder) Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) (err error) {
	to, err := image.OpenFolder(f.dir, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	unlock, err := to.Lock(ctx, true)
	if err != nil {
		return err
	}
	defer unlock()
	known, old, err := f.read(to, t)
	if errors.Is(err, ErrNone) || errors.Is(err, ErrUntrusted) {
		known, err = sharedcache.New(), nil
	}
	if err != nil {
		return err
	}
	known.Lose(lost)
	known.Merge(added)
	missing := map[digest.Digest]bool{}
	for _, d := range known.Blobs() {
		if !to.Has(d) {
			missing[d.Digest] = true
		}
	}
	known.LoseBlobs(missing)
	known.Trim()
	now, err := f.put(to, t, known)
	if err != nil {
		return err
	}
	return f.tidy(to, slices.DeleteFunc(old, func(d digest.Digest) bool { return slices.Contains(now, d) }))
}

// tidy removes what was replaced, unless another cache in the folder has the same.
func (f *folder) tidy(to *image.Folder, old []digest.Digest) error {
	list, err := to.Index()
	if err != nil {
		return err
	}
	for _, d := range list {
		others, _ := parts(to, d) // an image, say, has none of them
		old = slices.DeleteFunc(old, func(d digest.Digest) bool {
			return slices.ContainsFunc(others, func(o manifest.Descriptor) bool { return o.Digest == d })
		})
	}
	for _, d := range old {
		err = errors.Join(err, to.Remove(d))
	}
	return err
}

// put writes a set, and returns the digests of its manifest and its document.
func (f *folder) put(to *image.Folder, t Trust, set *sharedcache.Set) (now []digest.Digest, err error) {
	b, compose, err := t.encode(set)
	if err != nil {
		return now, err
	}
	empty := []byte("{}")
	config := manifest.Descriptor{Digest: digest.Of(empty), Size: int64(len(empty))}
	doc := manifest.Descriptor{Digest: digest.Of(b), Size: int64(len(b))}
	raw, d, err := compose(config, doc)
	if err != nil {
		return now, err
	}
	for _, blob := range []struct {
		d manifest.Descriptor
		b []byte
	}{{config, empty}, {doc, b}, {d, raw}} {
		if err := to.Put(blob.d, bytes.NewReader(blob.b)); err != nil {
			return now, err
		}
	}
	return []digest.Digest{d.Digest, doc.Digest}, to.Tag(f.tag, d)
}

// PutLayer implements Place.
func (f *folder) PutLayer(ctx context.Context, l registry.UploadLayer) (d manifest.Descriptor, err error) {
	to, err := image.OpenFolder(f.dir, true)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if l.Known != nil && to.Has(*l.Known) {
		return *l.Known, nil
	}
	if d, err = l.Blob(ctx, nil); err != nil || to.Has(d) {
		return d, err
	}
	in, err := l.Open()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return d, to.Put(d, in)
}

// Has implements Place.
func (f *folder) Has(_ context.Context, d manifest.Descriptor) (has bool, err error) {
	in, err := image.OpenFolder(f.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return in.Has(d), in.Close()
}
