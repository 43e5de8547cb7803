package execute

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	// A user's builds run in a user namespace, and so do a user's tests.
	if os.Geteuid() != 0 {
		if code, err := sandbox.ReexecInUserNS(); err == nil {
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
	if _, err := rootfs.Choose(s.Dir(), string(p), user); err != nil {
		t.Skipf("needs the %s provider: %v", p, err)
	}
	l := &lab{t: t, store: s, context: t.TempDir(), now: time.Unix(1700000000, 0),
		roots: rootfs.New(s, func() (rootfs.Provider, error) { return p, nil }, user)}
	t.Cleanup(func() { l.roots.Close() })
	return l
}

// everyProvider runs a test with both.
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
	ctx, err := source.OpenFolder(l.context, source.Options{Ignore: l.ignore})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ctx.Close() })
	now := func() time.Time { return l.now }
	local := &Local{Store: l.store, Roots: l.roots, Context: ctx, File: f, Sink: l, Now: now}
	return local, &solve.Solver{Store: l.store, Runner: local, Contents: local, Sink: l, Bases: bases, Now: now}, p
}

func (l *lab) build(text string) (rootfs.Chain, error) {
	l.t.Helper()
	_, s, p := l.local(text)
	r, err := s.Solve(l.t.Context(), p)
	if err != nil {
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
	v, err := l.roots.View(chain)
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

func TestALayerIsTheSameInBothForms(t *testing.T) {
	const text = "FROM base\nWORKDIR /w/deep\nCOPY --chown=7:8 tree /copied/\nCOPY --chmod=640 tree/a big /\nADD pack.tar /unpacked/\nCOPY --from=0 /copied /again/\n"
	files := func(l *lab) {
		l.withBusybox()
		l.file("tree/a", "a")
		l.file("tree/sub/b", strings.Repeat("b", 3000))
		l.file("tree/empty", "")
		os.Symlink("../a", filepath.Join(l.context, "tree/sub/link"))
		os.Link(filepath.Join(l.context, "tree/a"), filepath.Join(l.context, "tree/z"))
		os.Chmod(filepath.Join(l.context, "tree/sub/b"), 0o4751)
		os.Chtimes(filepath.Join(l.context, "tree/sub"), time.Unix(5, 0), time.Unix(5, 0))
		l.file("big", strings.Repeat("big ", smallestBig/2))
		l.file("pack.tar", string(archive(t, "x/implied", "y/")))
	}
	trees, tars := newLab(t, rootfs.Tree), newLab(t, rootfs.Erofs)
	files(trees)
	files(tars)
	inRoot := "FROM base AS zero\n" + strings.TrimPrefix(text, "FROM base\n")
	inRoot = strings.Replace(inRoot, "COPY --from=0 /copied /again/\n", "", 1)
	// A RUN on top makes all of them trees where trees are mounted.
	a, b := trees.mustBuild(inRoot+"RUN true\n"), tars.mustBuild(inRoot+"RUN true\n")
	if len(a) != 6 || len(b) != 6 {
		t.Fatalf("%d and %d layers", len(a), len(b))
	}
	for i := 1; i < 5; i++ {
		at, am := trees.tarOf(a[i])
		bt, bm := tars.tarOf(b[i])
		if am.Form != layer.FormTree || bm.Form != layer.FormTar {
			t.Errorf("layer %d has the forms %s and %s", i, am.Form, bm.Form)
		}
		if am.Entries != bm.Entries || am.Size != bm.Size {
			t.Errorf("layer %d: %d entries of %d bytes as a tree, %d of %d as a tar", i, am.Entries, am.Size, bm.Entries, bm.Size)
		}
		if !bytes.Equal(at, bt) {
			t.Errorf("layer %d differs:\n%s\nas a tar\n%s", i, strings.Join(trees.names(a[i]), "\n"), strings.Join(tars.names(b[i]), "\n"))
		}
	}
	// An empty RUN is an empty layer: no stub of a mount is left.
	for _, l := range []*lab{trees, tars} {
		chain := a
		if l == tars {
			chain = b
		}
		if n := l.names(chain[5]); len(n) > 1 || len(n) == 1 && !strings.HasPrefix(n[0], "./ ") {
			t.Errorf("RUN true changed %q", n)
		}
		l.clean()
	}
}

// archive is a tar of files, directories when they end in a slash, without
// their parents.
func archive(t testing.TB, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o640, Size: int64(len(n)), Typeflag: tar.TypeReg, Uid: 3, Gid: 4, ModTime: time.Unix(9, 0)}
		if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Size, h.Mode = tar.TypeDir, 0, 0o750
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, n)
		}
	}
	w.Close()
	return b.Bytes()
}

