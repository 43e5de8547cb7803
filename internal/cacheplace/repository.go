package cacheplace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/whittle-build/whittle/internal/abreast"
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

// Read implements Place: the union, and the segments that are not in it yet. Who trusts
// all reads what was signed as well. A segment that vanishes meanwhile is in the next
// union: then all is read again.
func (r *repository) Read(ctx context.Context, t Trust) (set *sharedcache.Set, err error) {
	return r.read(ctx, t, t.Verify == nil)
}

// read is Read; signed says whether to read under the tags of all keys too.
func (r *repository) read(ctx context.Context, t Trust, signed bool) (set *sharedcache.Set, err error) {
	const tries = 3
	for i := range tries {
		if set, err = r.readOnce(ctx, t, signed, i == tries-1); !errors.Is(err, errSegment) {
			break
		}
	}
	switch {
	case err == nil, errors.Is(err, errSegment), errors.Is(err, sharedcache.ErrNoCache), errors.Is(err, ErrUntrusted), !Lasting(ctx, err):
	case errors.Is(err, registry.ErrNotFound):
		err = fmt.Errorf("%w: %w", ErrNone, err)
	default:
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return set, err
}

// errSegment is for a segment that was listed and is not there.
var errSegment = errors.New("a part of it vanished")

// Lasting says of an error that it is about what is there, and not about the way to it:
// what is no cache, is damaged or not trusted spoils nothing but itself.
func Lasting(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, registry.ErrUnreachable) && !errors.Is(err, registry.ErrDenied) && !registry.IsServer(err)
}

func (r *repository) readOnce(ctx context.Context, t Trust, signed, last bool) (*sharedcache.Set, error) {
	var tags []string
	var terr error
	var listing sync.WaitGroup
	listing.Go(func() { tags, terr = r.client.Tags(ctx, r.ref) })
	main := t.reads(r.ref.Tag)
	set, err := r.readSet(ctx, t, main)
	listing.Wait()
	switch {
	case err != nil && !Lasting(ctx, err):
		return nil, err
	case terr != nil && err != nil:
		return nil, terr
	case terr != nil:
		return set, nil // a registry that lists no tags: the union is all there is
	}
	found := err == nil
	if !found {
		set = sharedcache.New()
	}
	unions := []string{main}
	if signed {
		unions = append(unions, sharedcache.SignedTags(r.ref.Tag, tags)...)
	}
	more, serr := r.readMore(ctx, t, unions, tags, set)
	for tag, one := range more {
		if one == nil {
			if last || slices.Contains(unions, tag) {
				continue
			}
			return nil, errSegment
		}
		set.Merge(one)
		if found = true; !slices.Contains(unions, tag) {
			set.Include(tag)
		}
	}
	if serr != nil {
		return nil, serr
	}
	if !found {
		return nil, err
	}
	return set, nil
}

// readMore reads the further unions, and of all the segments that set does not include,
// side by side. One that is not there any more is nil; what cannot be used is left out.
func (r *repository) readMore(ctx context.Context, t Trust, unions, tags []string, set *sharedcache.Set) (map[string]*sharedcache.Set, error) {
	todo := slices.Clone(unions[1:])
	for _, u := range unions {
		for _, tag := range sharedcache.Segments(u, tags) {
			if !set.Includes(tag) {
				todo = append(todo, tag)
			}
		}
	}
	const atOnce = 8
	var mu sync.Mutex
	found := map[string]*sharedcache.Set{}
	err := abreast.Each(ctx, todo, atOnce, func(ctx context.Context, tag string) error {
		one, err := r.readSet(ctx, t, tag)
		if err != nil && !Lasting(ctx, err) {
			return err
		}
		if err == nil || errors.Is(err, registry.ErrNotFound) {
			mu.Lock()
			defer mu.Unlock()
			found[tag] = one
		}
		return nil
	})
	return found, err
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
// whoever else writes, and then the union of what those write who write as t does.
func (r *repository) Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) error {
	t = t.Writer()
	tag := t.reads(r.ref.Tag)
	if _, err := r.readSet(ctx, t, tag); errors.Is(err, sharedcache.ErrNoCache) && tag == r.ref.Tag {
		return err // an image is not written over
	}
	segment, err := r.put(ctx, t, tag, "", added)
	if err != nil {
		return err
	}
	// Others may have written since: the union is of what is there now.
	known, err := r.read(ctx, t, false)
	if errors.Is(err, ErrDamaged) {
		known, err = sharedcache.New(), nil
	}
	if err != nil {
		return err
	}
	known.Lose(lost)
	known.Merge(added)
	known.Include(segment)
	known.Trim()
	_, err = r.put(ctx, t, tag, tag, known)
	return err
}

// put stores a set under tag, or without one under that of a segment of cache, which
// it returns. Blobs that the registry has lost are in it no more.
func (r *repository) put(ctx context.Context, t Trust, cache, tag string, set *sharedcache.Set) (string, error) {
	at, err := r.putWhole(ctx, t, cache, tag, set)
	if !registry.IsIncomplete(err) {
		return at, err
	}
	lost, herr := r.client.Lacks(ctx, r.ref, set.Blobs())
	if herr != nil || len(lost) == 0 {
		return at, err
	}
	set.LoseBlobs(lost)
	return r.putWhole(ctx, t, cache, tag, set)
}

func (r *repository) putWhole(ctx context.Context, t Trust, cache, tag string, set *sharedcache.Set) (string, error) {
	b, compose, err := t.encode(set)
	if err != nil {
		return "", err
	}
	if tag == "" {
		tag = sharedcache.SegmentTag(cache, b)
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
	t = t.Writer()
	compose, err := t.signed(document, beside(blobs))
	if err != nil {
		return err
	}
	err = r.client.PutArtifact(ctx, r.at(besideTag(t.reads(r.ref.Tag), name)), document, compose)
	if registry.IsIncomplete(err) {
		err = fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	return err
}

// Beside implements Place.
func (r *repository) Beside(ctx context.Context, t Trust, name digest.Digest) ([]byte, error) {
	b, signature, err := r.document(ctx, besideTag(t.reads(r.ref.Tag), name), documentBeside)
	if err == nil {
		return b, t.check(b, signature)
	}
	if t.Verify == nil && Lasting(ctx, err) {
		tags, terr := r.client.Tags(ctx, r.ref)
		if terr != nil {
			return nil, terr
		}
		for _, tag := range sharedcache.SignedTags(r.ref.Tag, tags) {
			if b, _, err := r.document(ctx, besideTag(tag, name), documentBeside); err == nil {
				return b, nil
			}
		}
	}
	if errors.Is(err, registry.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNone, err)
	}
	return nil, err
}
