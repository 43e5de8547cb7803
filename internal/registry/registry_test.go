package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

var amd64 = manifest.Platform{OS: "linux", Architecture: "amd64"}

// fake is a registry in memory on loopback. fault may answer a request in its
// place: it returns true when it did.
type fake struct {
	*httptest.Server
	mu    sync.Mutex
	seen  []string // method and path of every request
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t *testing.T) *fake {
	t.Helper()
	f := &fake{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		fault := f.fault
		f.mu.Unlock()
		if fault == nil || !fault(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) inject(fault func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen, f.fault = nil, fault
}

// count returns how many requests began so.
func (f *fake) count(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.seen {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (f *fake) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fake) ref(path, tag string) Ref { return Ref{Domain: f.host(), Path: path, Tag: tag} }

// client is impatient.
func client() *Client { return &Client{Wait: time.Millisecond} }

// blobs are two layers: noise, so that nothing is alike, and their diffIDs,
// which no test of this package can check.
type picture struct {
	config []byte
	layers [][]byte
}

func paint(t *testing.T, arch string, sizes ...int) picture {
	t.Helper()
	r := rand.NewChaCha8([32]byte{byte(len(arch)), byte(len(sizes))})
	var p picture
	var ids []string
	for _, n := range sizes {
		b := make([]byte, n)
		if _, err := r.Read(b); err != nil {
			t.Fatal(err)
		}
		p.layers = append(p.layers, b)
		ids = append(ids, digest.Of(append([]byte("diff"), b...)).String())
	}
	p.config = fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["%s"]},"history":[]}`,
		arch, strings.Join(ids, `","`))
	return p
}

func (p picture) upload(ref Ref) Upload {
	up := Upload{Ref: ref, Config: p.config, Manifest: func(c manifest.Descriptor, l []manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
		return manifest.New(manifest.OCI, c, l, nil)
	}}
	for _, b := range p.layers {
		up.Layers = append(up.Layers, UploadLayer{
			Blob: func(context.Context, func(io.ReadCloser)) (manifest.Descriptor, error) { return describe(b), nil },
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		})
	}
	return up
}

func describe(b []byte) manifest.Descriptor {
	return manifest.Descriptor{MediaType: manifest.OCILayerGzip, Digest: digest.Of(b), Size: int64(len(b))}
}

// pushed returns a registry that has the picture as app:1.
func pushed(t *testing.T, p picture) (*fake, Ref) {
	t.Helper()
	f := serve(t)
	ref := f.ref("team/app", "1")
	if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	return f, ref
}

// basket collects layers.
type basket struct {
	mu   sync.Mutex
	got  map[int][]byte
	errs []error
}

func (b *basket) sink() Sink {
	b.got = map[int][]byte{}
	return Sink{Layer: func(_ context.Context, i int, _ Layer, r io.Reader) error {
		all, err := io.ReadAll(r)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil {
			b.errs = append(b.errs, err)
			return err
		}
		b.got[i] = all
		return nil
	}}
}

func pull(t *testing.T, c *Client, ref Ref) (*Remote, *basket, error) {
	t.Helper()
	var b basket
	r, err := c.Resolve(t.Context(), ref, amd64)
	if err != nil {
		return nil, &b, err
	}
	return r, &b, c.Pull(t.Context(), r, b.sink())
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestWhatIsPushedIsPulled(t *testing.T) {
	p := paint(t, "amd64", 100_000, 0, 200_000)
	_, ref := pushed(t, p)
	r, b, err := pull(t, client(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Config, p.config) || r.Platform.String() != "linux/amd64" || r.Index != nil || digest.Of(r.Raw) != r.Manifest.Digest {
		t.Errorf("resolved %+v", r)
	}
	for i, want := range p.layers {
		if !bytes.Equal(b.got[i], want) {
			t.Errorf("layer %d: %d bytes came, want %d", i, len(b.got[i]), len(want))
		}
	}
	byDigest := ref
	byDigest.Tag, byDigest.Digest = "", r.Manifest.Digest
	if again, _, err := pull(t, client(), byDigest); err != nil || again.Manifest.Digest != r.Manifest.Digest {
		t.Errorf("by digest: %v", err)
	}
}

func TestALayerThatIsThereIsNotPulledAndOneTwiceIsPulledOnce(t *testing.T) {
	p := paint(t, "amd64", 1000, 2000)
	p.layers = append(p.layers, p.layers[0])
	p.config = bytes.Replace(p.config, []byte(`"]}`), []byte(`","`+digest.Of(append([]byte("diff"), p.layers[0]...)).String()+`"]}`), 1)
	f, ref := pushed(t, p)
	c := client()
	r, err := c.Resolve(t.Context(), ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	f.inject(nil)
	var b basket
	sink := b.sink()
	sink.Have = func(d digest.Digest) bool { return d == r.Layers[1].DiffID }
	if err := c.Pull(t.Context(), r, sink); err != nil {
		t.Fatal(err)
	}
	if n := f.count("GET /v2/team/app/blobs/"); n != 1 || len(b.got) != 1 {
		t.Errorf("%d blobs were asked for and %d came, want one", n, len(b.got))
	}
}

func TestPushSendsNothingThatTheRegistryHas(t *testing.T) {
	p := paint(t, "amd64", 1000, 2000)
	f, ref := pushed(t, p)
	f.inject(nil)
	var mu sync.Mutex
	var actions []Action
	c := client()
	c.Event = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		actions = append(actions, e.Action)
	}
	up := p.upload(ref)
	for i := range up.Layers {
		up.Layers[i].Open = func() (io.ReadCloser, error) { return nil, errors.New("opened for nothing") }
	}
	up.Ref.Tag = "2"
	if _, err := c.Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if n := f.count("POST"); n != 0 {
		t.Errorf("%d uploads were begun, want none", n)
	}
	if want := []Action{Exists, Exists, Exists}; !slices.Equal(actions, want) {
		t.Errorf("events %v, want %v", actions, want)
	}
}

func TestPushBorrowsFromAnotherRepositoryOfTheSameRegistry(t *testing.T) {
	p := paint(t, "amd64", 1000)
	f, ref := pushed(t, p)
	var mounts []string
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/new/app/blobs/") {
			w.WriteHeader(http.StatusNotFound) // ggcr's blobs are of no repository
			return true
		}
		if from := r.URL.Query().Get("from"); from != "" {
			mounts = append(mounts, from+" "+r.URL.Query().Get("mount"))
			w.WriteHeader(http.StatusCreated)
			return true
		}
		return false
	})
	up := p.upload(f.ref("new/app", "1"))
	up.Layers[0].From = []Ref{{Domain: "elsewhere.example", Path: "x/y"}, ref}
	up.Layers[0].Open = func() (io.ReadCloser, error) { return nil, errors.New("opened for nothing") }
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if want := []string{"team/app " + digest.Of(p.layers[0]).String()}; !slices.Equal(mounts, want) {
		t.Errorf("asked to borrow %v, want %v", mounts, want)
	}
}

func TestALayerThatTheRegistryKnowsIsNotCompressedAgain(t *testing.T) {
	p := paint(t, "amd64", 1000)
	_, ref := pushed(t, p)
	known := describe(p.layers[0])
	up := p.upload(Ref{Domain: ref.Domain, Path: ref.Path, Tag: "2"})
	up.Layers[0].Known = &known
	up.Layers[0].Blob = func(context.Context, func(io.ReadCloser)) (manifest.Descriptor, error) {
		return manifest.Descriptor{}, errors.New("compressed for nothing")
	}
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	other := describe([]byte("nobody has this"))
	up = p.upload(Ref{Domain: ref.Domain, Path: ref.Path, Tag: "3"})
	up.Layers[0].Known = &other
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if r, _, err := pull(t, client(), up.Ref); err != nil || r.Layers[0].Digest != known.Digest {
		t.Errorf("with a form that the registry lacks: %v", err)
	}
}

func TestPushSendsWhatIsNotLent(t *testing.T) {
	p := paint(t, "amd64", 1000)
	f := serve(t)
	up := p.upload(f.ref("new/app", "1"))
	up.Layers[0].From = []Ref{f.ref("team/app", "1")}
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, client(), up.Ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Errorf("pulled %d bytes, %v", len(b.got[0]), err)
	}
}

func TestPushRefusesALayerThatChangedSinceItWasDescribed(t *testing.T) {
	p := paint(t, "amd64", 1000)
	f := serve(t)
	up := p.upload(f.ref("app", "1"))
	opened := 0
	up.Layers[0].Open = func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(make([]byte, 1000))), nil
	}
	_, err := client().Push(t.Context(), up)
	if err == nil || !strings.Contains(err.Error(), "its content has the digest") {
		t.Errorf("got %v", err)
	}
	if opened != 1 {
		t.Errorf("tried %d times: its own mistake is not the registry's", opened)
	}
}

func TestPushTriesAgainAfterABrokenUpload(t *testing.T) {
	p := paint(t, "amd64", 100_000)
	f := serve(t)
	fails := 2
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") && fails > 0 {
			fails--
			panic(http.ErrAbortHandler)
		}
		return false
	})
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	ref := f.ref("app", "1")
	c := client()
	c.Jobs = 1
	if _, err := c.Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, client(), ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) || fails != 0 {
		t.Errorf("pulled %d bytes, %v, %d faults unused", len(b.got[0]), err, fails)
	}
}

// index puts an index of pictures in the registry.
func index(t *testing.T, f *fake, ref Ref, archs ...string) {
	t.Helper()
	var list []manifest.Descriptor
	for _, arch := range archs {
		parts := strings.Split(arch+"/", "/")
		one := ref
		one.Tag = ""
		d, err := client().Push(t.Context(), paint(t, parts[0], 10).upload(one))
		if err != nil {
			t.Fatal(err)
		}
		d.Platform = &manifest.Platform{OS: "linux", Architecture: parts[0], Variant: parts[1]}
		list = append(list, d)
	}
	raw, d, err := manifest.NewIndex(manifest.Docker, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client().open(t.Context(), ref, transport.PushScope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.putManifest(t.Context(), ref, raw, d); err != nil {
		t.Fatal(err)
	}
}

func TestResolvePicksThePlatformOfAnIndex(t *testing.T) {
	f := serve(t)
	ref := f.ref("team/multi", "1")
	index(t, f, ref, "s390x", "arm/v6", "amd64")
	for want, p := range map[string]manifest.Platform{
		"amd64": amd64, "arm": {OS: "linux", Architecture: "arm", Variant: "v7"},
	} {
		r, err := client().Resolve(t.Context(), ref, p)
		if err != nil {
			t.Fatal(err)
		}
		if r.Platform.Architecture != want || r.Index == nil || r.Index.MediaType != manifest.DockerIndex {
			t.Errorf("for %s: %+v", p, r.Platform)
		}
	}
	_, err := client().Resolve(t.Context(), ref, manifest.Platform{OS: "linux", Architecture: "riscv64"})
	if err == nil || !strings.Contains(err.Error(), "no image for linux/riscv64; there is linux/amd64, linux/arm/v6, linux/s390x") {
		t.Errorf("for riscv64: %v", err)
	}
}

func TestNotFoundSuggestsWhatTheRegistryHas(t *testing.T) {
	f, ref := pushed(t, paint(t, "amd64", 10))
	for _, tag := range []string{"1.15", "1.15-alpine", "2"} {
		other := ref
		other.Tag = tag
		if _, err := client().Push(t.Context(), paint(t, "amd64", 10).upload(other)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		ref        Ref
		msg, given string
	}{
		{f.ref("team/app", "1.16"), "team/app:1.16: not found in registry " + f.host(), "did you mean the tag 1.15 or 1 or 2?"},
		{f.ref("team/ap", "1"), "not found in registry", "did you mean the repository team/app?"},
	}
	for _, tt := range tests {
		_, err := client().Resolve(t.Context(), tt.ref, amd64)
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), tt.msg) || hint(err) != tt.given {
			t.Errorf("%s: %v, hint %q; want %q, hint %q", tt.ref, err, hint(err), tt.msg, tt.given)
		}
	}
}

func TestSuggestionsNeverCarryControlCharacters(t *testing.T) {
	f := serve(t)
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "tags/list") {
			return false
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"tags": []string{"1\x1b[2J", "10"}}); err != nil {
			t.Error(err)
		}
		return true
	})
	_, err := client().Resolve(t.Context(), f.ref("app", "1"), amd64)
	if got := hint(err); got != "did you mean the tag 10?" {
		t.Errorf("hint %q, %v", got, err)
	}
}

func TestSimilarNamesAreFewShortAndInOneOrder(t *testing.T) {
	many := make([]string, 100_000)
	for i := range many {
		many[i] = fmt.Sprintf("v%d", i)
	}
	tests := map[string]struct {
		want string
		have []string
		near string
	}{
		"the nearest first":     {"1.15-alpin", []string{"2", "1.15", "1.15-alpine", "latest"}, "1.15-alpine 1.15 latest"},
		"equals by name":        {"3", []string{"5", "4", "2", "1"}, "1 2 4"},
		"no name":               {"3", []string{"", "-x", "a b", "a\nb", strings.Repeat("3", 129)}, ""},
		"the first of too many": {"v99999", many, "v999 v199 v299"},
	}
	for name, tt := range tests {
		if got := strings.Join(similar(tt.want, tt.have), " "); got != tt.near {
			t.Errorf("%s: %q, want %q", name, got, tt.near)
		}
	}
}

func TestAnAnswerOfARegistryIsOneShortLine(t *testing.T) {
	for name, body := range map[string]string{
		"a page": "<html>\x1b[31m\n<h1>boo</h1>\n" + strings.Repeat("z", 5000),
		"json":   `{"errors":[{"code":"X\u001b[31m","message":"boo\n` + strings.Repeat("hoo ", 2000) + `"}]}`,
	} {
		f := serve(t)
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			w.WriteHeader(http.StatusBadRequest)
			if _, err := io.WriteString(w, body); err != nil {
				t.Error(err)
			}
			return true
		})
		_, err := client().Resolve(t.Context(), f.ref("app", "1"), amd64)
		if err == nil || !strings.Contains(err.Error(), "answers 400") || !strings.Contains(err.Error(), "boo") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s := err.Error(); len(s) > 400 || strings.ContainsAny(s, "\n\x1b") {
			t.Errorf("%s: %q", name, s)
		}
	}
}

func TestAnUnreachableRegistrySaysHowToDoWithout(t *testing.T) {
	f := serve(t)
	ref := f.ref("app", "1")
	f.Close()
	start := time.Now()
	_, err := (&Client{}).Resolve(t.Context(), ref, amd64)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"running there", "whittle load", "whittle import"} {
		if !strings.Contains(hint(err), want) {
			t.Errorf("hint %q does not say %q", hint(err), want)
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v to find out", d)
	}
}
