package registry

import (
	"bytes"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// still answers with one byte of many, and with nothing more while it is waited for.
func still(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "500")
	_, _ = w.Write([]byte("{"))
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// mute does not even begin to answer.
func mute(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// hasty is a client that waits for nobody.
func hasty() *Client {
	c := client()
	c.Idle = 200 * time.Millisecond
	return c
}

func TestAnAnswerThatStandsStillIsAskedForAgain(t *testing.T) {
	p := paint(t, "amd64", 10)
	keyed := func(r *http.Request, part string) bool {
		return strings.Contains(r.URL.Path, part) && r.Header.Get("Authorization") != ""
	}
	tests := map[string]func(*http.Request) bool{
		"manifest":             func(r *http.Request) bool { return keyed(r, "/manifests/") },
		"config":               func(r *http.Request) bool { return keyed(r, "/blobs/"+digest.Of(p.config).String()) },
		"token":                func(r *http.Request) bool { return r.URL.Path == "/token" },
		"what the registry is": func(r *http.Request) bool { return r.URL.Path == "/v2/" },
	}
	for name, is := range tests {
		for how, fault := range map[string]func(http.ResponseWriter, *http.Request){"begun": still, "not begun": mute} {
			t.Run(name+", "+how, func(t *testing.T) {
				f, ref := locked(t, p)
				good := f.fault
				var stalls atomic.Int32
				f.inject(func(w http.ResponseWriter, r *http.Request) bool {
					if !is(r) || stalls.Add(1) > 1 {
						return good(w, r)
					}
					if r.URL.Path == "/v2/" {
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.URL+`/token"`)
						w.WriteHeader(http.StatusUnauthorized)
					}
					fault(w, r)
					return true
				})
				c := hasty()
				c.Keys = configFile(t, `{"auths": {"`+f.host()+`": {"auth": "`+auth("user")+`"}}}`)
				_, b, err := pull(t, c, ref)
				if err != nil || !bytes.Equal(b.got[0], p.layers[0]) || stalls.Load() == 0 {
					t.Errorf("%v, after %d of it", err, stalls.Load())
				}
			})
		}
	}
}

func TestAMirrorThatStandsStillIsPassedOver(t *testing.T) {
	p := paint(t, "amd64", 10)
	_, ref := pushed(t, p)
	for name, path := range map[string]string{"all of it": "/", "its manifests": "/manifests/"} {
		t.Run(name, func(t *testing.T) {
			mirror := serve(t)
			mirror.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, path) {
					mute(w, r)
				}
				return strings.Contains(r.URL.Path, path)
			})
			c := hasty()
			c.Hosts = Hosts{ref.Domain: {Mirrors: []Mirror{{Domain: mirror.host()}}}}
			var said atomic.Value
			c.Event = func(e Event) {
				if e.Action == Passing {
					said.CompareAndSwap(nil, e.Err.Error()) // a layer of which it has no manifest comes after
				}
			}
			_, b, err := pull(t, c, ref)
			if err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
				t.Fatal(err)
			}
			if text, _ := said.Load().(string); !strings.Contains(text, "nothing came for 200ms") {
				t.Errorf("told %q", text)
			}
		})
	}
}

// A mirror that wants to be left alone for a while is: the next place has the same.
func TestAMirrorThatAsksForPatienceIsPassedOver(t *testing.T) {
	p := paint(t, "amd64", 10)
	_, ref := pushed(t, p)
	mirror := serve(t)
	mirror.inject(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	c := client()
	c.Hosts = Hosts{ref.Domain: {Mirrors: []Mirror{{Domain: mirror.host()}}}}
	if _, b, err := pull(t, c, ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) || mirror.count("GET ") == 0 {
		t.Errorf("%v, asked %d times", err, mirror.count("GET "))
	}
}

// deaf is a way to a registry on which nothing but heads of requests is taken while it is on: of
// what the registry would read, nothing goes.
func deaf(t *testing.T, c *Client, on func(*http.Request) bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if on(r) {
			r = r.Clone(r.Context())
			r.URL.Host = l.Addr().String()
		}
		return http.DefaultTransport.RoundTrip(r)
	})
}

// isUpload says whether a request sends bytes of a blob.
func isUpload(r *http.Request) bool {
	return (r.Method == http.MethodPut || r.Method == http.MethodPatch) && strings.Contains(r.URL.Path, "/uploads/")
}

func TestAnUploadOfWhichNothingIsTakenIsGivenUp(t *testing.T) {
	p := paint(t, "amd64", 20_000_000) // more than the kernel takes for both sides
	for name, tt := range map[string]struct {
		stalls int32
		err    string
	}{
		"for a while": {1, ""},
		"for good":    {1 << 30, "the registry took nothing for 200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			c := hasty()
			var stalls atomic.Int32
			deaf(t, c, func(r *http.Request) bool { return isUpload(r) && stalls.Add(1) <= tt.stalls })
			_, err := c.Push(t.Context(), p.upload(f.ref("app", "1")))
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
			if n := stalls.Load(); n < 2 || n > 2*maxTries {
				t.Errorf("%d uploads", n)
			}
		})
	}
}

func TestAnEarlyUploadOfWhichNothingIsTakenEnds(t *testing.T) {
	p := paint(t, "amd64", 20_000_000)
	f := serve(t)
	c := hasty()
	deaf(t, c, func(r *http.Request) bool { return r.Method == http.MethodPatch })
	m := &making{data: p.layers[0]}
	if _, err := c.Push(t.Context(), m.upload(p, f.ref("app", "1"))); err != nil {
		t.Fatal(err)
	}
	if m.opened.Load() == 0 { // on a busy machine more than once
		t.Error("the layer was not sent as a whole")
	}
}