func TestAnArchiveKeepsFoldersThatItOnlyImplies(t *testing.T) {
	everyProvider(t, func(t *testing.T, l *lab) {
		l.withBusybox()
		l.file("pack.tar", string(archive(t, "srv/www/file", "opt/")))
		chain := l.mustBuild("FROM base\nRUN mkdir -p /srv/www && chmod 711 /srv && chmod 1777 /srv/www\nADD pack.tar /\nRUN ls /\n")
		v, err := l.roots.View(chain)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{"srv": "711 0:0", "srv/www": "1777 0:0", "srv/www/file": "640 3:4", "opt": "750 3:4"} {
			e, err := v.Lstat(path)
			if got := fmt.Sprintf("%o %d:%d", e.Mode, e.UID, e.GID); err != nil || got != want {
				t.Errorf("%s is %s, %v; want %s", path, got, err, want)
			}
		}
	})
}

func TestAProgramInAHereDocumentRunsForAnyUserAndLeavesNothing(t *testing.T) {
	everyProvider(t, func(t *testing.T, l *lab) {
		old := setUmask(0o077)
		defer setUmask(old)
		l.withBusybox()
		chain := l.mustBuild("FROM base\nRUN mkdir /out && chmod 777 /out\nUSER 1234:5678\nRUN <<EOF\n#!/bin/sh\nid > /out/id\necho \"$0\" > /out/name\nEOF\n")
		if got := l.read(chain, "out/id"); !strings.Contains(got, "uid=1234") || !strings.Contains(got, "gid=5678") {
			t.Errorf("ran as %q", got)
		}
		if got := l.read(chain, "out/name"); got != "/dev/pipes/EOF\n" {
			t.Errorf("ran as %q", got)
		}
		if n := l.names(chain[len(chain)-1]); slices.ContainsFunc(n, func(s string) bool { return strings.Contains(s, "pipes") || strings.Contains(s, "script") }) {
			t.Errorf("the layer has %q", n)
		}
		l.clean()
	})
}

func TestARunThatFailsLeavesNothing(t *testing.T) {
	everyProvider(t, func(t *testing.T, l *lab) {
		l.withBusybox()
		_, err := l.build("FROM base\nRUN echo said >&2; touch /x; exit 7\n")
		var exit *ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Fatalf("error %v", err)
		}
		if !strings.Contains(l.log.String(), "said") {
			t.Errorf("log %q", l.log.String())
		}
		l.clean()
	})
}

func TestARunEndsWithItsBuild(t *testing.T) {
	l := newLab(t, rootfs.Tree)
	l.withBusybox()
	_, s, p := l.local("FROM base\nRUN echo started; sleep 100\n")
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	s.Runner.(*Local).Sink = sinkFunc(func(e progress.Event) {
		if e.Kind == progress.Log {
			cancel(why)
		}
	})
	if _, err := s.Solve(ctx, p); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	l.clean()
}

type sinkFunc func(progress.Event)

func (f sinkFunc) Emit(e progress.Event) { f(e) }

func TestACopyNeedsNoProviderUnlessAProcessSeesIt(t *testing.T) {
	l := newLab(t, rootfs.Tree)
	no := errors.New("no mounts here")
	l.roots = rootfs.New(l.store, func() (rootfs.Provider, error) { return "", no }, sandbox.InUserNS())
	l.file("a", "a")
	chain := l.mustBuild("FROM scratch AS one\nCOPY a /a\nWORKDIR /w\nFROM scratch\nCOPY --from=one / /\n")
	if got := l.read(chain, "a"); got != "a" {
		t.Errorf("a is %q", got)
	}
	if _, err := l.build("FROM scratch\nCOPY a /a\nRUN [\"/a\"]\n"); !errors.Is(err, no) {
		t.Errorf("a RUN without mounts: %v", err)
	}
}

