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
	if _, err := h.Push(t.Context(), name, progress.Discard{}); err != nil {
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
