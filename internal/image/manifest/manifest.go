// Package manifest owns the documents that tie an image together: descriptors,
// manifests, indexes and platforms, in the OCI's and in Docker's media types.
//
// A document is read strictly: it is a manifest or an index, never something
// that another reader could take for the other, and every digest in it is a
// SHA-256. Documents are written as canonical bytes: the same input gives the
// same digest. Nothing here opens a file or a connection.
package manifest

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/whittle-build/whittle/internal/digest"
)

// Media types of documents.
const (
	OCIManifest    = v1.MediaTypeImageManifest
	OCIIndex       = v1.MediaTypeImageIndex
	OCIConfig      = v1.MediaTypeImageConfig
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Media types of layers.
const (
	OCILayer        = v1.MediaTypeImageLayer
	OCILayerGzip    = v1.MediaTypeImageLayerGzip
	OCILayerZstd    = v1.MediaTypeImageLayerZstd
	DockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerForeign   = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Names that layouts and indexes use.
const (
	LayoutFile    = v1.ImageLayoutFile
	LayoutVersion = v1.ImageLayoutVersion
	IndexFile     = v1.ImageIndexFile
	BlobsDir      = v1.ImageBlobsDir

	AnnotationRefName = v1.AnnotationRefName
	// AnnotationImageName carries the full name of an image in a layout, as
	// Docker and containerd write it.
	AnnotationImageName = "io.containerd.image.name"
)

// MaxSize bounds a manifest, an index and a config: what registries accept of
// them, four times over.
const MaxSize = 16 << 20

// MaxEntries bounds the layers of a manifest and the manifests of an index.
const MaxEntries = 4096

// Descriptor names a blob.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *Platform         `json:"platform,omitempty"`
}

// Bare is d without what somebody else said of it.
func (d Descriptor) Bare() Descriptor {
	return Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// Manifest is one image: its config and its layers, the lowest first.
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"` // of what is no image
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"` // what it is about
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Index is a list of manifests, one for each platform.
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []Descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Style chooses a family of media types.
type Style uint8

// The styles. OCI is the default.
const (
	OCI Style = iota
	Docker
)

// New makes the manifest of an image: its bytes and the descriptor that names
// them. Media types of config and layers are set to the style's own; zstd
// layers keep theirs, which Docker's family lacks.
func New(style Style, config Descriptor, layers []Descriptor, annotations map[string]string) ([]byte, Descriptor, error) {
	m := Manifest{SchemaVersion: 2, MediaType: OCIManifest, Config: config, Layers: make([]Descriptor, len(layers))}
	m.Config.MediaType = OCIConfig
	if style == Docker {
		m.MediaType, m.Config.MediaType = DockerManifest, DockerConfig
	} else {
		m.Annotations = annotations
	}
	for i, l := range layers {
		l.MediaType = styled(style, l.MediaType)
		m.Layers[i] = l
	}
	return encode(m, m.MediaType)
}

// NewArtifact makes the manifest of what is no image: its bytes and its
// descriptor. config is of the two bytes "{}", as the image-spec has it
// (manifest.md, "Guidance for an Empty Descriptor").
func NewArtifact(artifactType string, config Descriptor, layers []Descriptor) ([]byte, Descriptor, error) {
	config.MediaType = EmptyConfig
	return encode(Manifest{SchemaVersion: 2, MediaType: OCIManifest, ArtifactType: artifactType, Config: config, Layers: layers}, OCIManifest)
}

// EmptyConfig is the media type of the config of what has none: the two bytes "{}".
const EmptyConfig = v1.MediaTypeEmptyJSON

// About makes the manifest of documents: its bytes and its descriptor. artifactType
// is "" and subject nil for those that are found by a tag.
func About(artifactType string, config Descriptor, documents []Descriptor, subject *Descriptor) ([]byte, Descriptor, error) {
	return encode(Manifest{SchemaVersion: 2, MediaType: OCIManifest, ArtifactType: artifactType, Config: config, Layers: documents, Subject: subject}, OCIManifest)
}

// NewIndex makes an index of manifests: its bytes and its descriptor.
func NewIndex(style Style, manifests []Descriptor, annotations map[string]string) ([]byte, Descriptor, error) {
	x := Index{SchemaVersion: 2, MediaType: OCIIndex, Manifests: manifests, Annotations: annotations}
	if style == Docker {
		x.MediaType, x.Annotations = DockerIndex, nil
	}
	if x.Manifests == nil {
		x.Manifests = []Descriptor{}
	}
	return encode(x, x.MediaType)
}

func encode(doc any, mediaType string) ([]byte, Descriptor, error) {
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, Descriptor{}, err
	}
	return b, Descriptor{MediaType: mediaType, Digest: digest.Of(b), Size: int64(len(b))}, nil
}

// styled returns the media type of style for the same kind of layer.
func styled(style Style, mediaType string) string {
	for _, pair := range [][2]string{{OCILayer, DockerLayer}, {OCILayerGzip, DockerLayerGzip}} {
		if mediaType == pair[0] || mediaType == pair[1] {
			return pair[style]
		}
	}
	return mediaType
}

// IsIndex reports whether mediaType is that of an index.
func IsIndex(mediaType string) bool { return mediaType == OCIIndex || mediaType == DockerIndex }

// IsManifest reports whether mediaType is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == OCIManifest || mediaType == DockerManifest
}

