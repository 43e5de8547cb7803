package registry

import (
	"net/http"
	"net/url"
	"time"
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
	return w.answer(g.inner.RoundTrip(req))
}

// allowed refuses what may not be sent: clear text goes to loopback only, and to hosts
// of which the configuration says so.
func (g *guard) allowed(req *http.Request) error {
	if req.URL.Scheme != "https" && (req.URL.Scheme != "http" || !isLoopback(req.URL.Host) && !g.hosts.of(req.URL.Host).HTTP) {
		return fatalf("%s://%s: registries are spoken to by https; http is for this machine's own, and for those of which whittle.toml says http = true", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// checkRedirect lets a registry send us to its storage, without any
// credentials, but not to the inside of our own network.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fatalf("%s: more than %d redirects", via[0].URL.Host, maxRedirects)
	}
	from, to := via[0].URL, req.URL
	if to.Host == from.Host {
		return nil
	}
	req.Header.Del("Authorization")
	return outward(from, to)
}

// outward refuses a way that a registry elsewhere shows into our own network.
func outward(from, to *url.URL) error {
	if isInside(to.Hostname()) && !isInside(from.Hostname()) {
		return fatalf("%s redirects to %s, an address of the inner network", from.Host, to.Host)
	}
	return nil
}
