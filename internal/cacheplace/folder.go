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

// reading gives do the folder while nothing in it is replaced; ErrNone if it is not there.
func (f *folder) reading(ctx context.Context, do func(in *image.Folder) error) (err error) {
	in, err := image.OpenFolder(f.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	unlock, err := in.Lock(ctx, false)
	if err != nil {
		return err
	}
	defer unlock()
	return do(in)
}

// writing gives do the folder alone.
func (f *folder) writing(ctx context.Context, do func(to *image.Folder) error) (err error) {
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
	return errors.Join(to.Sweep(), do(to))
}

// Read implements Place.
func (f *folder) Read(ctx context.Context, t Trust) (set *sharedcache.Set, err error) {
	err = f.reading(ctx, func(in *image.Folder) (err error) {
		if set, err = f.read(in, t, t.reads(f.tag)); t.Verify != nil {
			return err
		}
		list, ierr := in.Index()
		if ierr != nil {
			return ierr
		}
		for _, tag := range sharedcache.SignedTags(f.tag, tagsOf(list)) {
			one, serr := f.read(in, t, tag)
			if serr != nil {
				continue // it spoils nothing but itself
			}
			if set == nil {
				set, err = sharedcache.New(), nil
			}
			set.Merge(one)
		}
		return err
	})
	return set, err
}

func tagsOf(list []manifest.Descriptor) []string {
	var tags []string
	for _, d := range list {
		tags = append(tags, d.Annotations[manifest.AnnotationRefName])
	}
	return tags
}

func (f *folder) read(in *image.Folder, t Trust, tag string) (*sharedcache.Set, error) {
	b, signature, err := document(in, tag, sharedcache.Document, sharedcache.MaxDocument)
	if err != nil {
		return nil, err
	}
	set, err := t.decode(b, signature)
	if err != nil && !errors.Is(err, ErrUntrusted) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return set, err
}

// document reads the document that pick finds in the manifest under tag, and its
// signature; ErrNone if the tag is not there.
func document(in *image.Folder, tag string, pick func(*manifest.Manifest) (manifest.Descriptor, error), limit int64) (b []byte, signature string, err error) {
	d, ok, err := in.Tagged(tag)
	if err == nil && !ok {
		err = ErrNone
	}
	if err != nil {
		return nil, "", err
	}
	m, err := named(in, d)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	doc, err := pick(m)
	if err != nil {
		return nil, "", err
	}
	if b, err = in.Bytes(doc, limit); err != nil {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return b, doc.Annotations[signatureOfRecords], err
}

// named is the manifest that d names; nil if it is an index.
func named(in *image.Folder, d manifest.Descriptor) (*manifest.Manifest, error) {
	b, err := in.Bytes(d, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	return p.Manifest, nil
}

// Add implements Place. What it replaces is removed: a folder that a CI job carries
// along does not grow by what nobody reads.
func (f *folder) Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) error {
	t = t.Writer()
	tag := t.reads(f.tag)
	return f.writing(ctx, func(to *image.Folder) error {
		if _, err := to.Index(); err != nil {
			return err // something else than a layout
		}
		known, err := f.read(to, t, tag)
		if errors.Is(err, sharedcache.ErrNoCache) && tag == f.tag {
			return err // an image is not written over
		}
		if err != nil { // there is none, or it is damaged
			known = sharedcache.New()
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
		b, compose, err := t.encode(known)
		if err != nil {
			return err
		}
		return put(to, tag, b, compose, sharedcache.RecordsType)
	})
}

// put stores a document under a tag, and removes the blobs of those types that what had
// the tag needed and nothing needs any more.
func put(to *image.Folder, tag string, document []byte, compose composer, types ...string) error {
	old, had, err := to.Tagged(tag)
	if err != nil {
		return err
	}
	empty := []byte("{}")
	config, doc := descriptor(empty), descriptor(document)
	raw, d, err := compose(config, doc)
	if err != nil {
		return err
	}
	for _, blob := range []struct {
		d manifest.Descriptor
		b []byte
	}{{config, empty}, {doc, document}, {d, raw}} {
		if err := to.Put(blob.d, bytes.NewReader(blob.b)); err != nil {
			return err
		}
	}
	var unneeded []manifest.Descriptor
	if had {
		unneeded = parts(to, old, types)
	}
	if err := to.Tag(tag, d); err != nil {
		return err
	}
	return tidy(to, unneeded, types)
}

func descriptor(b []byte) manifest.Descriptor {
	return manifest.Descriptor{Digest: digest.Of(b), Size: int64(len(b))}
}

// parts are the manifest that d names and the blobs of some types that it names; what is
// damaged has none.
func parts(in *image.Folder, d manifest.Descriptor, types []string) []manifest.Descriptor {
	list := []manifest.Descriptor{d}
	m, err := named(in, d)
	if err != nil || m == nil {
		return list
	}
	for _, l := range m.Layers {
		if slices.Contains(types, l.MediaType) {
			list = append(list, l)
		}
	}
	return list
}

// tidy removes blobs that nothing in the index needs.
func tidy(to *image.Folder, unneeded []manifest.Descriptor, types []string) error {
	list, err := to.Index()
	if err != nil {
		return err
	}
	needed := map[digest.Digest]bool{}
	for _, d := range list {
		for _, p := range parts(to, d, types) {
			needed[p.Digest] = true
		}
	}
	for _, d := range unneeded {
		if !needed[d.Digest] {
			err = errors.Join(err, to.Remove(d.Digest))
		}
	}
	return err
}

// PutLayer implements Place.
func (f *folder) PutLayer(ctx context.Context, l registry.UploadLayer) (d manifest.Descriptor, err error) {
	to, err := image.OpenFolder(f.dir, true)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if l.Known != nil && to.Holds(*l.Known) {
		return *l.Known, nil
	}
	if d, err = l.Blob(ctx, nil); err != nil || to.Holds(d) {
		return d, err
	}
	in, err := l.Open()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return d, to.Put(d, in)
}

// Has implements Place. It reads the blob: one that is spoilt is not there.
func (f *folder) Has(_ context.Context, d manifest.Descriptor) (has bool, err error) {
	in, err := image.OpenFolder(f.dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return in.Holds(d), in.Close()
}

// Bytes implements Place.
func (f *folder) Bytes(_ context.Context, d manifest.Descriptor) (b []byte, err error) {
	in, err := image.OpenFolder(f.dir, false)
	if err != nil {
		return nil, err
	}
	b, err = in.Bytes(d, d.Size)
	return b, errors.Join(err, in.Close())
}

// PutBeside implements Place.
func (f *folder) PutBeside(ctx context.Context, t Trust, name digest.Digest, document []byte, blobs []manifest.Descriptor) error {
	t = t.Writer()
	compose, err := t.signed(document, beside(blobs))
	if err != nil {
		return err
	}
	types := []string{documentType}
	for _, d := range blobs {
		types = append(types, d.MediaType)
	}
	return f.writing(ctx, func(to *image.Folder) error {
		for _, d := range blobs {
			if !to.Has(d) { // another writer needed it no more
				return fmt.Errorf("%w: blob %s", ErrIncomplete, d.Digest.Short())
			}
		}
		return put(to, besideTag(t.reads(f.tag), name), document, compose, types...)
	})
}

// Beside implements Place.
func (f *folder) Beside(ctx context.Context, t Trust, name digest.Digest) (b []byte, err error) {
	err = f.reading(ctx, func(in *image.Folder) error {
		tags := []string{t.reads(f.tag)}
		if t.Verify == nil {
			list, err := in.Index()
			if err != nil {
				return err
			}
			tags = append(tags, sharedcache.SignedTags(f.tag, tagsOf(list))...)
		}
		// One that is damaged spoils nothing but itself, and is told if there is no other.
		var bad error
		for _, tag := range tags {
			var signature string
			b, signature, err = document(in, besideTag(tag, name), documentBeside, manifest.MaxSize)
			if err == nil {
				return t.check(b, signature)
			}
			if bad == nil || errors.Is(bad, ErrNone) {
				bad = err
			}
		}
		return bad
	})
	return b, err
}
