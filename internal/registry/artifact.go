package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/abreast"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Document reads a manifest that is no index, and the one blob of its layers
// that pick chooses, whole: small documents that somebody stored beside images.
func (c *Client) Document(ctx context.Context, ref Ref, pick func(*manifest.Manifest) (manifest.Descriptor, error)) ([]byte, error) {
	s, err := c.open(ctx, ref, transport.PullScope)
	if err != nil {
		return nil, err
	}
	b, err := s.pick(ctx, ref, pick)
	return b, explain(ref, err, s.auth.way())
}

func (s *session) pick(ctx context.Context, ref Ref, pick func(*manifest.Manifest) (manifest.Descriptor, error)) ([]byte, error) {
	_, p, err := s.manifest(ctx, ref.identifier(), "", ref.Digest)
	if err != nil {
		return nil, err
	}
	d, err := pick(p.Manifest)
	if err != nil {
		return nil, &fatalError{err}
	}
	b, _, err := s.document(ctx, s.url("blobs/"+d.Digest.String()), "", d.Size)
	if err != nil {
		return nil, lacking(err)
	}
	return b, d.Bytes(b)
}

// maxPages bounds how often a list of tags is asked to go on.
const maxPages = 1000

// Tags lists the tags of a repository; none where it is not there.
func (c *Client) Tags(ctx context.Context, ref Ref) ([]string, error) {
	s, err := c.open(ctx, ref, transport.PullScope)
	if err != nil {
		return nil, err
	}
	tags, err := s.tags(ctx)
	return tags, explain(ref, err, s.auth.way())
}

func (s *session) tags(ctx context.Context) ([]string, error) {
	var tags []string
	next := s.url("tags/list?n=1000")
	for range maxPages {
		b, header, err := s.document(ctx, next, "", manifest.MaxSize)
		var status *transport.Error
		if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return nil, fmt.Errorf("list of tags: %w", err)
		}
		tags = append(tags, page.Tags...)
		if next, err = s.nextPage(next, header); err != nil || next == "" {
			return tags, err
		}
	}
	return nil, fmt.Errorf("list of tags: does not end")
}

// nextPage reads the address of a list's next page out of its Link header
// (RFC 8288), as the distribution-spec has it. It is on the same registry.
func (s *session) nextPage(from string, header http.Header) (string, error) {
	link, rest, ok := strings.Cut(strings.TrimPrefix(header.Get("Link"), "<"), ">")
	if !ok || !strings.Contains(rest, "next") {
		return "", nil
	}
	base, err := url.Parse(from)
	if err != nil {
		return "", err
	}
	to, err := base.Parse(link)
	if err != nil {
		return "", fmt.Errorf("list of tags: next page: %w", err)
	}
	if to.Host != base.Host || to.Scheme != base.Scheme {
		return "", fatalf("list of tags: its next page is on %s", to.Host)
	}
	return to.String(), nil
}

// IsIncomplete says whether err is a registry's refusal of a manifest that names
// blobs which it has not, or no longer.
func IsIncomplete(err error) bool {
	var status *transport.Error
	if !errors.As(err, &status) {
		return false
	}
	return slices.ContainsFunc(status.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.ManifestBlobUnknownErrorCode || d.Code == transport.BlobUnknownErrorCode
	})
}

// IsServer says whether err is about a server that cannot answer now.
func IsServer(err error) bool {
	var status *transport.Error
	return errors.As(err, &status) && (status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests)
}

// HasBlob says whether a repository has a blob.
func (c *Client) HasBlob(ctx context.Context, ref Ref, d manifest.Descriptor) (bool, error) {
	s, err := c.open(ctx, ref, transport.PullScope)
	if err != nil {
		return false, err
	}
	has, err := s.hasBlob(ctx, d)
	return has, explain(ref, err, s.auth.way())
}

// Lacks tells which of some blobs a repository has not.
func (c *Client) Lacks(ctx context.Context, ref Ref, blobs []manifest.Descriptor) (map[digest.Digest]bool, error) {
	lacks := map[digest.Digest]bool{}
	var mu sync.Mutex
	err := abreast.Each(ctx, blobs, c.jobs(), func(ctx context.Context, d manifest.Descriptor) error {
		has, err := c.HasBlob(ctx, ref, d)
		if err == nil && !has {
			mu.Lock()
			defer mu.Unlock()
			lacks[d.Digest] = true
		}
		return err
	})
	return lacks, err
}

// PutLayer makes a repository have one layer's blob, and tells in which form.
func (c *Client) PutLayer(ctx context.Context, ref Ref, l UploadLayer) (manifest.Descriptor, error) {
	up := Upload{Ref: ref, Layers: []UploadLayer{l}}
	s, err := c.open(ctx, ref, transport.PushScope, lenders(up)...)
	if err != nil {
		return manifest.Descriptor{}, pushing(ref, err)
	}
	d, err := s.putLayer(ctx, l)
	return d, explain(ref, err, s.auth.way())
}

// PutArtifact stores a document under a tag, with the manifest that compose makes
// of it and of the empty config. All else that the manifest names is there.
func (c *Client) PutArtifact(ctx context.Context, ref Ref, document []byte, compose func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error)) error {
	s, err := c.open(ctx, ref, transport.PushScope)
	if err != nil {
		return pushing(ref, err)
	}
	return explain(ref, s.putArtifact(ctx, ref, document, compose), s.auth.way())
}

func (s *session) putArtifact(ctx context.Context, ref Ref, document []byte, compose func(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error)) error {
	var blobs [2]manifest.Descriptor
	for i, b := range [][]byte{[]byte("{}"), document} {
		blobs[i] = manifest.Descriptor{Digest: digest.Of(b), Size: int64(len(b))}
		if err := s.putBytes(ctx, b); err != nil {
			return err
		}
	}
	raw, d, err := compose(blobs[0], blobs[1])
	if err != nil {
		return err
	}
	_, err = s.putManifest(ctx, ref, raw, d)
	return err
}

// PutDocuments stores documents, their manifest under the tag of ref, or where that has
// none by its digest alone. One that has a subject is then listed among what refers to it.
func (c *Client) PutDocuments(ctx context.Context, ref Ref, docs *Documents) error {
	s, err := c.open(ctx, ref, transport.PushScope)
	if err != nil {
		return pushing(ref, err)
	}
	header, err := s.putDocuments(ctx, ref, docs)
	if err == nil {
		err = s.refer(ctx, ref, header, docs)
	}
	return explain(ref, err, s.auth.way())
}

func (s *session) putBytes(ctx context.Context, b []byte) error {
	d := manifest.Descriptor{Digest: digest.Of(b), Size: int64(len(b))}
	return s.putBlob(ctx, d, UploadLayer{Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
}
