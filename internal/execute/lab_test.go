package execute

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/source"
	"github.com/whittle-build/whittle/internal/store"
	"golang.org/x/sys/unix"
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

// lab runs Dockerfiles on a real store and a real context.
type lab struct {
	t       testing.TB
	store   *store.Store
	roots   *rootfs.Roots
	context string
	later   bool // the context is scanned, its small files are not read
	ignore  []string
	base    rootfs.Chain // of "FROM base"
	now     time.Time

	mu  sync.Mutex
	log bytes.Buffer
}

func newLab(t testing.TB, p rootfs.Provider) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, or a user with subordinate ids: makes layers with owners, and mounts")
	}
	user := sandbox.InUserNS()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Owner: store.Owner{Kind: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Choose(s.Dir(), string(p), user, nil); err != nil {
		t.Skipf("needs the %s provider: %v", p, err)
	}
	l := &lab{t: t, store: s, context: t.TempDir(), now: time.Unix(1700000000, 0),
		roots: rootfs.New(s, func() (rootfs.Provider, error) { return p, nil }, user)}
	t.Cleanup(func() { l.roots.Close() })
	return l
}

// everyProvider runs a test with each.
func everyProvider(t *testing.T, run func(t *testing.T, l *lab)) {
	for _, p := range []rootfs.Provider{rootfs.Erofs, rootfs.Tree} {
		t.Run(string(p), func(t *testing.T) { run(t, newLab(t, p)) })
	}
}

func (l *lab) Emit(e progress.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Kind == progress.Log {
		l.log.Write(e.Data)
	}
}

// file puts a file into the context.
func (l *lab) file(name, text string) {
	l.t.Helper()
	at := filepath.Join(l.context, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	when := time.Unix(1600000000, 0)
	if err := os.Chtimes(at, when, when); err != nil {
		l.t.Fatal(err)
	}
}

// dateContext gives everything in the context the time at.
func (l *lab) dateContext(at time.Time) {
	l.t.Helper()
	ts := unix.NsecToTimespec(at.UnixNano())
	err := filepath.WalkDir(l.context, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// withBusybox makes "FROM base" an image with a shell.
func (l *lab) withBusybox() {
	l.t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		l.t.Skipf("needs busybox-static: %v", err)
	}
	l.base = rootfs.Chain{l.tar(func(b *layer.Builder) error {
		for _, d := range []string{"bin", "etc", "tmp"} {
			if err := b.Add(entry.Entry{Path: d, Kind: entry.Dir, Mode: 0o755}, nil); err != nil {
				return err
			}
		}
		err := b.Add(entry.Entry{Path: "bin/busybox", Mode: 0o755, Size: int64(len(program))}, bytes.NewReader(program))
		for _, name := range []string{"sh", "cat", "echo", "id", "ls", "rm", "touch", "mkdir", "sleep", "stat", "test", "chmod", "ln"} {
			if err == nil {
				err = b.Add(entry.Entry{Path: "bin/" + name, Kind: entry.Symlink, Mode: 0o777, Link: "busybox"}, nil)
			}
		}
		return err
	})}
}

func (l *lab) tar(fill func(b *layer.Builder) error) digest.Digest {
	l.t.Helper()
	tmp, err := l.store.Temp("test")
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := layer.Create(tmp.Path)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := fill(b); err != nil {
		l.t.Fatal(err)
	}
	meta, err := b.Finish()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.store.CommitLayer(tmp, meta.DiffID); err != nil {
		l.t.Fatal(err)
	}
	return meta.DiffID
}

// local is the runner of one build of text, with its plan.
func (l *lab) local(text string) (*Local, *solve.Solver, *plan.Plan) {
	l.t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	req := plan.Request{File: f, BuildPlatform: plan.Platform{OS: "linux", Arch: "amd64"}, Images: map[plan.Ref]*plan.Base{}}
	bases := map[plan.Ref]solve.Base{}
	p, err := plan.New(req)
	var missing *plan.Missing
	if errors.As(err, &missing) {
		for _, ref := range missing.Refs {
			req.Images[ref] = baseConfig()
			bases[ref] = solve.Base{ID: digest.Of([]byte("base")), Chain: l.base}
		}
		p, err = plan.New(req)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, err := source.OpenFolder(l.context, source.Options{Ignore: l.ignore, Later: l.later})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ctx.Close() })
	if l.later {
		if err := ctx.Scan(l.t.Context(), []source.Part{{Path: "."}}); err != nil {
			l.t.Fatal(err)
		}
	}
	now := func() time.Time { return l.now }
	local := &Local{Store: l.store, Roots: l.roots, Context: Folder(ctx), File: f, Sink: l, Now: now}
	l.t.Cleanup(func() { local.Close() })
	return local, &solve.Solver{Store: l.store, Runner: local, Contents: local, Sink: l, Bases: bases, Now: now}, p
}

func (l *lab) build(text string) (rootfs.Chain, error) {
	l.t.Helper()
	local, s, p := l.local(text)
	r, err := s.Solve(l.t.Context(), p)
	if err = errors.Join(err, local.Close()); err != nil {
		return nil, err
	}
	return r.Chain(p.Target.Root), nil
}

func (l *lab) mustBuild(text string) rootfs.Chain {
	l.t.Helper()
	c, err := l.build(text)
	if err != nil {
		l.t.Fatalf("%v\n%s", err, l.log.Bytes())
	}
	return c
}

// tarOf returns the tar of a layer, sealed if it is a tree.
func (l *lab) tarOf(id digest.Digest) ([]byte, layer.Meta) {
	l.t.Helper()
	dir := l.store.LayerDir(id)
	meta, err := layer.ReadMeta(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	if meta.Form == layer.FormTree {
		sealed := l.t.TempDir()
		if _, err := layer.Seal(l.t.Context(), filepath.Join(dir, layer.TreeName), sealed); err != nil {
			l.t.Fatal(err)
		}
		dir = sealed
	}
	b, err := os.ReadFile(filepath.Join(dir, layer.TarName))
	if err != nil {
		l.t.Fatal(err)
	}
	return b, meta
}

// names lists a layer's tar.
func (l *lab) names(id digest.Digest) []string {
	l.t.Helper()
	b, _ := l.tarOf(id)
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			l.t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %o %d:%d", h.Name, h.Mode, h.Uid, h.Gid))
	}
}

func (l *lab) read(chain rootfs.Chain, name string) string {
	l.t.Helper()
	v, err := l.roots.View(l.t.Context(), chain)
	if err != nil {
		l.t.Fatal(err)
	}
	f, err := v.Open(name)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b)
}

func (l *lab) clean() {
	l.t.Helper()
	left, err := os.ReadDir(filepath.Join(l.store.Dir(), "tmp"))
	if err != nil || len(left) > 0 {
		l.t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// baseConfig is the config of "FROM base".
func baseConfig() *plan.Base {
	return &plan.Base{ID: digest.Of([]byte("base")), Config: &config.Image{OS: "linux", Architecture: "amd64",
		Config: config.Config{Env: []string{"PATH=/bin"}}}}
}

func setUmask(mask int) (old int) { return syscall.Umask(mask) }
