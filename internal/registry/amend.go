package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Documents are small blobs and the manifest that names them.
type Documents struct {
	Blobs      [][]byte
	Raw        []byte // of the manifest
	Descriptor manifest.Descriptor
}

// Change adds something to what a tag names, nil where that is nothing yet. It returns the
// whole that is to be there instead, or nil where nothing is to be added.
type Change func(raw []byte, there *manifest.Parsed) (*Documents, error)

// Amend changes what the tag of ref names. No registry lets one write on condition that
// nobody else did, so it looks again after writing, until what it adds is there.
func (c *Client) Amend(ctx context.Context, ref Ref, change Change) error {
	s, err := c.open(ctx, ref, transport.PushScope)
	if err != nil {
		return pushing(ref, err)
	}
	return explain(ref, s.amend(ctx, ref, change), s.auth.way())
}

const (
	// maxAmends is how often what was written may be lost to others.
	maxAmends = 20
	// settle is the least time that others have to write what they made of what was there before.
	settle = 20 * time.Millisecond
)

func (s *session) amend(ctx context.Context, ref Ref, change Change) error {
	for range maxAmends {
		began := time.Now()
		raw, there, err := s.there(ctx, ref)
		if err != nil {
			return err
		}
		docs, err := change(raw, there)
		if err != nil {
			return &fatalError{fmt.Errorf("the tag %s: %w", ref.Tag, err)}
		}
		if docs == nil {
			return nil
		}
		if _, err := s.putDocuments(ctx, ref, docs); err != nil {
			return err
		}
		// Whoever read before this was written writes within about the time that it took
		// here. Those who lose do not all come back at once.
		took := max(settle, 2*time.Since(began))
		t := time.NewTimer(took + rand.N(took))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
	return fatalf("the tag %s: others write it all the time", ref.Tag)
}

// there is what a tag names; nil where there is none.
func (s *session) there(ctx context.Context, ref Ref) ([]byte, *manifest.Parsed, error) {
	raw, p, err := s.manifest(ctx, ref.Tag, "", digest.Digest{})
	var status *transport.Error
	if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
		return nil, nil, nil
	}
	return raw, p, err
}

// putDocuments also returns the header of the registry's answer.
func (s *session) putDocuments(ctx context.Context, ref Ref, docs *Documents) (http.Header, error) {
	for _, b := range docs.Blobs {
		if err := s.putBytes(ctx, b); err != nil {
			return nil, err
		}
	}
	return s.putManifest(ctx, ref, docs.Raw, docs.Descriptor)
}

// refer makes the registry list the manifest in raw among those about its subject. A
// registry that does so by itself says so in header. Else the list is an index under a tag
// (distribution-spec 1.1, "Pushing Manifests with Subject").
func (s *session) refer(ctx context.Context, ref Ref, header http.Header, docs *Documents) error {
	var m manifest.Manifest
	if err := json.Unmarshal(docs.Raw, &m); err != nil || m.Subject == nil || header.Get("OCI-Subject") != "" {
		return err
	}
	add := referrer{Descriptor: docs.Descriptor.Bare(), ArtifactType: m.ArtifactType}
	if add.ArtifactType == "" {
		add.ArtifactType = m.Config.MediaType
	}
	add.Annotations = m.Annotations
	ref.Tag = referrersTag(m.Subject.Digest)
	return s.amend(ctx, ref, add.to)
}

// referrersTag is the tag of the list of manifests about d.
func referrersTag(d digest.Digest) string { return "sha256-" + d.Hex() }

// referrer is a manifest as it stands in a list of those about the same subject.
type referrer struct {
	manifest.Descriptor
	ArtifactType string `json:"artifactType"`
}

// to adds r to a list. What others wrote there stays as it is, whatever it says.
func (r referrer) to(raw []byte, there *manifest.Parsed) (*Documents, error) {
	whole := map[string]json.RawMessage{"schemaVersion": json.RawMessage("2"), "mediaType": json.RawMessage(`"` + manifest.OCIIndex + `"`)}
	var list []json.RawMessage
	if there != nil {
		if there.Index == nil {
			return nil, fmt.Errorf("holds a %s, where the list belongs of what refers to an image", there.Descriptor.MediaType)
		}
		for _, d := range there.Index.Manifests {
			if d.Digest == r.Digest {
				return nil, nil
			}
		}
		if len(there.Index.Manifests) >= manifest.MaxEntries {
			return nil, fmt.Errorf("%d manifests refer to the image, and no more fit: delete the tag", manifest.MaxEntries)
		}
		var index struct {
			Manifests []json.RawMessage `json:"manifests"`
		}
		if err := errors.Join(json.Unmarshal(raw, &whole), json.Unmarshal(raw, &index)); err != nil {
			return nil, err
		}
		list = index.Manifests
	}
	one, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if whole["manifests"], err = json.Marshal(append(list, one)); err != nil {
		return nil, err
	}
	b, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	return &Documents{Raw: b, Descriptor: manifest.Descriptor{MediaType: manifest.OCIIndex, Digest: digest.Of(b), Size: int64(len(b))}}, nil
}
