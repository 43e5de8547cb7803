package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/abreast"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Upload is an image to push.
type Upload struct {
	Ref    Ref
	Config []byte
	Layers []UploadLayer
	// Manifest makes the manifest when all layers' descriptors are known: its
	// bytes and its own descriptor.
	Manifest func(config manifest.Descriptor, layers []manifest.Descriptor) ([]byte, manifest.Descriptor, error)
}

// UploadLayer is one layer to push.
type UploadLayer struct {
	// Known, if set, is a compressed form that need not be here: the one that
	// the layer was pulled by. If the registry has it, or another of its
	// repositories lends it, Blob is not called.
	Known *manifest.Descriptor
	// Blob makes sure that the compressed form exists and describes it. It is
	// called for several layers at once. If it has to make the form, and see is
	// not nil, it may call see, once, with a reader of what is there so far, which
	// then goes to the registry at once; see closes it.
	Blob func(ctx context.Context, see func(io.ReadCloser)) (manifest.Descriptor, error)
	// Open opens that form. It is not called for a blob that the registry has.
	Open func() (io.ReadCloser, error)
	// From are references whose repositories may have the blob. Those on the
	// same registry are asked to lend it.
	From []Ref
}

// Push uploads an image, blobs first, several at once, and returns the
// descriptor of its manifest. Nothing that the registry has is sent.
func (c *Client) Push(ctx context.Context, up Upload) (manifest.Descriptor, error) {
	s, err := c.open(ctx, up.Ref, transport.PushScope, lenders(up)...)
	if err != nil {
		return manifest.Descriptor{}, pushing(up.Ref, err)
	}
	d, err := s.push(ctx, up)
	return d, pushing(up.Ref, explain(up.Ref, err, s.auth.way()))
}

// PutManifest stores a manifest or an index, of which all that it names is there, under
// the tag of ref, or where that has none by its digest alone.
func (c *Client) PutManifest(ctx context.Context, ref Ref, raw []byte, d manifest.Descriptor) error {
	s, err := c.open(ctx, ref, transport.PushScope)
	if err != nil {
		return pushing(ref, err)
	}
	_, err = s.putManifest(ctx, ref, raw, d)
	return explain(ref, err, s.auth.way())
}

// pushing gives an unreachable registry the way out of a push.
func pushing(ref Ref, err error) error {
	var e *Error
	switch {
	case !errors.As(err, &e):
	case e.Cause == ErrNotFound:
		e.Msg, e.Way = "registry "+ref.Domain+" has no place for it", "does the repository have to be made there first, or is the name another one?"
	case e.Cause == ErrDenied:
		e.Msg = "registry " + ref.Domain + " does not let it be written"
	case e.Cause == ErrUnreachable:
		e.Way = fmt.Sprintf("the image goes to the registry in its name, %s: for another one, give it a name there first (whittle tag); "+
			"without a registry, whittle save writes an archive", ref.Domain)
	}
	return err
}

// lenders lists the repositories on the registry of up that may lend blobs.
func lenders(up Upload) []string {
	var out []string
	for _, l := range up.Layers {
		for _, from := range l.From {
			if from.Domain == up.Ref.Domain && from.Path != up.Ref.Path {
				out = append(out, from.Path)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *session) push(ctx context.Context, up Upload) (manifest.Descriptor, error) {
	layers := make([]manifest.Descriptor, len(up.Layers))
	order := make([]int, len(up.Layers))
	for i := range order {
		order[i] = i
	}
	err := abreast.Each(ctx, order, s.c.jobs(), func(ctx context.Context, i int) (err error) {
		if layers[i], err = s.putLayer(ctx, up.Layers[i]); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		return nil
	})
	if err != nil {
		return manifest.Descriptor{}, err
	}
	cfg := manifest.Descriptor{Digest: digest.Of(up.Config), Size: int64(len(up.Config))}
	err = s.putBlob(ctx, cfg, UploadLayer{Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(up.Config)), nil
	}})
	if err != nil {
		return manifest.Descriptor{}, fmt.Errorf("config: %w", err)
	}
	raw, d, err := up.Manifest(cfg, layers)
	if err != nil {
		return d, err
	}
	_, err = s.putManifest(ctx, up.Ref, raw, d)
	return d, err
}

// putLayer makes the registry have a layer and tells in which form.
func (s *session) putLayer(ctx context.Context, l UploadLayer) (manifest.Descriptor, error) {
	if l.Known != nil {
		d := l.Known.Bare()
		if ok, _, err := s.without(ctx, d, l.From); ok || err != nil {
			return d, err
		}
	}
	var early *earlyUpload
	see := func(r io.ReadCloser) { early = s.sendEarly(ctx, r) }
	if len(l.From) > 0 {
		see = nil // it may be lent
	}
	d, err := l.Blob(ctx, see)
	if done := early.end(ctx, d, err); done || err != nil {
		return d, err
	}
	if err := s.putBlob(ctx, d, l); err != nil {
		return d, fmt.Errorf("blob %s: %w", d.Digest.Short(), err)
	}
	return d, nil
}

// without tries to make the registry have the blob without sending it: it may
// have it, or take it from another repository. Failing that there may be an
// upload that it began in place of a loan.
func (s *session) without(ctx context.Context, d manifest.Descriptor, lenders []Ref) (bool, *url.URL, error) {
	has, err := s.hasBlob(ctx, d)
	if err != nil {
		return false, nil, err
	}
	if has {
		s.c.event(Event{Action: Exists, Blob: d, Done: d.Size})
		return true, nil, nil
	}
	for _, from := range lenders {
		if from.Domain != s.ref.Domain || from.Path == s.ref.Path {
			continue
		}
		at, err := s.start(ctx, d, from.Path)
		if err != nil {
			continue // a loan that is refused is no reason not to send
		}
		if at != nil {
			return false, at, nil
		}
		s.c.event(Event{Action: Mounted, Blob: d, Done: d.Size})
		return true, nil, nil
	}
	return false, nil, nil
}

// putBlob makes the registry have the blob, by sending it if need be.
func (s *session) putBlob(ctx context.Context, d manifest.Descriptor, l UploadLayer) error {
	done, location, err := s.without(ctx, d, l.From)
	if done || err != nil {
		return err
	}
	var broken *url.URL // an upload that was cut off
	return s.retry(ctx, func() (err error) {
		at, from, resumed := s.got(ctx, broken, d)
		if !resumed {
			at = location
		}
		location, broken = nil, nil
		if at == nil {
			if at, err = s.start(ctx, d, ""); err != nil {
				return err
			}
		}
		if resumed {
			err = s.sendRest(ctx, at, d, from, l.Open)
		} else {
			_, err = s.send(ctx, http.MethodPut, named(at, d), d, 0, l.Open)
		}
		if err != nil {
			broken = at
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			s.c.event(Event{Action: Retrying, Blob: d, Err: err})
			return err
		}
		s.c.event(Event{Action: Pushed, Blob: d, Done: d.Size})
		return nil
	})
}

func (s *session) hasBlob(ctx context.Context, d manifest.Descriptor) (has bool, err error) {
	err = s.retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url("blobs/"+d.Digest.String()), nil)
		if err != nil {
			return err
		}
		resp, err := s.do(req, http.StatusOK, http.StatusNotFound)
		if err != nil {
			return err
		}
		has = resp.StatusCode == http.StatusOK && (resp.ContentLength < 0 || resp.ContentLength == d.Size)
		return resp.Body.Close()
	})
	return has, err
}

