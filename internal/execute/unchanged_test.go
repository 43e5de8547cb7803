package execute

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/rootfs"
)

func TestWhatIsUnchangedIsLeftOutOfALayer(t *testing.T) {
	top := t.TempDir()
	then, later := time.Unix(1e9, 0), time.Unix(1e9+5, 0)
	write := func(dir, name, text string, mode os.FileMode, at time.Time) {
		t.Helper()
		p := filepath.Join(top, dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/same", "a/b/same", "content", "mode", "time", "kept/same"} {
		write("below", name, "text", 0o644, then)
	}
	write("upper/tree", "a/same", "text", 0o644, then)
	write("upper/tree", "a/b/same", "text", 0o644, then)
	write("upper/tree", "content", "TEXT", 0o644, then)
	write("upper/tree", "mode", "text", 0o600, then)
	write("upper/tree", "time", "text", 0o644, later)
	write("upper/tree", "kept/same", "text", 0o644, then)
	write("upper/tree", "kept/new", "", 0o644, then)
	kept := filepath.Join(top, "upper/tree/kept")
	if err := os.Chtimes(kept, later, later); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(top, "upper/tree")
	below, err := fsroot.Open(filepath.Join(top, "below"))
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()

	if _, err := leaveOut(&rootfs.Upper{Dir: tree}, below.FS()); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, tree), "content kept kept/new mode time"; got != want {
		t.Errorf("left: %s\nwant: %s", got, want)
	}
	if st, err := os.Stat(kept); err != nil || !st.ModTime().Equal(later) {
		t.Errorf("kept has another time now: %v, %v", st.ModTime(), err)
	}
	rootIsSaid(t, tree, false)

	if err := os.Remove(filepath.Join(top, "upper", layer.SideName)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := leaveOut(&rootfs.Upper{Dir: tree}, below.FS()); err != nil {
		t.Fatal(err)
	}
	rootIsSaid(t, tree, true)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, p); rel != "." {
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func rootIsSaid(t *testing.T, tree string, want bool) {
	t.Helper()
	v, err := layer.OpenTree(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got := !v.RootImplied(); got != want {
		t.Errorf("the layer says what the root is: %v, want %v", got, want)
	}
}
