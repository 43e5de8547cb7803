package execute

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
)

// A layer that a COPY would write again is found when only what lies below has
// changed in ways that it does not see, and at no other time.
func TestACopyOfTheSameOntoAnotherStageIsNotWrittenAgain(t *testing.T) {
	l := newLab(t, "erofs")
	for i := range 3 {
		l.file("d/"+string(rune('a'+i)), strings.Repeat("content\n", 1<<16))
	}
	l.file("below", "1")
	const text = "FROM scratch AS src\nCOPY d /d\nFROM scratch\nCOPY below /\nCOPY --from=src --chown=FLAG /d /deep/e\n"
	made := func(text string) (top digest.Digest, written bool) {
		t.Helper()
		chain := l.mustBuild(text)
		top = chain[len(chain)-1]
		st, err := os.Stat(filepath.Join(l.store.LayerDir(top), layer.TarName))
		if err != nil {
			t.Fatal(err)
		}
		written = st.ModTime().After(time.Unix(1, 0))
		if err := os.Chtimes(filepath.Join(l.store.LayerDir(top), layer.TarName), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		return top, written
	}
	first := strings.Replace(text, "FLAG", "0", 1)
	was, written := made(first)
	if !written {
		t.Fatal("the first is not written")
	}
	l.file("below", "2")
	l.now = l.now.Add(time.Hour) // another layer has other times
	if is, written := made(first); is != was || written {
		t.Errorf("after a change below: layer %s (written: %v), was %s", is.Short(), written, was.Short())
	}
	local, solver, p := l.local(first)
	solver.NoCache = func(*plan.Step) bool { return true }
	if r, err := solver.Solve(t.Context(), p); err != nil {
		t.Error(err)
	} else if chain := r.Chain(p.Target.Root); chain[len(chain)-1] == was {
		t.Error("a step that is to run afresh did not")
	}
	if err := local.Close(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func() string{
		"another owner": func() string { return strings.Replace(text, "FLAG", "7", 1) },
		"a folder of another mode on its way": func() string {
			return strings.Replace(first, "COPY below /\n", "COPY --chmod=700 below /deep/\n", 1)
		},
		"other content": func() string {
			l.file("d/b", strings.Repeat("CONTENT\n", 1<<16))
			return first
		},
	} {
		if is, written := made(change()); is == was || !written {
			t.Errorf("%s: layer %s (written: %v)", what, is.Short(), written)
		}
	}
}

// Where the files of an archive land depends on links below it, which its
// entries do not show.
func TestAnArchiveOnOtherLinksIsAnotherLayer(t *testing.T) {
	l := newLab(t, "erofs")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"x", "y"} {
		text := strings.Repeat(name, 1<<20)
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name + "/f", Mode: 0o644, Size: int64(len(text))})
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l.file("a.tar", b.String())
	for from, to := range map[string]string{"one": "q z", "two": "z q"} {
		x, y, _ := strings.Cut(to, " ")
		for name, target := range map[string]string{"x": x, "y": y} {
			l.file(from+"/"+target+"/keep", "")
			if err := os.Symlink(target, filepath.Join(l.context, from, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct{ from, q string }{{"one", "x"}, {"two", "y"}} {
		chain := l.mustBuild("FROM scratch\nCOPY " + c.from + " /\nADD a.tar /\n")
		if got := l.read(chain, "q/f"); !strings.HasPrefix(got, c.q) {
			t.Errorf("on %s: q/f has %q", c.from, got[:1])
		}
	}
}
