package entry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// tree makes a file system of lines: "path/" is a directory, "path -> target"
// a symlink, "path" a file.
func tree(lines ...string) *Mem {
	m := NewMem()
	for _, l := range lines {
		name, target, link := strings.Cut(l, " -> ")
		switch {
		case link:
			m.Add(Entry{Path: name, Kind: Symlink, Mode: 0o777, Link: target}, "")
		case strings.HasSuffix(l, "/"):
			m.Add(Entry{Path: strings.TrimSuffix(l, "/"), Kind: Dir, Mode: 0o755}, "")
		default:
			m.Add(Entry{Path: l, Kind: File, Mode: 0o644}, "text")
		}
	}
	return m
}

func TestResolveReadsPathsAsAProcessInThatRootWould(t *testing.T) {
	m := tree(
		"d/e/", "d/f", "file", "abs -> /d", "rel -> d", "up -> ../../../d/e", "dot -> .", "root -> /",
		"d/out -> ../file", "d/outer -> ../../../../file", "d/e/back -> ..", "chain1 -> chain2", "chain2 -> abs", "dangling -> /nowhere/x",
		"self -> self", "a -> b", "b -> a", "slash -> d/", "deep -> /d/e/back/e/back/out", "empty/", "slashes -> //d//./e//",
	)
	for _, c := range []struct{ name, follow, noFollow string }{
		{"", ".", "."}, {"/", ".", "."}, {".", ".", "."}, {"..", ".", "."}, {"/../..", ".", "."},
		{"file", "file", "file"}, {"//file/", "file", "file"}, {"./d/../file", "file", "file"},
		{"abs", "d", "abs"}, {"abs/f", "d/f", "d/f"}, {"rel/e", "d/e", "d/e"}, {"up", "d/e", "up"}, {"dot/dot/file", "file", "file"},
		{"root/root/d", "d", "d"}, {"d/out", "file", "d/out"}, {"d/outer", "file", "d/outer"}, {"d/e/back/f", "d/f", "d/f"},
		{"chain1/e", "d/e", "d/e"}, {"chain1", "d", "chain1"}, {"slash/f", "d/f", "d/f"}, {"deep", "file", "deep"}, {"slashes", "d/e", "slashes"},
		{"dangling", "nowhere/x", "dangling"}, {"missing/deep/x", "missing/deep/x", "missing/deep/x"},
		{"abs/../file", "file", "file"}, // .. is of where the link leads, not of its name
		{"up/..", "d", "d"},
		{"file/x", "file/x", "file/x"},
	} {
		for _, follow := range []bool{true, false} {
			want := c.noFollow
			if follow {
				want = c.follow
			}
			if got, err := Resolve(m, c.name, follow); err != nil || got != want {
				t.Errorf("%q (follow %v) is %q, %v; want %q", c.name, follow, got, err, want)
			}
		}
	}
	for _, name := range []string{"self", "a", "b/x", "d/../self"} {
		if got, err := Resolve(m, name, true); !errors.Is(err, ErrLoop) {
			t.Errorf("%q is %q, %v; want a loop", name, got, err)
		}
	}
	if got, err := Resolve(m, "self", false); err != nil || got != "self" {
		t.Errorf("the link itself is %q, %v", got, err)
	}
}

func TestResolveFollowsAsManyLinksAsTheKernel(t *testing.T) {
	for n, loop := range map[int]bool{maxLinks: false, maxLinks + 1: true} {
		m := tree("l0")
		for i := range n {
			m.Add(Entry{Path: fmt.Sprintf("l%d", i+1), Kind: Symlink, Link: fmt.Sprintf("l%d", i)}, "")
		}
		if _, err := Resolve(m, fmt.Sprintf("l%d", n), true); errors.Is(err, ErrLoop) != loop {
			t.Errorf("%d links: %v", n, err)
		}
	}
}

// broken is a file system that cannot be read.
type broken struct{ FS }

var errBroken = errors.New("broken disk")

func (broken) Lstat(string) (Entry, error) { return Entry{}, errBroken }

