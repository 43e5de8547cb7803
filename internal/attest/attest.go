// Package attest owns what is said of an image beside it: how it was made
// (SLSA provenance), what is in it (SPDX), and signatures over its digest.
//
// Statements are documents of the in-toto attestation framework, in a manifest of
// their own that stands in the image's index, as BuildKit writes and reads it
// (docs/attestations/attestation-storage.md there). Signatures are cosign's simple signing.
//
// It is pure data: nothing here is fetched, sent or stored.
package attest

import (
	"encoding/json"
	"fmt"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Predicate types.
const (
	ProvenanceType = "https://slsa.dev/provenance/v1"
	SPDXType       = "https://spdx.dev/Document"
)

const (
	statementType  = "https://in-toto.io/Statement/v0.1"
	statementMedia = "application/vnd.in-toto+json"

	predicateAnnotation = "in-toto.io/predicate-type"
	referenceType       = "vnd.docker.reference.type"
	referenceDigest     = "vnd.docker.reference.digest"
)

// Statement is a claim about images, of one predicate type.
type Statement struct {
	Type      string    `json:"_type"`
	Predicate string    `json:"predicateType"`
	Subject   []Subject `json:"subject"`
	Claim     any       `json:"predicate"`
}

// Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// About makes a statement about the manifest d, which has these names; without one it
// is called "_".
func About(d digest.Digest, names []string, predicateType string, claim any) Statement {
	s := Statement{Type: statementType, Predicate: predicateType, Claim: claim}
	if len(names) == 0 {
		names = []string{"_"}
	}
	for _, n := range names {
		s.Subject = append(s.Subject, Subject{n, map[string]string{"sha256": d.Hex()}})
	}
	return s
}

// Blob is a small document, with the descriptor that names it.
type Blob struct {
	manifest.Descriptor
	Data []byte
}

func blob(mediaType string, data []byte) Blob {
	return Blob{manifest.Descriptor{MediaType: mediaType, Digest: digest.Of(data), Size: int64(len(data))}, data}
}

// Document is a manifest with what it names, the config first; without what is where it goes
// already.
type Document struct {
	Blob
	Parts []Blob
}

// attestationArtifact is what BuildKit calls such a manifest.
const attestationArtifact = "application/vnd.docker.attestation.manifest.v1+json"

// Attestation is the manifest of statements about the image manifest of, which is its
// subject. Its descriptor is as it stands in the index beside that one.
func Attestation(of manifest.Descriptor, statements []Statement) (Document, error) {
	var layers []Blob
	for _, s := range statements {
		b, err := json.Marshal(s)
		if err != nil {
			return Document{}, fmt.Errorf("attestation %s: %w", s.Predicate, err)
		}
		l := blob(statementMedia, b)
		l.Annotations = map[string]string{predicateAnnotation: s.Predicate}
		layers = append(layers, l)
	}
	subject := of.Bare()
	doc, err := compose(attestationArtifact, blob(manifest.EmptyConfig, []byte("{}")), descriptors(layers), &subject)
	if err != nil {
		return doc, err
	}
	doc.Parts = append(doc.Parts, layers...)
	doc.Platform = &manifest.Platform{OS: "unknown", Architecture: "unknown"}
	doc.Annotations = map[string]string{referenceType: "attestation-manifest", referenceDigest: of.Digest.String()}
	return doc, nil
}

func descriptors(blobs []Blob) (list []manifest.Descriptor) {
	for _, b := range blobs {
		list = append(list, b.Descriptor)
	}
	return list
}

// compose makes a manifest of documents. Its one part is the config.
func compose(artifactType string, config Blob, documents []manifest.Descriptor, subject *manifest.Descriptor) (Document, error) {
	raw, d, err := manifest.About(artifactType, config.Descriptor, documents, subject)
	return Document{Blob{d, raw}, []Blob{config}}, err
}
