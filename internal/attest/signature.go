package attest

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

const (
	simpleSigning       = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	signatureArtifact   = "application/vnd.dev.cosign.artifact.sig.v1+json"
)

// Signature is one over a manifest.
type Signature struct {
	of    manifest.Descriptor
	layer Blob
	by    *PublicKey
}

// Signature signs the manifest of, which is in the repository called name.
func (k *Key) Signature(of manifest.Descriptor, name string) (*Signature, error) {
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": name},
			"image":    map[string]string{"docker-manifest-digest": of.Digest.String()},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	if err != nil {
		return nil, err
	}
	sig, err := k.Sign(payload)
	if err != nil {
		return nil, err
	}
	l := blob(simpleSigning, payload)
	l.Annotations = map[string]string{signatureAnnotation: sig}
	return &Signature{of: of.Bare(), layer: l, by: k.Public()}, nil
}

// Tag is the tag at which cosign looks for all signatures over the manifest.
func (s *Signature) Tag() string { return "sha256-" + s.of.Digest.Hex() + ".sig" }

// Beside returns the layers of all signatures when s comes to those that are there, in a
// manifest of signatures or, when that is nil, none. It replaces one by the same key; added
// says whether it was not there just so.
func (s *Signature) Beside(there *manifest.Parsed) (all []manifest.Descriptor, added bool, err error) {
	added = true
	if there == nil {
		return []manifest.Descriptor{s.layer.Descriptor}, added, nil
	}
	if there.Manifest == nil {
		return nil, false, fmt.Errorf("holds a %s, where signatures belong", there.Descriptor.MediaType)
	}
	for _, l := range there.Manifest.Layers {
		switch {
		case l.MediaType != simpleSigning:
			return nil, false, fmt.Errorf("holds a layer of %s, where signatures belong", l.MediaType)
		case l.Digest == s.layer.Digest && maps.Equal(l.Annotations, s.layer.Annotations):
			added = false
		case l.Digest == s.layer.Digest && s.by.Verify(s.layer.Data, l.Annotations[signatureAnnotation]):
			continue
		}
		all = append(all, l)
	}
	if added {
		all = append(all, s.layer.Descriptor)
	}
	return all, added, nil
}

// Tagged is the manifest of all signatures, as it lies under Tag.
func (s *Signature) Tagged(all []manifest.Descriptor) (Document, error) {
	return s.manifest(all, "", manifest.OCIConfig, nil)
}

// Referrer is the same with what is signed as its subject, so that registries list it there.
// cosign takes the last one of the list for all.
func (s *Signature) Referrer(all []manifest.Descriptor) (Document, error) {
	return s.manifest(all, signatureArtifact, signatureArtifact, &s.of)
}

// manifest has the config of an image of the signatures, as cosign expects one.
func (s *Signature) manifest(all []manifest.Descriptor, artifactType, configType string, subject *manifest.Descriptor) (Document, error) {
	type rootFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids"`
	}
	cfg := struct {
		Architecture string   `json:"architecture"`
		OS           string   `json:"os"`
		Config       struct{} `json:"config"`
		RootFS       rootFS   `json:"rootfs"`
	}{RootFS: rootFS{Type: "layers"}}
	for _, l := range all {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.Digest)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return Document{}, err
	}
	doc, err := compose(artifactType, blob(configType, b), all, subject)
	doc.Parts = append(doc.Parts, s.layer)
	return doc, err
}
