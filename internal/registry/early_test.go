package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// making is a layer that is made while it is sent: half of it is there, and the
// rest comes when halfway returns.
type making struct {
	data    []byte
	halfway func() // nil returns at once
	fails   error  // what making it ends with
	stuck   bool   // the rest never comes, though the layer is known
	opened  atomic.Int32
	closed  atomic.Bool
}

type closing struct {
	*io.PipeReader
	was *atomic.Bool
}

func (c closing) Close() error {
	c.was.Store(true)
	return c.PipeReader.Close()
}

func (m *making) layer() UploadLayer {
	return UploadLayer{
		Blob: func(_ context.Context, see func(io.ReadCloser)) (manifest.Descriptor, error) {
			r, w := io.Pipe()
			see(closing{r, &m.closed})
			half := len(m.data) / 2
			_, _ = w.Write(m.data[:half]) // nobody need read it
			if m.halfway != nil {
				m.halfway()
			}
			if m.stuck {
				return describe(m.data), nil
			}
			go func() {
				_, _ = w.Write(m.data[half:])
				w.CloseWithError(m.fails)
			}()
			return describe(m.data), m.fails
		},
		Open: func() (io.ReadCloser, error) {
			m.opened.Add(1)
			return io.NopCloser(bytes.NewReader(m.data)), nil
		},
	}
}

func (m *making) upload(p picture, ref Ref) Upload {
	up := p.upload(ref)
	up.Layers[0] = m.layer()
	return up
}

// wait returns when the registry has been asked that.
func (f *fake) wait(t *testing.T, prefix string) {
	for range 1000 {
		if f.count(prefix) > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("no %s in 5 s", prefix)
}

func TestALayerIsSentWhileItIsMade(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f := serve(t)
	m := &making{data: p.layers[0], halfway: func() { f.wait(t, "PATCH /v2/app/blobs/") }}
	ref := f.ref("app", "1")
	c := client()
	var mu sync.Mutex
	var actions []Action
	c.Event = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Blob.Digest == describe(p.layers[0]).Digest && !slices.Contains(actions, e.Action) {
			actions = append(actions, e.Action)
		}
	}
	if _, err := c.Push(t.Context(), m.upload(p, ref)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, client(), ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Errorf("pulled %d bytes, %v", len(b.got[0]), err)
	}
	if m.opened.Load() != 0 || !m.closed.Load() {
		t.Errorf("opened %d times, the reader closed: %t", m.opened.Load(), m.closed.Load())
	}
	if want := []Action{Pushing, Pushed}; !slices.Equal(actions, want) {
		t.Errorf("events %v, want %v", actions, want)
	}
}

func TestALayerThatTurnsOutToBeThereIsSentNoFurther(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f, ref := pushed(t, p)
	f.inject(nil)
	m := &making{data: p.layers[0], stuck: true, halfway: func() { f.wait(t, "PATCH") }}
	if _, err := client().Push(t.Context(), m.upload(p, ref)); err != nil {
		t.Fatal(err)
	}
	if m.opened.Load() != 0 || !m.closed.Load() || f.count("DELETE /v2/team/app/blobs/uploads/") != 1 {
		t.Errorf("opened %d times, the reader closed: %t, uploads given up: %d", m.opened.Load(), m.closed.Load(), f.count("DELETE"))
	}
}

func TestWhatMayBeLentIsNotSentEarly(t *testing.T) {
	p := paint(t, "amd64", 1000)
	f := serve(t)
	up := p.upload(f.ref("app", "1"))
	up.Layers[0].From = []Ref{f.ref("other", "1")}
	blob := up.Layers[0].Blob
	up.Layers[0].Blob = func(ctx context.Context, see func(io.ReadCloser)) (manifest.Descriptor, error) {
		if see != nil {
			t.Error("the layer was to be shown")
		}
		return blob(ctx, see)
	}
	if _, err := client().Push(t.Context(), up); err != nil {
		t.Fatal(err)
	}
}

func TestAnEarlyUploadThatFailsCostsNothingButItself(t *testing.T) {
	code := func(n int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
	}
	faults := map[string]struct {
		method string
		answer func(w http.ResponseWriter, r *http.Request)
	}{
		"no uploads in parts": {http.MethodPatch, code(http.StatusMethodNotAllowed)},
		"upload unknown":      {http.MethodPatch, code(http.StatusNotFound)},
		"server error":        {http.MethodPatch, code(http.StatusInternalServerError)},
		"redirected": {http.MethodPatch, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}},
		"breaks off": {http.MethodPatch, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = r.Body.Read(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		}},
		"another digest": {http.MethodPut, code(http.StatusBadRequest)},
		"never begins":   {http.MethodPost, code(http.StatusTooManyRequests)},
	}
	for name, tt := range faults {
		t.Run(name, func(t *testing.T) {
			p := paint(t, "amd64", 300_000)
			f := serve(t)
			f.Config.ErrorLog = log.New(io.Discard, "", 0)
			var used atomic.Bool
			f.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != tt.method || !strings.Contains(r.URL.Path, "/blobs/uploads/") || used.Swap(true) {
					return false
				}
				tt.answer(w, r)
				return true
			})
			m := &making{data: p.layers[0]}
			ref := f.ref("app", "1")
			c := client()
			c.Jobs = 1
			if _, err := c.Push(t.Context(), m.upload(p, ref)); err != nil {
				t.Fatal(err)
			}
			if _, b, err := pull(t, client(), ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
				t.Errorf("pulled %d bytes, %v", len(b.got[0]), err)
			}
			if m.opened.Load() != 1 || !used.Load() || !m.closed.Load() {
				t.Errorf("opened %d times, fault used: %t, reader closed: %t", m.opened.Load(), used.Load(), m.closed.Load())
			}
		})
	}
}

func TestALayerThatCannotBeMadeIsNotLeftInTheRegistry(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f := serve(t)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	full := errors.New("no space left")
	m := &making{data: p.layers[0], fails: full, halfway: func() { f.wait(t, "PATCH") }}
	_, err := client().Push(t.Context(), m.upload(p, f.ref("app", "1")))
	if !errors.Is(err, full) || !m.closed.Load() || m.opened.Load() != 0 {
		t.Errorf("got %v, reader closed: %t, opened %d times", err, m.closed.Load(), m.opened.Load())
	}
	if n := f.count("PUT"); n != 0 {
		t.Errorf("%d PUTs", n)
	}
}

func TestAnInterruptEndsAnEarlyUpload(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	f := serve(t)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	m := &making{data: p.layers[0], stuck: true, halfway: func() {
		f.wait(t, "PATCH")
		cancel(interrupted)
	}}
	_, err := client().Push(ctx, m.upload(p, f.ref("app", "1")))
	if !errors.Is(err, interrupted) || !m.closed.Load() {
		t.Errorf("got %v, reader closed: %t", err, m.closed.Load())
	}
}

func TestDockersOwnRegistryTakesALayerWhileItIsMade(t *testing.T) {
	host := distribution(t)
	p := paint(t, "amd64", 3_000_000)
	m := &making{data: p.layers[0]}
	ref := Ref{Domain: host, Path: "team/app", Tag: "1"}
	if _, err := client().Push(t.Context(), m.upload(p, ref)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, client(), ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) || m.opened.Load() != 0 {
		t.Errorf("pulled %d bytes, %v, opened %d times", len(b.got[0]), err, m.opened.Load())
	}
}
