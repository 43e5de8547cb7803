// Package image owns images: their names, their documents in the store, what
// is shown of them (list, history, inspect), and the archives that carry them
// between tools: OCI layouts and Docker archives.
//
// An image is its config and its layers; its ID is the SHA-256 of the config's
// bytes, which are kept as they came. What comes in from an archive is checked
// before it becomes an image: names, sizes, digests and diffIDs.
//
// The package stores no layer and compresses nothing: layers pass through
// callbacks of the caller. It speaks to no registry.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Descriptor names a blob.
type Descriptor = manifest.Descriptor

// Platform is what an image runs on.
type Platform = manifest.Platform

// Layer is one layer of an image.
type Layer struct {
	ID     digest.Digest `json:"id"`     // of the layer in the store
	DiffID digest.Digest `json:"diffID"` // SHA-256 of its uncompressed tar
	Size   int64         `json:"size"`   // bytes of its files' content
	// Blob is a compressed form, if one is known, and Source the full name of an
	// image in whose repository it is.
	Blob   *Descriptor `json:"blob,omitempty"`
	Source string      `json:"source,omitempty"`
}

// Image is a config with its layers.
type Image struct {
	ID     digest.Digest
	Raw    []byte // the config's bytes, which ID is the digest of
	Config *config.Image
	Layers []Layer
	// Manifest is the digest of the manifest that the image was pulled by;
	// zero for an image that was made or loaded here.
	Manifest digest.Digest
	Created  time.Time // what the config says; zero if nothing
	Stored   time.Time // when it came into the store
	Source   string    // full name that it was pulled by, or how it came
	// Annotations are those of manifests that are written for it. The store keeps them
	// with names.
	Annotations map[string]string
}

// New makes an image from a config's bytes and its layers, the lowest first.
func New(raw []byte, layers []Layer) (*Image, error) {
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if len(cfg.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("image config: %d diffIDs for %d layers", len(cfg.DiffIDs), len(layers))
	}
	for i, l := range layers {
		if l.DiffID != cfg.DiffIDs[i] {
			return nil, fmt.Errorf("layer %d: diffID %s, the config says %s", i, l.DiffID, cfg.DiffIDs[i])
		}
	}
	m := &Image{ID: digest.Of(raw), Raw: raw, Config: cfg, Layers: layers}
	if cfg.Created != nil {
		m.Created = *cfg.Created
	}
	return m, nil
}

// FromConfig makes an image from a config that is written here, and names its layers
// in it; cfg itself stays as it is.
func FromConfig(cfg *config.Image, layers []Layer) (*Image, error) {
	of := *cfg
	of.DiffIDs = nil
	for _, l := range layers {
		of.DiffIDs = append(of.DiffIDs, l.DiffID)
	}
	raw, err := json.Marshal(&of)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return New(raw, layers)
}

func parseConfig(raw []byte) (*config.Image, error) {
	if len(raw) > manifest.MaxSize {
		return nil, fmt.Errorf("image config: %d bytes, more than %d", len(raw), manifest.MaxSize)
	}
	cfg, err := config.Parse(raw)
	if err != nil {
		return nil, err
	}
	for i, d := range cfg.DiffIDs {
		if d.IsZero() {
			return nil, fmt.Errorf("image config: diffID %d is empty", i)
		}
	}
	return cfg, nil
}

// Size returns the sum of the layers' sizes: what docker images shows.
func (m *Image) Size() int64 {
	var n int64
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

// Platform returns what the image runs on.
func (m *Image) Platform() Platform {
	c := m.Config
	return Platform{
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant,
		OSVersion: c.OSVersion, OSFeatures: c.OSFeatures,
	}
}

// document is an image as the store keeps it. Config is base64 so that its
// bytes stay what was hashed.
type document struct {
	Config   []byte        `json:"config"`
	Layers   []Layer       `json:"layers"`
	Manifest digest.Digest `json:"manifest,omitzero"`
	Stored   time.Time     `json:"stored"`
	Source   string        `json:"source,omitempty"`

	// Annotations are written no more: stores had them here before names had them.
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (m *Image) encode() ([]byte, error) {
	return json.Marshal(document{m.Raw, m.Layers, m.Manifest, m.Stored, m.Source, m.Annotations})
}

func decode(id digest.Digest, b []byte) (*Image, error) {
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("image %s: %w", id.Short(), err)
	}
	m, err := New(doc.Config, doc.Layers)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", id.Short(), err)
	}
	if m.ID != id {
		return nil, fmt.Errorf("image %s: its document holds %s", id.Short(), m.ID)
	}
	m.Manifest, m.Stored, m.Source = doc.Manifest, doc.Stored, doc.Source
	m.Annotations = doc.Annotations
	return m, nil
}

// ErrNotFound is the cause of errors about images and names that are not in
// the store.
var ErrNotFound = errors.New("no such image")

// Error is a mistake of whoever named or handed over something: it says what
// is wrong and, in its hint, the way out.
type Error struct {
	Msg string
	Way string
	Err error // cause, for errors.Is; may be nil
}

func (e *Error) Error() string { return e.Msg }

// Hint returns the way out; it may be empty.
func (e *Error) Hint() string { return e.Way }

func (e *Error) Unwrap() error { return e.Err }
