package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// worthResuming is how large a blob is of which a registry is asked what it has got
// when its upload broke off: it takes two requests more.
const worthResuming = 4 << 20

// got asks how much of a broken upload the registry has kept, and where it goes on
// (distribution spec, "Pushing a blob in chunks": GET to the location). Many keep nothing:
// then ok is false.
func (s *session) got(ctx context.Context, at *url.URL, d manifest.Descriptor) (next *url.URL, from int64, ok bool) {
	if at == nil || d.Size < worthResuming {
		return nil, 0, false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, 0, false
	}
	resp, err := s.do(req, http.StatusNoContent)
	if err != nil {
		return nil, 0, false
	}
	resp.Body.Close()
	_, last, cut := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !cut || err != nil || n <= 0 || n+1 >= d.Size {
		return nil, 0, false
	}
	next, err = onward(resp)
	if errors.Is(err, http.ErrNoLocation) {
		next, err = at, nil
	}
	return next, n + 1, err == nil
}

// sendRest uploads a blob from the offset from on, and names it.
func (s *session) sendRest(ctx context.Context, at *url.URL, d manifest.Descriptor, from int64, open func() (io.ReadCloser, error)) error {
	resp, err := s.send(ctx, http.MethodPatch, at.String(), d, from, open)
	if err != nil {
		return err
	}
	next, err := onward(resp)
	if errors.Is(err, http.ErrNoLocation) {
		next, err = at, nil
	}
	if err != nil {
		return err
	}
	return s.commit(ctx, next, d)
}

// commit names what was sent.
func (s *session) commit(ctx context.Context, at *url.URL, d manifest.Descriptor) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, named(at, d), http.NoBody)
	if err != nil {
		return err
	}
	resp, err := s.do(req, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