// IsZstd reports whether mediaType is that of a layer compressed by zstd, for which
// Docker's family has no media type.
func IsZstd(mediaType string) bool { return strings.HasSuffix(mediaType, "zstd") }

// IsLayer reports whether mediaType is that of a file system layer that can
// be imported: a tar, compressed or not. Layers that are to be fetched from
// elsewhere count as layers; their place elsewhere is never asked.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case OCILayer, OCILayerGzip, OCILayerZstd, DockerLayer, DockerLayerGzip, dockerForeign,
		DockerLayer + ".zstd",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return true
	}
	return false
}

// Parsed is one document: exactly one of Manifest and Index is set.
type Parsed struct {
	Manifest   *Manifest
	Index      *Index
	Descriptor Descriptor // of the document itself
}

// Parse reads a manifest or an index. mediaType is what the carrier of the
// document (a descriptor, an HTTP header) says it is; it may be empty, and if
// the document says something else, it is refused.
func Parse(b []byte, mediaType string) (*Parsed, error) {
	keys, err := strict(b)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	kind, err := kindOf(keys, b, mediaType)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	p := &Parsed{Descriptor: Descriptor{MediaType: kind, Digest: digest.Of(b), Size: int64(len(b))}}
	if IsIndex(kind) {
		p.Index = &Index{}
		err = json.Unmarshal(b, p.Index)
	} else {
		p.Manifest = &Manifest{}
		err = json.Unmarshal(b, p.Manifest)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return p, nil
}

// kindOf decides what the document is and refuses one that is ambiguous
// (CVE-2021-41190): the OCI asks that a document with both "manifests" and
// "config" or "layers" be refused, and that a media type inside agree with
// the one outside.
func kindOf(keys map[string]bool, b []byte, outer string) (string, error) {
	var head struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return "", err
	}
	if head.SchemaVersion == 1 || keys["fsLayers"] {
		return "", fmt.Errorf("schema 1, a form that Docker gave up in 2019; push the image again with a newer tool")
	}
	if head.SchemaVersion != 2 {
		return "", fmt.Errorf("schemaVersion %d, want 2", head.SchemaVersion)
	}
	image := keys["config"] || keys["layers"]
	if image == keys["manifests"] {
		return "", fmt.Errorf("neither clearly an image nor clearly an index: config %t, layers %t, manifests %t",
			keys["config"], keys["layers"], keys["manifests"])
	}
	if known(outer) && head.MediaType != "" && outer != head.MediaType {
		return "", fmt.Errorf("says it is %q but was handed over as %q", head.MediaType, outer)
	}
	kind := head.MediaType
	if kind == "" {
		kind = outer
	}
	if !known(kind) {
		if head.MediaType != "" {
			return "", fmt.Errorf("media type %q is not one of a container image", head.MediaType)
		}
		// The OCI lets the media type be missing, and registries then say
		// application/json or nothing.
		kind = OCIManifest
		if !image {
			kind = OCIIndex
		}
	}
	if IsIndex(kind) == image {
		return "", fmt.Errorf("media type %q does not fit its content", kind)
	}
	return kind, nil
}

func known(mediaType string) bool { return IsIndex(mediaType) || IsManifest(mediaType) }

func (p *Parsed) check() error {
	if p.Index != nil {
		return checkAll("manifests", p.Index.Manifests)
	}
	if err := p.Manifest.Config.check(); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if p.Manifest.Config.Size > MaxSize {
		return fmt.Errorf("config: %d bytes, more than %d", p.Manifest.Config.Size, MaxSize)
	}
	return checkAll("layers", p.Manifest.Layers)
}

func checkAll(what string, ds []Descriptor) error {
	if len(ds) > MaxEntries {
		return fmt.Errorf("%d %s, more than %d", len(ds), what, MaxEntries)
	}
	for i, d := range ds {
		if err := d.check(); err != nil {
			return fmt.Errorf("%s[%d]: %w", what, i, err)
		}
	}
	return nil
}

func (d Descriptor) check() error {
	if d.Digest.IsZero() {
		return fmt.Errorf("no digest")
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d", d.Size)
	}
	return nil
}
