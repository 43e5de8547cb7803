package cachemount

import (
	"context"
	"fmt"

	"github.com/whittle-build/whittle/internal/abreast"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// A cache goes through a place that keeps documents and blobs as its manifest, which is
// the document, and the blobs that this names.

// Document is the manifest of a cache of an export.
func (s *Saved) Document() ([]byte, error) { return s.f.blob(s.s.desc, manifest.MaxSize) }

// Blobs are what the document names.
func (s *Saved) Blobs() []manifest.Descriptor {
	return append([]manifest.Descriptor{s.s.manifest.Config}, s.s.manifest.Layers...)
}

// Blob reads one of them, checked.
func (s *Saved) Blob(d manifest.Descriptor) ([]byte, error) { return s.f.blob(d, maxBlob) }

// maxBlob bounds a blob that is read whole: the tree is the largest.
const maxBlob = 256 << 20

// arriving is how many blobs are fetched at once.
const arriving = 4

// Receive makes dir, which is not there, an export of one cache: that of a document,
// with the blobs that fetch reads. It is checked as far as blobs go; OpenImport checks
// the rest.
func Receive(ctx context.Context, dir string, document []byte, fetch func(context.Context, manifest.Descriptor) ([]byte, error)) (err error) {
	m, err := parseManifest(document)
	if err != nil {
		return err
	}
	f, err := openFolder(ctx, dir, true)
	if err != nil {
		return err
	}
	defer f.close()
	desc, err := f.put(manifest.OCIManifest, document)
	if err != nil {
		return err
	}
	needed := map[digest.Digest]bool{desc.Digest: true}
	blobs := append([]manifest.Descriptor{m.Config}, m.Layers...)
	for _, d := range blobs {
		needed[d.Digest] = true
	}
	err = abreast.Each(ctx, blobs, arriving, func(ctx context.Context, d manifest.Descriptor) error { return f.receive(ctx, d, fetch) })
	if err != nil {
		return err
	}
	return f.commit([]manifest.Descriptor{desc}, needed)
}

func (f *folder) receive(ctx context.Context, d manifest.Descriptor, fetch func(context.Context, manifest.Descriptor) ([]byte, error)) error {
	if d.Size > maxBlob {
		return fmt.Errorf("blob %s: %d bytes, more than %d", d.Digest.Short(), d.Size, maxBlob)
	}
	b, err := fetch(ctx, d)
	if err != nil {
		return err
	}
	if got := digest.Of(b); got != d.Digest {
		return fmt.Errorf("blob %s: its content has the digest %s", d.Digest.Short(), got.Short())
	}
	_, err = f.put(d.MediaType, b)
	return err
}
