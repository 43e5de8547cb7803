package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// isLayer reports a request for the bytes of the picture's first layer.
func isLayer(r *http.Request, p picture) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest.Of(p.layers[0]).String())
}

func rangeStart(r *http.Request) int {
	s, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	n, _ := strconv.Atoi(s)
	return n
}

// ranged answers with the bytes from the asked one to end, and then breaks
// the connection unless that is all.
func ranged(w http.ResponseWriter, r *http.Request, b []byte, end int) {
	from := rangeStart(r)
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(b[from:min(max(end, from), len(b))])
	if end < len(b) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestABrokenTransferGoesOnWhereItWas(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	for _, ranges := range []bool{true, false} {
		f, ref := pushed(t, p)
		f.Config.ErrorLog = log.New(io.Discard, "", 0)
		breaks := 0
		var asked []string
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if !isLayer(r, p) {
				return false
			}
			asked = append(asked, r.Header.Get("Range"))
			breaks++
			end := 100_000 * breaks
			if !ranges {
				r.Header.Del("Range") // as a server that does not know it
			}
			ranged(w, r, p.layers[0], end)
			return true
		})
		c := client()
		var retried atomic.Int32
		c.Event = func(e Event) {
			if e.Action == Retrying {
				retried.Add(1)
			}
		}
		_, b, err := pull(t, c, ref)
		if err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
			t.Fatalf("ranges %t: %d bytes, %v", ranges, len(b.got[0]), err)
		}
		if breaks != 3 || retried.Load() != 2 || !strings.HasPrefix(asked[1], "bytes=") {
			t.Errorf("ranges %t: %d connections, %d retries, ranges %q", ranges, breaks, retried.Load(), asked)
		}
	}
}

func TestATransferThatNeverGetsOnIsGivenUp(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f, ref := pushed(t, p)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !isLayer(r, p) {
			return false
		}
		ranged(w, r, p.layers[0], 1000)
		return true
	})
	_, b, err := pull(t, client(), ref)
	if err == nil || !strings.Contains(err.Error(), "broke off at byte 1000 of 300000") {
		t.Errorf("got %v", err)
	}
	if len(b.errs) != 1 {
		t.Errorf("the sink saw the errors %v, want one: it must not keep the layer", b.errs)
	}
	if n := f.count("GET /v2/team/app/blobs/" + digest.Of(p.layers[0]).String()); n > maxTries+1 {
		t.Errorf("%d connections", n)
	}
}

func TestATransferThatStandsStillIsBegunAnew(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f, ref := pushed(t, p)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	var stalls atomic.Int32
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !isLayer(r, p) || stalls.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", "300000")
		w.Write(p.layers[0][:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	c := client()
	c.Idle = 50 * time.Millisecond
	_, b, err := pull(t, c, ref)
	if err != nil || !bytes.Equal(b.got[0], p.layers[0]) || stalls.Load() != 2 {
		t.Errorf("%d bytes, %v, %d connections", len(b.got[0]), err, stalls.Load())
	}
}

func TestAttack25_BlobsThatAreNotWhatTheirDescriptorSaysAreRefused(t *testing.T) {
	p := paint(t, "amd64", 100_000)
	good := p.layers[0]
	flipped := bytes.Clone(good)
	flipped[50_000] ^= 1
	tests := map[string]struct {
		body   []byte
		length bool
		want   string
	}{
		"a flipped bit":               {flipped, true, "its content has the digest"},
		"longer, and it says so":      {append(bytes.Clone(good), 1), true, "100001 bytes of it, its descriptor says 100000"},
		"shorter, and it says so":     {good[1:], true, "99999 bytes of it"},
		"longer, without a length":    {append(bytes.Clone(good), make([]byte, 1<<20)...), false, "longer than the 100000 bytes"},
		"shorter, without a length":   {good[:99_000], false, "broke off at byte 99000"},
		"another of the same length":  {make([]byte, 100_000), false, "its content has the digest"},
		"an answer of no bytes, 200s": {nil, false, "broke off at byte 0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, ref := pushed(t, p)
			f.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if !isLayer(r, p) {
					return false
				}
				if from := rangeStart(r); from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-", from))
					w.WriteHeader(http.StatusPartialContent)
					return true
				}
				if tt.length {
					w.Header().Set("Content-Length", strconv.Itoa(len(tt.body)))
				}
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				w.Write(tt.body)
				return true
			})
			_, b, err := pull(t, client(), ref)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if len(b.got) > 0 {
				t.Error("the sink reached the end of a wrong layer")
			}
		})
	}
}

