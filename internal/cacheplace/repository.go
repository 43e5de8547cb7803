package cacheplace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// repository is a cache under a tag of a registry, which nobody can lock: a writer adds
// a segment first, and then writes the union (see sharedcache).
type repository struct {
	client *registry.Client
	ref    registry.Ref
}

// Repository is the cache under the tag of ref.
func Repository(c *registry.Client, ref registry.Ref) Place { return &repository{c, ref} }

// inlineSuffix makes the tag of an image that of the cache beside it.
const inlineSuffix = ".whittle-cache"

// MaxInline is how long the tag of an image may be that has a cache beside it.
const MaxInline = sharedcache.MaxTag - len(inlineSuffix)

// Beside is where the cache lies that travels with an image: in its repository.
func Beside(image registry.Ref) registry.Ref {
	image.Tag += inlineSuffix
	return image
}

// Read implements Place: the union under the cache's tag, and the segments that are
// not in it yet. A segment that vanishes meanwhile is in the next union: then all is
// read again.
func (r *repository) Read(ctx context.Context, t Trust) (set *sharedcache.Set, err error) {
	const tries = 3
	for i := range tries {
		if set, err = r.readOnce(ctx, t, i == tries-1); !errors.Is(err, errSegment) {
			break
		}
	}
	if errors.Is(err, registry.ErrNotFound) && !errors.Is(err, errSegment) {
		err = fmt.Errorf("%w: %w", ErrNone, err)
	}
	return set, err
}

// errSegment is for a segment that was listed and is not there.
var errSegment = errors.New("a part of it vanished")

func (r *repository) readOnce(ctx context.Context, t Trust, last bool) (*sharedcache.Set, error) {
	var tags []string
	var terr error
	var listing sync.WaitGroup
	listing.Go(func() { tags, terr = r.client.Tags(ctx, r.ref) })
	set, err := r.readSet(ctx, t, r.ref.Tag)
	listing.Wait()
	// A union that somebody else wrote is passed over: parts of it may be signed.
	missing := errors.Is(err, registry.ErrNotFound) || errors.Is(err, ErrUntrusted)
	if err != nil && !missing {
		return nil, err
	}
	if terr != nil {
		if missing {
			return nil, terr
		}
		return set, nil // a registry that lists no tags: the union is all there is
	}
	segments := sharedcache.Segments(r.ref.Tag, tags)
	if missing && len(segments) == 0 {
		return nil, err
	}
	if missing {
		set = sharedcache.New()
	}
	nothing := missing
	for _, tag := range segments {
		if set.Includes(tag) {
			continue
		}
		one, err := r.readSet(ctx, t, tag)
		if errors.Is(err, ErrUntrusted) || errors.Is(err, sharedcache.ErrNoCache) || errors.Is(err, sharedcache.ErrBad) || last && errors.Is(err, registry.ErrNotFound) {
			continue // it spoils nothing but itself
		}
		if errors.Is(err, registry.ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", errSegment, err)
		}
		if err != nil {
			return nil, err
		}
		set.Merge(one)
		set.Include(tag)
		nothing = false
	}
	if nothing {
		return nil, err
	}
	return set, nil
}

func (r *repository) readSet(ctx context.Context, t Trust, tag string) (*sharedcache.Set, error) {
	b, signature, err := r.document(ctx, tag, sharedcache.Document)
	if err != nil {
		return nil, err
	}
	return t.decode(b, signature)
}

// document reads the document that pick finds in the manifest under tag, and its
// signature.
func (r *repository) document(ctx context.Context, tag string, pick func(*manifest.Manifest) (manifest.Descriptor, error)) (b []byte, signature string, err error) {
	b, err = r.client.Document(ctx, r.at(tag), func(m *manifest.Manifest) (manifest.Descriptor, error) {
		d, err := pick(m)
		signature = d.Annotations[signatureOfRecords]
		return d, err
	})
	return b, signature, err
}

func (r *repository) at(tag string) registry.Ref {
	ref := r.ref
	ref.Tag = tag
	return ref
}

// Add implements Place: it writes a segment, which is enough for nothing to be lost
// whoever else writes, and then the union.
func (r *repository) Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) error {
	segment, err := r.put(ctx, t, "", added)
	if err != nil {
		return err
	}
	// Others may have written since: the union is of what is there now.
	known, err := r.Read(ctx, t)
	if err != nil {
		return err
	}
	known.Lose(lost)
	known.Merge(added)
	known.Include(segment)
	known.Trim()
	_, err = r.put(ctx, t, r.ref.Tag, known)
	return err
}

// put stores a set under tag, or without one under that of a segment, which
// it returns. Blobs that the registry has lost are in it no more.
func (r *repository) put(ctx context.Context, t Trust, tag string, set *sharedcache.Set) (string, error) {
	tag, err := r.putWhole(ctx, t, tag, set)
	if !registry.IsIncomplete(err) {
		return tag, err
	}
	lost, herr := r.client.Lacks(ctx, r.ref, set.Blobs())
	if herr != nil || len(lost) == 0 {
		return tag, err
	}
	set.LoseBlobs(lost)
	return r.putWhole(ctx, t, tag, set)
}

func (r *repository) putWhole(ctx context.Context, t Trust, tag string, set *sharedcache.Set) (string, error) {
	b, compose, err := t.encode(set)
	if err != nil {
		return "", err
	}
	if tag == "" {
		tag = sharedcache.SegmentTag(r.ref.Tag, b)
	}
	return tag, r.client.PutArtifact(ctx, r.at(tag), b, compose)
}

// PutLayer implements Place.
func (r *repository) PutLayer(ctx context.Context, l registry.UploadLayer) (manifest.Descriptor, error) {
	return r.client.PutLayer(ctx, r.ref, l)
}

// Has implements Place.
func (r *repository) Has(ctx context.Context, d manifest.Descriptor) (bool, error) {
	return r.client.HasBlob(ctx, r.ref, d)
}

// Bytes implements Place.
func (r *repository) Bytes(ctx context.Context, d manifest.Descriptor) (b []byte, err error) {
	err = r.client.Fetch(ctx, r.ref, d, func(in io.Reader) (err error) {
		b, err = io.ReadAll(io.LimitReader(in, d.Size))
		return err
	})
	return b, err
}

// PutBeside implements Place.
func (r *repository) PutBeside(ctx context.Context, t Trust, name digest.Digest, document []byte, blobs []manifest.Descriptor) error {
	compose, err := t.signed(document, beside(blobs))
	if err != nil {
		return err
	}
	return r.client.PutArtifact(ctx, r.at(besideTag(r.ref.Tag, name)), document, compose)
}

// Beside implements Place.
func (r *repository) Beside(ctx context.Context, t Trust, name digest.Digest) ([]byte, error) {
	b, signature, err := r.document(ctx, besideTag(r.ref.Tag, name), documentBeside)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, err
	}
	return b, t.check(b, signature)
}
