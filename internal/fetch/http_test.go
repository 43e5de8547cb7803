package fetch

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/store"
)

func newClient(t *testing.T) *Client {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{Owner: store.Owner{Kind: "root", XattrPrefix: "trusted."}})
	if err != nil {
		t.Fatal(err)
	}
	return &Client{Store: s, Wait: time.Nanosecond}
}

// again is a client of a later build with the same store.
func (c *Client) again() *Client { return &Client{Store: c.Store, Secret: c.Secret, Wait: c.Wait} }

// served starts a server that counts its requests.
func served(t *testing.T, h http.HandlerFunc) (url string, count *atomic.Int32) {
	t.Helper()
	count = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, count
}

func content(t *testing.T, f *File) string {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func get(t *testing.T, c *Client, d Download) *File {
	t.Helper()
	f, err := c.HTTP(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDownloadIsAskedForOnceInABuildAndCheckedInTheNext(t *testing.T) {
	const modified = "Wed, 21 Oct 2015 07:28:00 GMT"
	for _, by := range []string{"ETag", "Last-Modified"} {
		t.Run(by, func(t *testing.T) {
			var bodies atomic.Int32
			url, count := served(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Last-Modified", modified)
				if by == "ETag" {
					w.Header().Set("ETag", `"1"`)
				}
				if r.Header.Get("If-None-Match") == `"1"` || by != "ETag" && r.Header.Get("If-Modified-Since") == modified {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				bodies.Add(1)
				fmt.Fprint(w, "hello")
			})
			c := newClient(t)
			if d, ok := c.Digest(Download{URL: url + "/a"}); ok {
				t.Errorf("it tells %s of what it did not ask for", d)
			}
			for range 2 {
				f := get(t, c, Download{URL: url + "/a"})
				if d, ok := c.Digest(Download{URL: url + "/a"}); !ok || d != f.Digest {
					t.Errorf("it tells %s, %v of %s", d, ok, f.Digest)
				}
				if got := content(t, f); got != "hello" || f.Modified.Format(http.TimeFormat) != modified {
					t.Errorf("content %q of %v", got, f.Modified)
				}
			}
			f := get(t, c.again(), Download{URL: url + "/a"})
			if got := content(t, f); got != "hello" || f.Modified.Format(http.TimeFormat) != modified {
				t.Errorf("later content %q of %v", got, f.Modified)
			}
			if count.Load() != 2 || bodies.Load() != 1 {
				t.Errorf("%d requests, %d bodies; want 2 and 1", count.Load(), bodies.Load())
			}
		})
	}
}

func TestServerThatIgnoresConditionsIsNotReadToTheEnd(t *testing.T) {
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `W/"same"`)
		if r.Header.Get("If-None-Match") == "" {
			fmt.Fprint(w, "first")
			return
		}
		fmt.Fprint(w, "second, which its tag denies")
	})
	c := newClient(t)
	get(t, c, Download{URL: url})
	if got := content(t, get(t, c.again(), Download{URL: url})); got != "first" {
		t.Errorf("content %q", got)
	}
}

func TestChangedFileIsDownloadedAgain(t *testing.T) {
	body := "one"
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, body) })
	c := newClient(t)
	get(t, c, Download{URL: url})
	body = "two"
	if got := content(t, get(t, c.again(), Download{URL: url})); got != "two" {
		t.Errorf("content %q", got)
	}
}

func TestChecksumIsCheckedAndThenNeedsNoServer(t *testing.T) {
	for _, sum := range []string{digest.Of([]byte("hello")).String(), fmt.Sprintf("sha384:%x", sha512.Sum384([]byte("hello"))), fmt.Sprintf("sha512:%x", sha512.Sum512([]byte("hello")))} {
		url, count := served(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			if r.Header.Get("If-None-Match") != "" {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, "hello")
		})
		c := newClient(t)
		wrong := sum[:len(sum)-1] + string("01"[(sum[len(sum)-1]+1)%2])
		for range 2 { // the second time from the store
			_, err := c.again().HTTP(t.Context(), Download{URL: url + "/a", Checksum: wrong})
			if err == nil || !strings.Contains(err.Error(), "digest mismatch "+sum+": "+wrong) {
				t.Errorf("wrong checksum: %v", err)
			}
			get(t, c.again(), Download{URL: url + "/a"})
		}
		get(t, c, Download{URL: url + "/a", Checksum: sum})
		count.Store(0)
		for _, path := range []string{"/a", "/mirror"} {
			if got := content(t, get(t, c.again(), Download{URL: url + path, Checksum: sum})); got != "hello" {
				t.Errorf("content %q", got)
			}
		}
		if count.Load() != 0 {
			t.Errorf("%d requests for what is known", count.Load())
		}
	}
}