func TestAttack25_ManifestsThatAreNotWhatWasAskedForAreRefused(t *testing.T) {
	p := paint(t, "amd64", 10)
	_, d, err := p.upload(Ref{}).Manifest(manifest.Descriptor{Digest: digest.Of(p.config)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	desc := `{"mediaType":"` + manifest.OCILayer + `","digest":"` + d.Digest.String() + `","size":1}`
	tests := map[string]struct{ mediaType, body, want string }{
		"two kinds at once":        {manifest.OCIManifest, `{"schemaVersion":2,"config":` + desc + `,"layers":[],"manifests":[]}`, "neither clearly"},
		"another type outside":     {manifest.OCIIndex, `{"schemaVersion":2,"mediaType":"` + manifest.OCIManifest + `","config":` + desc + `,"layers":[]}`, "handed over as"},
		"a digest that is a path":  {manifest.OCIManifest, strings.Replace(`{"schemaVersion":2,"config":`+desc+`,"layers":[]}`, "sha256:", "sha256:../", 1), "hex digits"},
		"not JSON":                 {manifest.OCIManifest, "<html>", "invalid character"},
		"schema 1":                 {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		"endless":                  {manifest.OCIManifest, strings.Repeat(" ", manifest.MaxSize+1), "more than"},
		"a config that is missing": {manifest.OCIManifest, `{"schemaVersion":2,"config":` + desc + `,"layers":[]}`, "the image is incomplete"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			f.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", tt.mediaType)
				io.WriteString(w, tt.body)
				return true
			})
			_, err := client().Resolve(t.Context(), f.ref("app", "1"), amd64)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAttack25_AManifestByDigestMustHaveIt(t *testing.T) {
	f, ref := pushed(t, paint(t, "amd64", 10))
	want := digest.Of([]byte("another"))
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, want.String()) {
			r.URL.Path = "/v2/team/app/manifests/1" // served in its place
		}
		return false
	})
	ref.Tag, ref.Digest = "", want
	if _, err := client().Resolve(t.Context(), ref, amd64); err == nil || !strings.Contains(err.Error(), "sent a manifest with the digest") {
		t.Errorf("got %v", err)
	}
}

func TestAnArtifactIsNoImage(t *testing.T) {
	p := paint(t, "amd64", 10)
	f := serve(t)
	up := p.upload(f.ref("app", "1"))
	up.Layers[0].Blob = func(context.Context, func(io.ReadCloser)) (manifest.Descriptor, error) {
		d := describe(p.layers[0])
		d.MediaType = "text/plain"
		return d, nil
	}
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if _, err := client().Resolve(t.Context(), up.Ref, amd64); err == nil || !strings.Contains(err.Error(), "not a container image") {
		t.Errorf("got %v", err)
	}
}

func TestALayerThatTheRegistryLacksIsSaidSo(t *testing.T) {
	p := paint(t, "amd64", 10)
	f, ref := pushed(t, p)
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if isLayer(r, p) {
			w.WriteHeader(http.StatusNotFound)
		}
		return isLayer(r, p)
	})
	if _, _, err := pull(t, client(), ref); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "the image is incomplete") {
		t.Errorf("got %v", err)
	}
}

func TestAConfigThatDoesNotFitItsManifestIsRefused(t *testing.T) {
	p := paint(t, "amd64", 10, 20)
	f := serve(t)
	up := p.upload(f.ref("app", "1"))
	up.Layers = up.Layers[:1]
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if _, err := client().Resolve(t.Context(), up.Ref, amd64); err == nil || !strings.Contains(err.Error(), "1 layers, the config has 2 diffIDs") {
		t.Errorf("got %v", err)
	}
}

