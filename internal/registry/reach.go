package registry

import (
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"
)

// Reach is how long the quickest connection to a registry took to be made: the way there and
// back. It is 0 where none was, or where a proxy or another Transport is between.
func (c *Client) Reach(domain string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reach[domain]
}

func (c *Client) reached(host string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reach == nil {
		c.reach = map[string]time.Duration{}
	}
	if was, ok := c.reach[host]; !ok || took < was {
		c.reach[host] = took
	}
}

// timed notes how long connections take that requests have made.
type timed struct {
	under http.RoundTripper
	proxy func(*http.Request) (*url.URL, error)
	note  func(host string, took time.Duration)
}

func (t *timed) RoundTrip(req *http.Request) (*http.Response, error) {
	if proxy, err := t.proxy(req); err != nil || proxy != nil {
		return t.under.RoundTrip(req)
	}
	var began sync.Map // by address: of one host several may be tried at once
	host := req.URL.Host
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		ConnectStart: func(_, addr string) { began.Store(addr, time.Now()) },
		ConnectDone: func(_, addr string, err error) {
			if at, ok := began.Load(addr); ok && err == nil {
				t.note(host, time.Since(at.(time.Time)))
			}
		},
	})
	return t.under.RoundTrip(req.WithContext(ctx))
}