func TestTheContentOfAChainIsRememberedUnderAllThatItDependsOn(t *testing.T) {
	l := newLab(t, rootfs.Tree)
	l.file("a", "a")
	l.file("b", "b")
	contentOf := func(text string) digest.Digest {
		t.Helper()
		local, s, p := l.local(text)
		r, err := s.Solve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		step := p.Steps[len(p.Steps)-1]
		d, err := local.Content(t.Context(), solve.Job{Step: step, From: r.Chain(*step.Copy.From)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const from = "FROM scratch AS x\nCOPY --chown=5:6 --chmod=600 a b /\nFROM scratch\n"
	base := contentOf(from + "COPY --from=x /a /\n")
	if got := contentOf(from + "COPY --from=x /a /elsewhere\n"); got != base {
		t.Error("the destination is part of the content")
	}
	seen := map[digest.Digest]string{base: "/a"}
	for _, how := range []string{"/b /", "/a /b /", "/b /a /", "/* /", "/ /", "--chown=1 /a /", "--chmod=700 /a /"} {
		flags := ""
		if f, rest, ok := strings.Cut(how, " "); ok && strings.HasPrefix(f, "--") {
			flags, how = f+" ", rest
		}
		d := contentOf(from + "COPY " + flags + "--from=x " + how + "\n")
		if other, ok := seen[d]; ok {
			t.Errorf("%s%s has the content of %s", flags, how, other)
		}
		seen[d] = flags + how
	}
	// Another chain with other files is another content.
	l.file("a", "changed")
	if contentOf(from+"COPY --from=x /a /\n") == base {
		t.Error("the content of another chain was remembered")
	}
	if contentOf(strings.Replace(from, "600", "644", 1)+"COPY --from=x /a /\n") == base {
		t.Error("a mode is not part of the content")
	}
	// A damaged memory is no memory.
	files, err := filepath.Glob(filepath.Join(l.store.Dir(), "cache/content/*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is remembered: %v", err)
	}
	l.file("a", "a")
	for _, f := range files {
		if err := os.WriteFile(f, []byte(`"sha256:00`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := contentOf(from + "COPY --from=x /a /\n"); got != base {
		t.Errorf("content %s after the memory was damaged, want %s", got.Short(), base.Short())
	}
}

func TestHashingEndsWithItsBuild(t *testing.T) {
	l := newLab(t, rootfs.Tree)
	l.file("a", "a")
	local, s, p := l.local("FROM scratch AS x\nCOPY a /\nFROM scratch\nCOPY --from=x / /\n")
	r, err := s.Solve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(l.store.Dir(), "cache/content"))
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	step := p.Steps[1]
	if _, err := local.Content(ctx, solve.Job{Step: step, From: r.Chain(*step.Copy.From)}); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

func TestAFileThatChangesDuringTheBuildIsAMistakeThatSaysSo(t *testing.T) {
	for name, size := range map[string]int{"small": 100, "large": smallestBig * 2} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, rootfs.Tree)
			l.file("a", strings.Repeat("x", size))
			local, _, p := l.local("FROM scratch\nCOPY a /\n")
			if err := local.Context.Scan(t.Context(), []string{"a"}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(l.context, "a"), []byte(strings.Repeat("y", size)), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := local.Run(t.Context(), solve.Job{Step: p.Steps[0], Key: digest.Of(nil), Nonce: "n"})
			var m *dockerfile.Error
			if !errors.As(err, &m) || !strings.Contains(m.Msg, "changed") || m.Line != 2 || m.Hint == "" {
				t.Errorf("error %v", err)
			}
			l.clean()
		})
	}
}

func TestADeepChainIsAMistakeOfItsLine(t *testing.T) {
	l := newLab(t, rootfs.Tree)
	l.withBusybox()
	for i := range 500 {
		l.base = l.base.Push(l.tar(func(b *layer.Builder) error {
			return b.Add(entry.Entry{Path: fmt.Sprint("f", i), Kind: entry.Symlink, Link: "x"}, nil)
		}))
	}
	_, err := l.build("FROM base\n\nRUN true\n")
	var m *dockerfile.Error
	if !errors.As(err, &m) || m.Line != 3 || !strings.Contains(m.Msg, "501 layers") || m.Hint == "" {
		t.Errorf("error %v", err)
	}
}
