package registry

import (
	"context"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// guard is below everything that adds credentials or follows redirects, so nothing
// gets around it: where a request may go, and how long it may stand still.
type guard struct {
	inner http.RoundTripper
	hosts Hosts
	idle  time.Duration
}

func (c *Client) guard() *guard { return &guard{c.inner(), c.Hosts, c.idle()} }

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.allowed(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	req, w := watched(req, g.idle)
	resp, err := w.answer(g.inner.RoundTrip(req))
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		resp.Request = req.WithContext(context.WithValue(req.Context(), askedKey{}, resp.Header.Get("Retry-After")))
		resp.Body = &opening{io.LimitReader(resp.Body, maxRemark), resp.Body}
	}
	return resp, err
}

// maxRemark is how much the transport takes of an answer that says what is wrong; of a longer
// one it would not even tell the status.
const maxRemark = 64 << 10

// opening is the beginning of a body.
type opening struct {
	io.Reader
	io.Closer
}

// askedKey is where the request of an error has the answer's Retry-After: it is the one thing
// that comes through the transport with what a registry, or a token server, refused.
type askedKey struct{}

// askedWait is how long a server asked to be left alone: a number of seconds, or a date
// (RFC 9110, 10.2.3).
func askedWait(err error) time.Duration {
	var status *transport.Error
	if !errors.As(err, &status) || status.Request == nil {
		return 0
	}
	text, _ := status.Request.Context().Value(askedKey{}).(string)
	if sec, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(sec, 0), int64(math.MaxInt64/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return max(time.Until(at).Round(time.Second), 0)
}

// allowed refuses what may not be sent. Clear text goes to loopback only, and to hosts
// of which the configuration says so. A redirect leads into our own network only from
// there, and takes no form along to another host: those of requests for a token hold
// another token.
func (g *guard) allowed(req *http.Request) error {
	to := req.URL
	if to.Scheme != "https" && (to.Scheme != "http" || !isLoopback(to.Host) && !g.hosts.of(to.Host).HTTP) {
		return fatalf("%s://%s: registries are spoken to by https; http is for this machine's own, and for those of which whittle.toml says http = true", to.Scheme, to.Host)
	}
	first := req
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	if from := first.URL; !strings.EqualFold(from.Host, to.Host) && isForm(req) {
		return fatalf("%s redirects to where it would show a token to %s", from.Host, to.Host)
	}
	return outward(first.URL, to)
}

// isForm says whether a request has a form in its body.
func isForm(req *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	return req.Body != nil && req.Body != http.NoBody && kind == "application/x-www-form-urlencoded"
}

// checkRedirect lets a registry send us to its storage, without any credentials. Where
// to, guard says.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fatalf("%s: more than %d redirects", via[0].URL.Host, maxRedirects)
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// outward refuses a way that a registry elsewhere shows into our own network.
func outward(from, to *url.URL) error {
	if isInside(to.Hostname()) && !isInside(from.Hostname()) {
		return fatalf("%s sends to %s, an address of the inner network", from.Host, to.Host)
	}
	return nil
}