func TestFleetingAnswersAreAskedAgain(t *testing.T) {
	p := paint(t, "amd64", 10)
	for _, code := range []int{429, 500, 502, 503, 504} {
		f, ref := pushed(t, p)
		left := map[string]int{}
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if left[r.URL.Path]++; left[r.URL.Path] > 2 {
				return false
			}
			w.WriteHeader(code)
			return true
		})
		c := client()
		c.Jobs = 1
		if _, b, err := pull(t, c, ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
			t.Errorf("%d twice, then right: %v", code, err)
		}
	}
}

func TestLastingAnswersAreNot(t *testing.T) {
	tests := map[int]struct {
		cause     error
		msg, hint string
		requests  int
	}{
		401: {ErrDenied, "denies access, or has no such image", "no file with credentials is known: DOCKER_CONFIG", 1},
		403: {ErrDenied, "denies access", "no file with credentials", 1},
		404: {ErrNotFound, "not found", "whittle load", 1},
		400: {nil, "answers 400", "", 1},
		429: {nil, "limits how often", "log in", maxTries},
		503: {nil, "answers 503", "", maxTries},
	}
	for code, tt := range tests {
		f := serve(t)
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(code)
			return true
		})
		_, err := client().Resolve(t.Context(), f.ref("app", "1"), amd64)
		if err == nil || !strings.Contains(err.Error(), tt.msg) || !strings.Contains(hint(err), tt.hint) || tt.cause != nil && !errors.Is(err, tt.cause) {
			t.Errorf("%d: %v, hint %q; want %q, hint %q", code, err, hint(err), tt.msg, tt.hint)
		}
		if n := f.count("GET /v2/app/manifests/1"); n != tt.requests {
			t.Errorf("%d: asked %d times, want %d", code, n, tt.requests)
		}
	}
}

func TestRetryAfterIsHeeded(t *testing.T) {
	f, ref := pushed(t, paint(t, "amd64", 10))
	var first, second time.Time
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		if first.IsZero() {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		second = time.Now()
		return false
	})
	if _, err := client().Resolve(t.Context(), ref, amd64); err != nil {
		t.Fatal(err)
	}
	if d := second.Sub(first); d < 900*time.Millisecond {
		t.Errorf("asked again after %v, want a second", d)
	}
}

func TestTheErrorOfASinkEndsThePullAndComesBack(t *testing.T) {
	p := paint(t, "amd64", 1000, 2000, 3000)
	_, ref := pushed(t, p)
	c := client()
	r, err := c.Resolve(t.Context(), ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	err = c.Pull(t.Context(), r, Sink{Layer: func(context.Context, int, Layer, io.Reader) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

func TestAnInterruptEndsAPullWithItsCause(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f, ref := pushed(t, p)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("interrupted")
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !isLayer(r, p) {
			return false
		}
		w.Write(p.layers[0][:1000])
		w.(http.Flusher).Flush()
		cancel(cause)
		<-r.Context().Done()
		return true
	})
	c := client()
	r, err := c.Resolve(ctx, ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	var b basket
	if err := c.Pull(ctx, r, b.sink()); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

func TestASignedAddressIsInNoMessage(t *testing.T) {
	p := paint(t, "amd64", 1000)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"broken":  func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"refused": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"missing": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
	} {
		f, ref := pushed(t, p)
		f.Config.ErrorLog = log.New(io.Discard, "", 0)
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path == "/storage":
				answer(w)
			case isLayer(r, p):
				http.Redirect(w, r, f.URL+"/storage?X-Amz-Signature=geheim", http.StatusTemporaryRedirect)
			default:
				return false
			}
			return true
		})
		c := client()
		c.Event = func(e Event) {
			if e.Err != nil && strings.Contains(e.Err.Error(), "geheim") {
				t.Errorf("%s: an event says %v", name, e.Err)
			}
		}
		_, _, err := pull(t, c, ref)
		if err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
		if f.count("GET /storage") == 0 {
			t.Errorf("%s: the redirect was not followed", name)
		}
	}
}