func TestResolveDoesNotTakeAReadErrorForAMissingFile(t *testing.T) {
	if got, err := Resolve(broken{}, "a/b", true); !errors.Is(err, errBroken) {
		t.Errorf("%q, %v", got, err)
	}
}

func walked(fsys FS, root string, fn func(Entry) error) (paths []string, err error) {
	err = Walk(fsys, root, func(e Entry) error {
		paths = append(paths, e.Path)
		return fn(e)
	})
	return paths, err
}

func TestWalkVisitsParentsFirstAndNamesInOrder(t *testing.T) {
	m := tree("b/z", "b/a/x", "a", "c -> b", "b/a.txt")
	none := func(Entry) error { return nil }
	got, err := walked(m, ".", none)
	if want := []string{".", "a", "b", "b/a", "b/a/x", "b/a.txt", "b/z", "c"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("visited %q, %v; want %q", got, err, want)
	}
	if got, err := walked(m, "b/a", none); err != nil || !slices.Equal(got, []string{"b/a", "b/a/x"}) {
		t.Errorf("below b/a: %q, %v", got, err)
	}
	if got, err := walked(m, "c", none); err != nil || !slices.Equal(got, []string{"c"}) {
		t.Errorf("a link is followed: %q, %v", got, err)
	}
	if _, err := walked(m, "no", none); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing root: %v", err)
	}
}

func TestWalkSkipsADirectoryAndStopsAtAnError(t *testing.T) {
	m := tree("a/x", "a/y", "b/z")
	got, err := walked(m, ".", func(e Entry) error {
		if e.Path == "a" {
			return fs.SkipDir
		}
		return nil
	})
	if want := []string{".", "a", "b", "b/z"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("visited %q, %v; want %q", got, err, want)
	}
	if got, err := walked(m, ".", func(Entry) error { return fs.SkipDir }); err != nil || len(got) != 1 {
		t.Errorf("skipping the root: %q, %v", got, err)
	}
	if got, err := walked(m, ".", func(e Entry) error {
		if e.Path == "a/x" {
			return errBroken
		}
		return nil
	}); err != errBroken || got[len(got)-1] != "a/x" {
		t.Errorf("stopped after %q with %v", got, err)
	}
}

func TestCleanKeepsEveryPathInside(t *testing.T) {
	for in, want := range map[string]string{
		"": ".", "/": ".", ".": ".", "..": ".", "../../x": "x", "/a/../../b": "b", "a//b/./c/": "a/b/c", "a/..": ".",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) is %q, want %q", in, got, want)
		}
	}
	for _, c := range [][3]string{{".", "a", "a"}, {"a", "b", "a/b"}, {"a", ".", "a"}, {".", ".", "."}} {
		if got := Join(c[0], c[1]); got != c[2] {
			t.Errorf("Join(%q, %q) is %q, want %q", c[0], c[1], got, c[2])
		}
	}
	if Parent(".") != "." || Parent("a") != "." || Parent("a/b") != "a" {
		t.Error("a parent is wrong")
	}
}

func TestMemIsAFileSystem(t *testing.T) {
	m := tree("d/e/f", "d/a")
	e, err := m.Lstat("d/e/f")
	if err != nil || e.Size != 4 || e.Kind != File || e.Base() != "f" {
		t.Errorf("d/e/f is %+v, %v", e, err)
	}
	if d, err := m.Lstat("d/e"); err != nil || !d.IsDir() || d.Mode != 0o755 {
		t.Errorf("a parent that was not added is %+v, %v", d, err)
	}
	kids, err := m.ReadDir("d")
	if err != nil || len(kids) != 2 || kids[0].Path != "d/a" || kids[1].Path != "d/e" {
		t.Errorf("d has %+v, %v", kids, err)
	}
	f, err := m.Open("d/a")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "text" {
		t.Errorf("content %q, %v", b, err)
	}
	_, lerr := m.Lstat("no")
	_, rerr := m.ReadDir("d/a")
	_, oerr := m.Open("d")
	_, terr := m.Lstat("d/a/x")
	for _, err := range []error{lerr, rerr, oerr, terr} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
}
