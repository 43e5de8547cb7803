package whittle_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/progress"
)

func TestOneImagePulledByManyAtOnceComesOnce(t *testing.T) {
	h := newWorkshop(t, "")
	var blobs atomic.Int32
	in := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		in.ServeHTTP(w, r)
	}))
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/app:1"
	built := h.mustBuild("FROM scratch\nCOPY a /a\nCOPY a /b\n", tags(name))
	if _, err := h.Push(t.Context(), name, whittle.Compression{}, progress.Discard{}); err != nil {
		t.Fatal(err)
	}
	blobs.Store(0)
	other := &workshop{t: t, root: filepath.Join(t.TempDir(), "store")}
	other.opt = whittle.Options{Root: other.root, UserNS: h.opt.UserNS}
	var wg sync.WaitGroup
	for range 4 {
		other.open() // as another process would
		w := other.Whittle
		wg.Go(func() {
			s, err := w.Pull(t.Context(), name, "", progress.Discard{})
			if err != nil {
				t.Error(err)
			} else if s.Image.ID != built.ID {
				t.Errorf("pulled %s, want %s", s.Image.ID.Short(), built.ID.Short())
			}
		})
	}
	wg.Wait()
	// Each reads the config to know the layers.
	if n := blobs.Load(); n > 4+2 {
		t.Errorf("%d blobs were sent, want four configs and two layers", n)
	}
	if problems, err := other.Fsck(t.Context(), false); err != nil || len(problems) > 0 {
		t.Errorf("afterwards: %v, %v", problems, err)
	}
}

// heard keeps the events of a transfer.
type heard struct {
	mu   sync.Mutex
	list []progress.Event
}

func (h *heard) Emit(e progress.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, e)
}

func TestWhyAPullFailedIsToldByItsErrorAlone(t *testing.T) {
	h := newWorkshop(t, "")
	in := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(in)
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/app:1"
	h.mustBuild("FROM scratch\nCOPY a /a\n", tags(name))
	if _, err := h.Push(t.Context(), name, whittle.Compression{}, nil); err != nil {
		t.Fatal(err)
	}
	configs := 0
	spoilt := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			if configs++; configs > 1 {
				whole := httptest.NewRecorder()
				in.ServeHTTP(whole, r)
				_, _ = w.Write(make([]byte, whole.Body.Len()))
				return
			}
		}
		in.ServeHTTP(w, r)
	}))
	defer spoilt.Close()
	other := &workshop{t: t, root: filepath.Join(t.TempDir(), "store")}
	other.opt = whittle.Options{Root: other.root, UserNS: h.opt.UserNS}
	other.open()
	var sink heard
	_, err := other.Pull(t.Context(), strings.TrimPrefix(spoilt.URL, "http://")+"/app:1", "", &sink)
	if err == nil {
		t.Fatal("a broken layer was taken")
	}
	ended := 0
	for _, e := range sink.list {
		if e.Kind != progress.Done {
			continue
		}
		ended++
		if e.Err == nil || strings.Contains(err.Error(), e.Err.Error()) {
			t.Errorf("the display tells %v, the error %v", e.Err, err)
		}
	}
	if ended != 1 {
		t.Errorf("ended %d times: %v", ended, err)
	}
	configs = 0
	if _, err := other.Pull(t.Context(), strings.TrimPrefix(spoilt.URL, "http://")+"/app:1", "", nil); err == nil {
		t.Error("a broken layer was taken")
	}
}
