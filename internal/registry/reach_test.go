package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestReachIsOfTheQuickestConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	c := &Client{}
	if got := c.Reach(host); got != 0 {
		t.Errorf("before anything was asked: %v", got)
	}
	ask := func(rt http.RoundTripper) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	c.reached(host, time.Hour)
	ask(c.inner())
	if got := c.Reach(host); got <= 0 || got > time.Minute {
		t.Errorf("after a connection of an hour and one of no time: %v", got)
	}
	if got := c.Reach("example.com"); got != 0 {
		t.Errorf("of a host that nobody asked: %v", got)
	}

	// What a connection to a proxy takes says nothing of the way behind it.
	through := &Client{}
	ask(&timed{newTransport(), func(*http.Request) (*url.URL, error) { return url.Parse(server.URL) }, through.reached})
	if got := through.Reach(host); got != 0 {
		t.Errorf("through a proxy: %v", got)
	}
}
