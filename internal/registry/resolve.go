package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/nearest"
)

// Remote is an image in a registry, for one platform.
type Remote struct {
	Ref      Ref
	Index    *manifest.Descriptor // the index that it was picked from, if any
	Manifest manifest.Descriptor
	Raw      []byte // the manifest's bytes
	Config   []byte // the config's bytes; their SHA-256 is the image's ID
	Layers   []Layer
	Platform manifest.Platform // what the config says
}

// Layer is one layer of a remote image.
type Layer struct {
	manifest.Descriptor
	DiffID digest.Digest
}

const acceptManifests = manifest.OCIIndex + ", " + manifest.DockerIndex + ", " + manifest.OCIManifest + ", " + manifest.DockerManifest

// Resolve finds the image that ref names, for the platform: the same variant,
// else a lower one that the platform runs. It reads the manifest and the
// config and no layer.
func (c *Client) Resolve(ctx context.Context, ref Ref, platform manifest.Platform) (*Remote, error) {
	var r *Remote
	err := c.pulling(ctx, ref, func(ctx context.Context, s *session, at Ref) (err error) {
		if r, err = s.resolve(ctx, at, platform); err == nil || at != ref {
			return err
		}
		return s.suggest(ctx, explain(ref, err, s.auth.way()))
	})
	if err != nil {
		return nil, err
	}
	r.Ref = ref
	return r, nil
}

func (s *session) resolve(ctx context.Context, ref Ref, platform manifest.Platform) (*Remote, error) {
	raw, p, err := s.manifest(ctx, ref.identifier(), "", ref.Digest)
	if err != nil {
		return nil, err
	}
	r := &Remote{Ref: ref}
	for range maxNesting {
		if p.Index == nil {
			break
		}
		if r.Index == nil {
			index := p.Descriptor
			r.Index = &index
		}
		if raw, p, err = s.picked(ctx, p.Index, platform); err != nil {
			return nil, err
		}
	}
	if p.Manifest == nil {
		return nil, fmt.Errorf("an index within an index within an index")
	}
	r.Raw, r.Manifest = raw, p.Descriptor
	return r, s.config(ctx, r, p.Manifest)
}

// maxNesting is how many indexes may be one in another.
const maxNesting = 2

// picked gets what an index has for a platform.
func (s *session) picked(ctx context.Context, index *manifest.Index, platform manifest.Platform) ([]byte, *manifest.Parsed, error) {
	d, err := index.Pick(platform)
	if err != nil {
		return nil, nil, err
	}
	raw, p, err := s.manifest(ctx, d.Digest.String(), d.MediaType, d.Digest)
	if err != nil {
		return nil, nil, err
	}
	return raw, p, d.Bytes(raw)
}

// manifest gets a manifest or an index. want, unless zero, is the digest that
// it must have; outer is the media type that its descriptor said.
func (s *session) manifest(ctx context.Context, id, outer string, want digest.Digest) ([]byte, *manifest.Parsed, error) {
	b, header, err := s.document(ctx, s.url("manifests/"+id), acceptManifests, manifest.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	if got := digest.Of(b); !want.IsZero() && got != want {
		return nil, nil, fmt.Errorf("the registry sent a manifest with the digest %s for %s", got, want)
	}
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	mediaType = strings.TrimSpace(mediaType)
	if outer != "" {
		mediaType = outer
	}
	p, err := manifest.Parse(b, mediaType)
	return b, p, err
}

// config reads the config of an image and ties layers to diffIDs.
func (s *session) config(ctx context.Context, r *Remote, m *manifest.Manifest) error {
	b, _, err := s.document(ctx, s.url("blobs/"+m.Config.Digest.String()), "", m.Config.Size)
	if err != nil {
		return fmt.Errorf("config: %w", lacking(err))
	}
	if err := m.Config.Bytes(b); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	for i, l := range m.Layers {
		if !manifest.IsLayer(l.MediaType) {
			return fmt.Errorf("layer %d has the media type %q: it is not a container image", i, l.MediaType)
		}
	}
	cfg, err := config.Parse(b)
	if err != nil {
		return err
	}
	if len(cfg.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%d layers, the config has %d diffIDs", len(m.Layers), len(cfg.DiffIDs))
	}
	r.Config = b
	r.Platform = manifest.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant, OSVersion: cfg.OSVersion}
	for i, l := range m.Layers {
		if cfg.DiffIDs[i].IsZero() {
			return fmt.Errorf("config: diffID %d is empty", i)
		}
		r.Layers = append(r.Layers, Layer{l, cfg.DiffIDs[i]})
	}
	return nil
}

// suggest adds to "not found" what the registry has instead: other tags, or
// other repositories, if it tells.
func (s *session) suggest(ctx context.Context, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Cause != ErrNotFound {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Second, errors.New("no answer in time"))
	defer cancel()
	var list struct {
		Tags         []string `json:"tags"`
		Repositories []string `json:"repositories"`
	}
	what, have, want := "the tag", &list.Tags, s.ref.identifier()
	address := s.url("tags/list?n=1000")
	if !s.list(ctx, address, &list) || len(list.Tags) == 0 {
		if s.ref.Domain == hubDomain {
			return err // it tells nobody what it has
		}
		what, have, want = "the repository", &list.Repositories, s.ref.Path
		if !s.list(ctx, s.scheme+"://"+s.host+"/v2/_catalog?n=1000", &list) {
			return err
		}
	}
	if near := similar(want, *have); len(near) > 0 {
		e.Way = fmt.Sprintf("did you mean %s %s?", what, strings.Join(near, " or "))
	}
	return e
}

func (s *session) list(ctx context.Context, address string, into any) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false
	}
	resp, err := s.do(req, http.StatusOK)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, manifest.MaxSize)).Decode(into) == nil
}

var nameForm = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$`)

// maxOptions bounds the names that are compared: a page of a registry's list.
const maxOptions = 1000

// similar returns up to three of have, those most like want first. Names from
// a registry end on a terminal: only those that can be names.
func similar(want string, have []string) []string {
	type option struct {
		name string
		dist int
	}
	var near []option
	for _, s := range have[:min(maxOptions, len(have))] {
		if nameForm.MatchString(s) {
			near = append(near, option{s, nearest.Distance(want, s)})
		}
	}
	sort.Slice(near, func(i, k int) bool {
		return cmp.Or(near[i].dist-near[k].dist, strings.Compare(near[i].name, near[k].name)) < 0
	})
	var out []string
	for _, o := range near[:min(3, len(near))] {
		out = append(out, o.name)
	}
	return out
}