func TestFleetingErrorsAreTriedAgain(t *testing.T) {
	for name, fail := range map[string]http.HandlerFunc{
		"503": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"429": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"half body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			fmt.Fprint(w, "he")
		},
		"no answer": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			var count *atomic.Int32
			url, count := served(t, func(w http.ResponseWriter, r *http.Request) {
				if count.Load() < maxTries {
					fail(w, r)
					return
				}
				fmt.Fprint(w, "hello")
			})
			if got := content(t, get(t, newClient(t), Download{URL: url})); got != "hello" {
				t.Errorf("content %q", got)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		msg     string
		hint    string
		tries   int32
	}{
		"404":         {status(404), "the server answers 404 Not Found", "has the file moved", 1},
		"401":         {status(401), "the server answers 401", "--secret id=HTTP_AUTH_TOKEN_127.0.0.1", 1},
		"500":         {status(500), "the server answers 500", "try again later", maxTries},
		"304 unasked": {status(304), "the server answers 304 Not Modified", "has nothing of it", 1},
		"half body": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			fmt.Fprint(w, "he")
		}, "ended after 2 of 5 bytes", "try again", maxTries},
		"large": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", 20)) }, "more than 10 bytes", "no layer", 1},
		"unbounded": {func(w http.ResponseWriter, r *http.Request) {
			for range 20 {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
			}
		}, "more than 10 bytes", "no layer", 1},
		"file": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}, "neither http nor https", "", 1},
		"loop": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) }, "more than 10 redirects", "", maxRedirects},
		"stall": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "nothing arrived for", "try again", maxTries},
	} {
		t.Run(name, func(t *testing.T) {
			url, count := served(t, c.handler)
			client := newClient(t)
			client.MaxBytes, client.Stall = 10, 50*time.Millisecond
			_, err := client.HTTP(t.Context(), Download{URL: strings.Replace(url, "//", "//me:sesame@", 1) + "/f"})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T %v", err, err)
			}
			if c.handler != nil && name == "401" {
				c.hint = "does not take the credentials"
			}
			if !strings.Contains(e.Error(), c.msg) || !strings.Contains(e.Hint(), c.hint) || !strings.HasPrefix(e.Error(), strings.Replace(url, "//", "//xxxxx:xxxxx@", 1)+"/f: ") {
				t.Errorf("%q, hint %q", e.Error(), e.Hint())
			}
			if strings.Contains(fmt.Sprintf("%+v %s", err, e.Hint()), "sesame") {
				t.Error("the error has the password in it")
			}
			if count.Load() != c.tries {
				t.Errorf("%d requests, want %d", count.Load(), c.tries)
			}
		})
	}
}

func TestAttack24RedirectsFromOutsideStayOutside(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/latest", "http://127.0.0.1:1/", "http://10.0.0.1/", "http://[::1]/", "http://localhost/", "http://100.64.0.1/", "http://[fe80::1]/"} {
		asked := 0
		c := newClient(t)
		c.Transport = roundTrip(func(req *http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: 302, Header: http.Header{"Location": {to}}, Body: http.NoBody, Request: req}, nil
		})
		_, err := c.HTTP(t.Context(), Download{URL: "http://outside.example/f"})
		if err == nil || !strings.Contains(err.Error(), "an address of the inner network") || asked != 1 {
			t.Errorf("%s: %v after %d requests", to, err, asked)
		}
	}
	// A name that leads inside is refused when it is connected to.
	url, count := served(t, func(w http.ResponseWriter, r *http.Request) {})
	_, err := (&http.Client{Transport: newTransport(refuseInside)}).Get(url)
	if err == nil || !strings.Contains(err.Error(), "an address of the inner network") || count.Load() != 0 {
		t.Errorf("connection to %s: %v", url, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestAttack34CredentialsStayWithTheirHost(t *testing.T) {
	var seen []string
	other, _ := served(t, func(w http.ResponseWriter, r *http.Request) { seen = append(seen, r.Header.Get("Authorization")) })
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		if r.URL.Path == "/here" {
			http.Redirect(w, r, "/there", http.StatusFound)
			return
		}
		http.Redirect(w, r, other, http.StatusFound)
	})
	c := newClient(t)
	c.Secret = func(_ context.Context, id string) ([]byte, bool, error) {
		return []byte("sesame\n"), id == "HTTP_AUTH_TOKEN_127.0.0.1", nil
	}
	get(t, c, Download{URL: url + "/here"})
	if len(seen) != 3 || seen[0] != "Bearer sesame" || seen[1] != "Bearer sesame" || seen[2] != "" {
		t.Errorf("Authorization %q", seen)
	}
}

func TestDamagedBlobIsNeverHandedOut(t *testing.T) {
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	c := newClient(t)
	f := get(t, c, Download{URL: url})
	f.Digest, _ = c.Store.PutBlobBytes([]byte("hallo"))
	bad := *f
	bad.Digest = f.Digest
	bad.Size = 4
	r, err := bad.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); !errors.Is(err, store.ErrDamaged) || len(b) > 0 {
		t.Errorf("%q %v", b, err)
	}
	if _, err := bad.Open(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after that: %v", err)
	}
}

func TestTLSErrorsSayWhatToDo(t *testing.T) {
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	plain, _ := served(t, func(w http.ResponseWriter, r *http.Request) {})
	for url, want := range map[string][2]string{
		secure.URL: {"certificate is not trusted", "SSL_CERT_FILE"},
		strings.Replace(plain, "http", "https", 1): {"does not speak TLS", "http://"},
	} {
		_, err := newClient(t).HTTP(t.Context(), Download{URL: url})
		if err == nil || !strings.Contains(err.Error(), want[0]) || !strings.Contains(Hint(err), want[1]) {
			t.Errorf("%s: %v, hint %q", url, err, Hint(err))
		}
	}
}

func TestEndedBuildEndsItsDownloads(t *testing.T) {
	ended := make(chan struct{})
	begun := make(chan struct{})
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	go func() { <-begun; cancel(why) }()
	if _, err := newClient(t).HTTP(ctx, Download{URL: url}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	<-ended
}