// start begins an upload, asking for the blob of another repository if from
// is set. It returns where to send the blob, or nil when it was lent.
func (s *session) start(ctx context.Context, d manifest.Descriptor, from string) (*url.URL, error) {
	address := s.url("blobs/uploads/")
	if from != "" {
		address += "?" + url.Values{"mount": {d.Digest.String()}, "from": {from}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.do(req, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusCreated {
		if from == "" {
			return nil, fatalf("the registry says that a blob it was not sent is there")
		}
		return nil, nil
	}
	at, err := onward(resp)
	if errors.Is(err, http.ErrNoLocation) {
		err = &fatalError{err}
	}
	return at, err
}

// onward is where an answer says that the upload goes on, which as a redirect may not
// be inside of our own network. It may not say: that is http.ErrNoLocation.
func onward(resp *http.Response) (*url.URL, error) {
	at, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return nil, err
	}
	if err != nil {
		return nil, &fatalError{err}
	}
	if err := outward(resp.Request.URL, at); err != nil {
		return nil, err
	}
	return at, nil
}

// send uploads a blob, from the offset from on, in one request, and returns the answer,
// of which nothing more is to be read. The blob is checked as a whole.
func (s *session) send(ctx context.Context, method, to string, d manifest.Descriptor, from int64, open func() (io.ReadCloser, error)) (resp *http.Response, err error) {
	rc, err := open()
	if err != nil {
		return nil, &fatalError{err}
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	body := &counted{r: d.Verify(rc), s: s}
	if _, err := io.CopyN(io.Discard, body, from); err != nil {
		return nil, &fatalError{err}
	}
	body.known.Store(&d)
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, &fatalError{err}
	}
	req.ContentLength = d.Size - from
	if d.Size == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if from > 0 {
		req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", from, d.Size-1))
	}
	resp, err = s.do(req, http.StatusCreated, http.StatusNoContent, http.StatusAccepted)
	if bad := body.wrong.Load(); bad != nil {
		return nil, &fatalError{*bad}
	}
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}

// named is where an upload ends: from then on it is d.
func named(at *url.URL, d manifest.Descriptor) string {
	to := *at
	q := to.Query()
	q.Set("digest", d.Digest.String())
	to.RawQuery = q.Encode()
	return to.String()
}

// counted tells how much of an upload is gone, and keeps the error of its
// source, which is not the registry's fault.
type counted struct {
	r     io.Reader
	s     *session
	known atomic.Pointer[manifest.Descriptor] // what it is; nil when there is nothing to tell yet
	n     atomic.Int64
	next  time.Time
	wrong atomic.Pointer[error]
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if err != nil && err != io.EOF {
		c.wrong.Store(&err)
	}
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(tick)
		c.tell(Pushing)
	}
	return n, err
}

func (c *counted) tell(a Action) {
	if d := c.known.Load(); d != nil {
		c.s.c.event(Event{Action: a, Blob: *d, Done: c.n.Load()})
	}
}

// putManifest also returns the header of the registry's answer.
func (s *session) putManifest(ctx context.Context, ref Ref, raw []byte, d manifest.Descriptor) (header http.Header, err error) {
	id := ref.Tag
	if id == "" {
		id = d.Digest.String()
	}
	err = s.retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url("manifests/"+id), bytes.NewReader(raw))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", d.MediaType)
		resp, err := s.do(req, http.StatusCreated, http.StatusOK, http.StatusAccepted)
		if err != nil {
			return err
		}
		if got := resp.Header.Get("Docker-Content-Digest"); strings.HasPrefix(got, "sha256:") && got != d.Digest.String() {
			return errors.Join(fatalf("the registry stored the manifest as %s, it is %s", got, d.Digest), resp.Body.Close())
		}
		header = resp.Header
		return resp.Body.Close()
	})
	return header, err
}
