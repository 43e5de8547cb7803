// Package cacheplace owns the places where shared caches lie: repositories of
// registries, and folders. It reads the sets that sharedcache knows from there, adds to
// them so that whoever writes at the same time loses nothing, and holds them against a
// key. What is in a set it does not ask.
package cacheplace

import (
	"context"
	"errors"

	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// Place is where one cache lies. Places may be used by several goroutines, and any number
// of processes may write to one.
type Place interface {
	// Read returns what the cache knows and t trusts; ErrNone if there is no cache yet, and
	// ErrUntrusted if nothing in it is trusted.
	Read(ctx context.Context, t Trust) (*sharedcache.Set, error)
	// Add adds a set, all blobs of which are there, to the cache; the layers of lost have
	// no blobs there any more.
	Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) error
	// PutLayer makes the cache have one layer's blob, and tells in which form.
	PutLayer(ctx context.Context, l registry.UploadLayer) (manifest.Descriptor, error)
	// Has says whether the cache has a blob.
	Has(ctx context.Context, d manifest.Descriptor) (bool, error)
}

var (
	// ErrNone is for a place where there is no cache yet.
	ErrNone = errors.New("is not there yet")
	// ErrUntrusted is for records that are not signed by the key that was asked for.
	ErrUntrusted = errors.New("its records are not signed by the key of --cache-verify-key")
)

// Trust says which records count, and under which key new ones go.
type Trust struct {
	Sign   *attest.Key
	Verify *attest.PublicKey // nil: all count
}

// signatureOfRecords is the annotation with the signature over a document of records.
const signatureOfRecords = "io.github.whittle-build.signature"

// decode reads a document with its signature.
func (t Trust) decode(b []byte, signature string) (*sharedcache.Set, error) {
	if t.Verify != nil && !t.Verify.Verify(b, signature) {
		return nil, ErrUntrusted
	}
	return sharedcache.Decode(b)
}

// encode writes the document of a set, and returns what makes the manifest of the
// artifact, signature included.
func (t Trust) encode(set *sharedcache.Set) ([]byte, composer, error) {
	b, err := set.Encode()
	if err != nil {
		return nil, nil, err
	}
	signature := ""
	if t.Sign != nil {
		if signature, err = t.Sign.Sign(b); err != nil {
			return nil, nil, err
		}
	}
	return b, func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
		if signature != "" {
			document.Annotations = map[string]string{signatureOfRecords: signature}
		}
		return set.Manifest(config, document)
	}, nil
}

// composer makes the manifest that names an empty config and a document.
type composer func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error)
