package whittle_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/progress"
)

// notes keeps what a build says beside its steps.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Emit(e progress.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Kind == progress.Note {
		n.text.WriteString(e.Text + "\n")
	}
}

// A layer that would come later than its step takes is made again, unless steps of more
// worth depend on it: then it is fetched.
func TestASharedCacheIsNotSlowerThanBuilding(t *testing.T) {
	const (
		large = "RUN head -c 3000000 /dev/urandom >/large\n"
		slow  = "RUN sleep 2 && echo done >/slow\n"
	)
	for _, c := range []struct {
		name       string
		dockerfile string
		change     string        // of the last line, in the second build
		took       time.Duration // that 1 MB takes to come
		cached     int
		ran        int
	}{
		{"quick", "FROM base\n" + large, "", 10 * time.Millisecond, 1, 0},
		{"slow", "FROM base\n" + large, "", 2 * time.Second, 0, 1},
		{"slow, under what took long", "FROM base\n" + large + slow, "", 700 * time.Millisecond, 2, 0},
		{"slow, on what took long", "FROM base\n" + slow + large, "", time.Second, 1, 1},
		{"slow, for a step that runs", "FROM base\n" + large + "RUN echo one >/one\n", "RUN echo two >/two\n", time.Second, 0, 2},
		{"slow, and only copied out of", "FROM base AS x\n" + large + "RUN echo one >/one\nFROM base\nCOPY --from=x /one /\n", "", 2 * time.Second, 3, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			defer server.Close()
			domain := strings.TrimPrefix(server.URL, "http://")
			cache := []whittle.Cache{{Ref: domain + "/cache", Max: true}}
			first := newWorkshop(t, "")
			first.base("base")
			first.mustBuild(c.dockerfile, func(r *whittle.Request) { r.CacheTo = cache })

			second := newWorkshop(t, "")
			second.base("base")
			whittle.NotePace(second.Whittle, domain, 1<<20, c.took)
			text := c.dockerfile
			if c.change != "" {
				lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
				text = strings.Join(lines[:len(lines)-1], "") + c.change
			}
			said := &notes{}
			res := second.mustBuild(text, func(r *whittle.Request) { r.CacheFrom, r.Sink = cache, said })
			if res.Cached != c.cached || res.Ran != c.ran {
				t.Errorf("%d steps cached, %d run; want %d and %d\n%s", res.Cached, res.Ran, c.cached, c.ran, said.text.String())
			}
			told := strings.Contains(said.text.String(), "to fetch its 3.002MB would take about")
			if want := c.ran > 0; told != want {
				t.Errorf("it is told: %t\n%s", told, said.text.String())
			}
		})
	}
}

// What a step took is without the time for which its base came: to make its layer again does not
// take that, where the base is needed all the same.
func TestAStepIsNotThoughtSlowForItsBase(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/base/blobs/") {
			time.Sleep(2 * time.Second)
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	domain := strings.TrimPrefix(server.URL, "http://")
	whole := newWorkshop(t, "")
	whole.mustBuild("FROM scratch\nCOPY a /a\n", tags(domain+"/base"))
	if _, err := whole.Push(t.Context(), domain+"/base", whittle.Compression{}, progress.Discard{}); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("0123456789abcdef", 1<<16)
	copying := func(name string, last string, change func(*whittle.Request)) *whittle.Result {
		h := newWorkshop(t, "")
		whittle.NotePace(h.Whittle, domain, 1<<20, 800*time.Second) // its layer has 2 KB, which take 1.7 s
		req := whittle.Request{Context: folder(t, map[string]string{"large": large, "last": last,
			"Dockerfile": "FROM " + domain + "/base\nCOPY large /\nWORKDIR /w\nCOPY last /\n"})}
		change(&req)
		res, err := h.Build(t.Context(), req)
		if err != nil {
			t.Fatal(name, err)
		}
		return res
	}
	cache := []whittle.Cache{{Ref: domain + "/cache", Max: true}}
	copying("first", "one", func(r *whittle.Request) { r.CacheTo = cache })
	said := &notes{}
	res := copying("second", "two", func(r *whittle.Request) { r.CacheFrom, r.Sink = cache, said })
	if res.Ran != 3 {
		t.Errorf("%d steps cached, %d run: to fetch is thought to be sooner than to copy\n%s", res.Cached, res.Ran, said.text.String())
	}
}

// Of a registry that nothing has come from yet, one that is near is thought to be faster
// than to make a layer again that one far away would not be asked for.
func TestARegistryThatIsNearIsThoughtFast(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	cache := []whittle.Cache{{Ref: strings.TrimPrefix(server.URL, "http://") + "/cache", Max: true}}
	// At the pace of one that is far these are two seconds, at that of one that is near 0.4.
	const quick = "FROM base\nRUN sleep 0.5 && head -c 40000000 /dev/urandom >/large\n"
	first := newWorkshop(t, "")
	first.base("base")
	first.mustBuild(quick, func(r *whittle.Request) { r.CacheTo = cache })
	said := &notes{}
	for range 10 { // a connection may take longer where the machine is busy
		second := newWorkshop(t, "")
		second.base("base")
		res := second.mustBuild(quick, func(r *whittle.Request) { r.CacheFrom, r.Sink = cache, said })
		if res.Cached == 1 {
			return
		}
	}
	t.Errorf("the layer was not fetched\n%s", said.text.String())
}

func TestTheGuessOfAPace(t *testing.T) {
	for _, c := range []struct {
		reach time.Duration
		want  float64 // MiB a second
	}{{0, 20}, {50 * time.Microsecond, 100}, {2 * time.Millisecond, 100}, {3 * time.Millisecond, 20}, {time.Second, 20}} {
		if got := whittle.GuessedPace(c.reach) / (1 << 20); got != c.want {
			t.Errorf("reached in %v: %v MiB a second, want %v", c.reach, got, c.want)
		}
	}
}

// Nobody knows how fast a registry is that was never asked: a fetch that turns out to be
// slow is given up, and one that nothing can be made in the place of is not.
func TestAFetchThatTurnsOutToBeSlowIsGivenUp(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var slow atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			w = &trickle{w}
		}
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	domain := strings.TrimPrefix(server.URL, "http://")
	cache := []whittle.Cache{{Ref: domain + "/cache", Max: true}}
	const quick = "FROM base\nRUN head -c 3000000 /dev/urandom >/large\n"
	first := newWorkshop(t, "")
	first.base("base")
	first.mustBuild(quick, func(r *whittle.Request) { r.CacheTo = cache })
	slow.Store(true)
	second := newWorkshop(t, "")
	second.base("base")
	said := &notes{}
	res := second.mustBuild(quick, func(r *whittle.Request) { r.CacheFrom, r.Sink = cache, said })
	if res.Ran != 1 || !strings.Contains(said.text.String(), "to fetch its 3.002MB would take about") {
		t.Errorf("%d steps run\n%s", res.Ran, said.text.String())
	}
}

// trickle lets a blob out at 500 KB a second.
type trickle struct{ http.ResponseWriter }

func (w *trickle) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), 50_000)]
		time.Sleep(100 * time.Millisecond)
		var m int
		m, err = w.ResponseWriter.Write(part)
		w.ResponseWriter.(http.Flusher).Flush()
		n, p = n+m, p[m:]
	}
	return n, err
}
