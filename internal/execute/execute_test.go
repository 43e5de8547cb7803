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
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/source"
)

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
		l.file("big", strings.Repeat("big ", smallestBig/2))
		l.file("pack.tar", string(archive(t, "x/implied", "y/")))
		l.dateContext(time.Unix(5, 0)) // of both labs the same, however slow they are
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
		v, err := l.roots.View(t.Context(), chain)
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
			if err := local.Context.FS.(*source.Context).Scan(t.Context(), []source.Part{{Path: "a"}}); err != nil {
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
