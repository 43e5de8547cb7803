package whittle_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	// A user's builds run in a user namespace, and so do a user's tests.
	if os.Geteuid() != 0 {
		if code, err := sandbox.ReexecInUserNS(nil); err == nil {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// busybox is a static program with a shell, from Debian's busybox-static.
const busybox = "/bin/busybox"

// workshop is a store with builds in it.
type workshop struct {
	t    testing.TB
	root string
	opt  whittle.Options
	*whittle.Whittle
}

func newWorkshop(t testing.TB, provider string) *workshop {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, or a user with subordinate ids")
	}
	h := &workshop{t: t, root: filepath.Join(t.TempDir(), "store")}
	h.opt = whittle.Options{Root: h.root, Rootfs: provider, UserNS: sandbox.InUserNS()}
	h.open()
	return h
}

// open opens the store once more, as another process would.
func (h *workshop) open() {
	h.t.Helper()
	w, err := whittle.Open(h.opt)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			h.t.Error(err)
		}
	})
	h.Whittle = w
}

func everyProvider(t *testing.T, run func(t *testing.T, h *workshop)) {
	for _, p := range []string{"erofs", "tree"} {
		t.Run(p, func(t *testing.T) {
			h := newWorkshop(t, p)
			i, err := h.Info()
			if err != nil {
				t.Fatal(err)
			}
			if i.Chosen != p {
				t.Skipf("needs the %s provider: %s", p, i.Why)
			}
			run(t, h)
		})
	}
}

// base imports an image with a shell.
func (h *workshop) base(name string, changes ...string) {
	h.t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		h.t.Skipf("needs busybox-static: %v", err)
	}
	files := map[string]string{"bin/busybox": string(program)}
	for _, n := range []string{"sh", "cat", "echo", "ls", "sleep", "touch", "rm", "true", "head", "env"} {
		files["bin/"+n] = "-> busybox"
	}
	if _, err := h.Import(h.t.Context(), bytes.NewReader(tarOf(h.t, files)), name, append([]string{"ENV PATH=/bin"}, changes...), ""); err != nil {
		h.t.Fatal(err)
	}
}

// folder makes a build context.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (h *workshop) build(dockerfile string, change func(*whittle.Request)) (*whittle.Result, error) {
	h.t.Helper()
	req := whittle.Request{Context: folder(h.t, map[string]string{"Dockerfile": dockerfile, "a": "a\n"})}
	if change != nil {
		change(&req)
	}
	return h.Build(h.t.Context(), req)
}

func (h *workshop) mustBuild(dockerfile string, change func(*whittle.Request)) *whittle.Result {
	h.t.Helper()
	r, err := h.build(dockerfile, change)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *workshop) config(id digest.Digest) *config.Image {
	h.t.Helper()
	s, err := h.Image(id.String())
	if err != nil {
		h.t.Fatal(err)
	}
	return s.Image.Config
}

func tags(names ...string) func(*whittle.Request) {
	return func(r *whittle.Request) { r.Tags = names }
}

const threeStages = `FROM base AS tools
RUN echo tool > /tool
FROM tools AS build
WORKDIR /src
COPY a .
RUN cat a /tool > out
FROM base
COPY --from=build /src/out /out
RUN cat /out > /again
CMD ["cat", "/again"]
`
