package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// earlyUpload sends a blob whose digest nobody knows yet: its bytes go in one PATCH
// of unknown length while they are made, the digest follows with a PUT (distribution
// spec, "Pushing a blob in chunks"; docker pushes so). It is an attempt: when
// anything goes wrong, the whole blob is sent as any other, which also tells what
// is wrong. What the registry turns out to have is sent no further.
type earlyUpload struct {
	s    *session
	stop context.CancelFunc
	over chan struct{} // closed when at and err are set

	at  *url.URL // where the upload goes on; nil when it did not begin
	err error

	body io.Closer
	sent counted
}

func (s *session) sendEarly(ctx context.Context, r io.ReadCloser) *earlyUpload {
	ctx, stop := context.WithCancel(ctx)
	e := &earlyUpload{s: s, stop: stop, over: make(chan struct{}), body: r, sent: counted{r: r, s: s}}
	go func() {
		defer close(e.over)
		e.err = errors.Join(e.send(ctx), r.Close())
	}()
	return e
}

func (e *earlyUpload) send(ctx context.Context) (err error) {
	if e.at, err = e.s.start(ctx, manifest.Descriptor{}, ""); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, e.at.String(), struct {
		io.Reader
		io.Closer
	}{&e.sent, e.body})
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := e.s.do(req, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	at, err := onward(resp)
	if errors.Is(err, http.ErrNoLocation) {
		return nil
	}
	if err == nil {
		e.at = at
	}
	return err
}

// end is told what the blob is, or why there is none, and reports whether the
// registry has it now. e may be nil: then it has not.
func (e *earlyUpload) end(ctx context.Context, d manifest.Descriptor, failed error) bool {
	if e == nil {
		return false
	}
	defer e.stop()
	if failed != nil {
		e.drop(ctx)
		return false
	}
	if has, err := e.s.hasBlob(ctx, d); has || err != nil {
		e.drop(ctx)
		if has {
			e.s.c.event(Event{Action: Exists, Blob: d, Done: d.Size})
		}
		return has
	}
	e.sent.known.Store(&d)
	e.sent.tell(Pushing)
	<-e.over
	if e.err == nil && e.sent.n.Load() == d.Size && e.s.commit(ctx, e.at, d) == nil {
		e.sent.tell(Pushed)
		return true
	}
	e.drop(ctx)
	return false
}

// drop ends the upload; the registry may forget what it has of it.
func (e *earlyUpload) drop(ctx context.Context) {
	e.stop()
	e.body.Close() // or whoever reads it would wait for more
	<-e.over
	if e.at == nil || ctx.Err() != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, e.at.String(), nil)
	if err != nil {
		return
	}
	if resp, err := e.s.http.Do(req); err == nil { // it would forget it some day in any case
		resp.Body.Close()
	}
}
