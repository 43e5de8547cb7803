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
	// Read returns what the cache knows and t trusts, all that it knows for who has no key to
	// verify by; ErrNone if there is no cache yet, and ErrUntrusted if nothing in it is trusted.
	Read(ctx context.Context, t Trust) (*sharedcache.Set, error)
	// Add adds a set, all blobs of which are there, to the cache; the layers of lost have
	// no blobs there any more. What is signed by a key lies apart from what is by others, or by
	// none: nobody takes anything from who writes as somebody else.
	Add(ctx context.Context, t Trust, added *sharedcache.Set, lost map[digest.Digest]bool) error
	// PutLayer makes the cache have one layer's blob, and tells in which form.
	PutLayer(ctx context.Context, l registry.UploadLayer) (manifest.Descriptor, error)
	// Has says whether the cache has a blob, and Bytes reads one whole, checked.
	Has(ctx context.Context, d manifest.Descriptor) (bool, error)
	Bytes(ctx context.Context, d manifest.Descriptor) ([]byte, error)
	// PutBeside stores a document under a name beside the cache, in the place of what had
	// that name: the last who does so wins, of those who write as t does. All blobs that it goes
	// with are there, or it is ErrIncomplete.
	PutBeside(ctx context.Context, t Trust, name digest.Digest, document []byte, blobs []manifest.Descriptor) error
	// Beside reads it; ErrNone if there is none.
	Beside(ctx context.Context, t Trust, name digest.Digest) ([]byte, error)
}

var (
	// ErrNone is for a place where there is no cache yet.
	ErrNone = errors.New("is not there yet")
	// ErrDamaged is for a cache that cannot be used as it is there; who adds to it writes it anew.
	ErrDamaged = errors.New("is damaged")
	// ErrIncomplete is for a document that names blobs which are not there, or not any more.
	ErrIncomplete = errors.New("what it names is not there")
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

// reads is the tag of what t trusts; without a key that of what nobody signed.
func (t Trust) reads(tag string) string {
	if t.Verify == nil {
		return tag
	}
	return sharedcache.SignedTag(tag, t.Verify.ID())
}

// Writer is the trust of who adds to what it has written itself: with a key to sign under
// that key's tag, without one where nobody asks for signatures.
func (t Trust) Writer() Trust {
	if t.Sign == nil {
		return Trust{}
	}
	return Trust{Sign: t.Sign, Verify: t.Sign.Public()}
}

// check refuses a document that is not signed as it has to be.
func (t Trust) check(b []byte, signature string) error {
	if t.Verify != nil && !t.Verify.Verify(b, signature) {
		return ErrUntrusted
	}
	return nil
}

// decode reads the document of a set with its signature.
func (t Trust) decode(b []byte, signature string) (*sharedcache.Set, error) {
	if err := t.check(b, signature); err != nil {
		return nil, err
	}
	return sharedcache.Decode(b)
}

// encode writes the document of a set, and returns what makes the manifest of the
// artifact.
func (t Trust) encode(set *sharedcache.Set) ([]byte, composer, error) {
	b, err := set.Encode()
	if err != nil {
		return nil, nil, err
	}
	compose, err := t.signed(b, set.Manifest)
	return b, compose, err
}

// signed adds the signature of a document to the manifest that compose makes.
func (t Trust) signed(b []byte, compose composer) (composer, error) {
	if t.Sign == nil {
		return compose, nil
	}
	signature, err := t.Sign.Sign(b)
	if err != nil {
		return nil, err
	}
	return func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
		document.Annotations = map[string]string{signatureOfRecords: signature}
		return compose(config, document)
	}, nil
}

// Media types of what lies beside a cache.
const (
	besideType   = "application/vnd.whittle.cache.beside.v1"
	documentType = "application/vnd.whittle.cache.beside.document.v1+json"
)

// besideTag is the tag of what lies beside the cache under tag.
func besideTag(tag string, name digest.Digest) string { return tag + ".m-" + name.Hex()[:32] }

// beside makes the manifest of a document that lies beside a cache.
func beside(blobs []manifest.Descriptor) composer {
	return func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
		document.MediaType = documentType
		return manifest.NewArtifact(besideType, config, append([]manifest.Descriptor{document}, blobs...))
	}
}

// documentBeside finds the document in such a manifest.
func documentBeside(m *manifest.Manifest) (manifest.Descriptor, error) {
	if m == nil || len(m.Layers) == 0 || m.Layers[0].MediaType != documentType || m.Layers[0].Size > manifest.MaxSize {
		return manifest.Descriptor{}, sharedcache.ErrNoCache
	}
	return m.Layers[0], nil
}

// composer makes the manifest that names an empty config and a document.
type composer func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error)
