package layer

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"regexp"
	"sync"
	"testing"

	"errors"

	"github.com/whittle-build/whittle/internal/entry"
)

func dirAt(p string, mode uint32) item {
	return item{entry.Entry{Path: p, Kind: entry.Dir, Mode: mode}, ""}
}

func fileAt(p, text string) item {
	return item{entry.Entry{Path: p, Kind: entry.File, Mode: 0o644}, text}
}

func opaqueAt(p string) item {
	return item{entry.Entry{Path: p, Kind: entry.Dir, Mode: 0o700, Opaque: true}, ""}
}

func goneAt(p string) item { return item{entry.Entry{Path: p, Kind: entry.Whiteout}, ""} }

func linkAt(p, to string) item {
	return item{entry.Entry{Path: p, Kind: entry.Symlink, Mode: 0o777, Link: to}, ""}
}

var root755 = dirAt(".", 0o755)

// stacks are layers, bottom first.
var stacks = map[string][][]item{
	"one layer":         {{root755, fileAt("a", "1"), dirAt("d", 0o755), fileAt("d/x", "x")}},
	"upper file wins":   {{root755, fileAt("a", "1")}, {root755, fileAt("a", "22")}},
	"directories merge": {{root755, dirAt("d", 0o755), fileAt("d/a", "a"), fileAt("d/c", "c")}, {root755, dirAt("d", 0o711), fileAt("d/b", "b")}},
	"a deletion":        {{root755, fileAt("a", "1"), fileAt("b", "2")}, {root755, goneAt("a")}},
	"a deletion two layers down": {
		{root755, fileAt("a", "1")}, {root755, fileAt("b", "2")}, {root755, goneAt("a")},
	},
	"deleted and made again": {
		{root755, dirAt("d", 0o755), fileAt("d/old", "1")}, {root755, goneAt("d")}, {root755, dirAt("d", 0o750), fileAt("d/new", "2")},
	},
	"an opaque directory": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1"), dirAt("d/sub", 0o755), fileAt("d/sub/x", "x")},
		{root755, opaqueAt("d"), fileAt("d/b", "2"), dirAt("d/sub", 0o755), fileAt("d/sub/y", "y")},
	},
	"merged over opaque over hidden": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1")},
		{root755, opaqueAt("d"), fileAt("d/b", "2")},
		{root755, dirAt("d", 0o755), fileAt("d/c", "3"), goneAt("d/b")},
	},
	"a file instead of a directory": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1")}, {root755, fileAt("d", "file")},
	},
	"a directory instead of a file": {
		{root755, fileAt("d", "file")}, {root755, dirAt("d", 0o755), fileAt("d/a", "1")},
	},
	"a directory over a file over a directory": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1")}, {root755, fileAt("d", "f")}, {root755, dirAt("d", 0o755), fileAt("d/b", "2")},
	},
	"a link instead of a directory": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1"), dirAt("e", 0o755), fileAt("e/z", "z")}, {root755, linkAt("d", "e")},
	},
	"a directory instead of a link": {
		{root755, dirAt("e", 0o755), fileAt("e/z", "z"), linkAt("d", "e")}, {root755, dirAt("d", 0o755), fileAt("d/a", "1")},
	},
	"a deletion of nothing": {{root755, fileAt("a", "1")}, {root755, goneAt("b"), dirAt("d", 0o755), goneAt("d/x")}},
	"a deletion inside an opaque directory": {
		{root755, dirAt("d", 0o755), fileAt("d/a", "1")}, {root755, opaqueAt("d"), goneAt("d/a")},
	},
	"deep deletions": {
		{root755, dirAt("a", 0o755), dirAt("a/b", 0o755), dirAt("a/b/c", 0o755), fileAt("a/b/c/f", "1"), fileAt("a/b/g", "2")},
		{root755, dirAt("a", 0o755), dirAt("a/b", 0o700), goneAt("a/b/c")},
		{root755, dirAt("a", 0o755), dirAt("a/b", 0o755), dirAt("a/b/c", 0o755), fileAt("a/b/c/h", "3")},
	},
	"special files": {
		{root755, {entry.Entry{Path: "p", Kind: entry.Fifo, Mode: 0o600}, ""}, {entry.Entry{Path: "n", Kind: entry.Char, Major: 1, Minor: 3, Mode: 0o666}, ""}},
		{root755, goneAt("p"), fileAt("n", "file")},
	},
	"the root's mode": {{dirAt(".", 0o700), fileAt("a", "1")}, {dirAt(".", 0o1777), fileAt("b", "1")}},
	"names around dots": {
		{root755, fileAt("-", "1"), fileAt(".a", "2"), fileAt("..a", "3"), fileAt("a.b", "4"), dirAt("a", 0o755), fileAt("a/x", "5"), fileAt("a-b", "6")},
		{root755, goneAt("a.b"), dirAt("a", 0o755), fileAt("a/y", "7")},
	},
}

var groupRE = regexp.MustCompile(` same as "[^"]*"`)

// Overlayfs itself says what a stack of layers looks like, with the layers
// mounted from their indexes and with the layers unpacked.
func TestTheMergedViewIsWhatOverlayfsShows(t *testing.T) {
	needErofs(t)
	for name, layers := range stacks {
		t.Run(name, func(t *testing.T) {
			var views, trees []entry.FS
			var mounts, folders []string
			for _, items := range layers {
				dir, _ := build(t, items)
				views = append(views, openTar(t, dir))
				mounts = append(mounts, mountTar(t, dir, ""))
				tree := filepath.Join(t.TempDir(), "tree")
				if err := Unpack(t.Context(), dir, "", tree, UnpackOptions{}); err != nil {
					t.Fatal(err)
				}
				trees = append(trees, openTree(t, tree))
				folders = append(folders, tree)
			}
			want := dump(t, openTree(t, overlay(t, mounts)))
			diff(t, "overlay of trees", dump(t, openTree(t, overlay(t, folders))), want)
			diff(t, "merged indexes", dump(t, Merge(views...)), want)
			diff(t, "merged trees", dump(t, Merge(trees...)), want)
			diff(t, "one index of all", dump(t, openTree(t, mountMerged(t, layers))), want)
			checkLookups(t, Merge(views...), openTree(t, overlay(t, mounts)))
			grown := Merge(views[0])
			for _, v := range views[1:] {
				dump(t, grown) // so that it knows all of its directories
				grown = Extend(grown, v)
			}
			diff(t, "one layer after the other", dump(t, grown), want)
			checkLookups(t, grown, openTree(t, overlay(t, mounts)))
		})
	}
}

// mountMerged mounts one index of all the layers.
func mountMerged(t *testing.T, layers [][]item) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "merged")
	options := []string{"source=" + out}
	var parts []Part
	for _, items := range layers {
		dir, _ := build(t, items)
		parts = append(parts, Part{Dir: dir})
		options = append(options, "device="+filepath.Join(dir, TarName))
	}
	if err := MergeIndexes(out, parts); err != nil {
		t.Fatal(err)
	}
	return mount(t, "erofs", append(options, "ro")...)
}

// overlay mounts layers, bottom first, read-only.
func overlay(t *testing.T, layers []string) string {
	t.Helper()
	empty := t.TempDir()
	options := []string{}
	for i := len(layers) - 1; i >= 0; i-- {
		options = append(options, "lowerdir+="+layers[i])
	}
	if len(layers) == 1 {
		options = append(options, "lowerdir+="+empty)
	}
	options = append(options, "metacopy=off", "redirect_dir=nofollow", "index=off", "xino=off")
	return mount(t, "overlay", options...)
}

// checkLookups asks a fresh view for single paths, without listings first.
func checkLookups(t *testing.T, got, want entry.FS) {
	t.Helper()
	for _, p := range []string{"a", "b", "d", "d/a", "d/b", "d/c", "d/x", "d/sub/x", "d/sub/y", "a/b/c/f", "a/b/c/h", "d/a/deeper", "e/z", "none", "none/none"} {
		g, gerr := got.Lstat(p)
		w, werr := want.Lstat(p)
		if errors.Is(gerr, fs.ErrNotExist) != errors.Is(werr, fs.ErrNotExist) || g.Kind != w.Kind || g.Size != w.Size {
			t.Errorf("%s: %s of %d bytes (%v), want %s of %d (%v)", p, g.Kind, g.Size, gerr, w.Kind, w.Size, werr)
		}
	}
}

// A view that grew, whatever was asked of it before, is that of all its layers.
func TestAViewThatGrewIsThatOfItsLayers(t *testing.T) {
	names := []string{"a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "a/b/a", "a/a/a/a"} // parents first
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var layers []entry.FS
		var grown entry.FS
		for range 8 {
			l := randomLayer(r, names)
			if layers = append(layers, l); grown == nil {
				grown = Merge(l)
			} else {
				grown = Extend(grown, l)
			}
			for range r.IntN(6) { // at some layers nothing is asked
				if p := names[r.IntN(len(names))]; r.IntN(3) > 0 {
					_, _ = grown.Lstat(p)
				} else {
					_, _ = grown.ReadDir(entry.Parent(p))
				}
			}
		}
		want := Merge(layers...)
		if got, want := dump(t, grown), dump(t, want); got != want {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
		for _, p := range names {
			g, gerr := grown.Lstat(p)
			w, werr := want.Lstat(p)
			if (gerr == nil) != (werr == nil) || !reflect.DeepEqual(g, w) {
				t.Fatalf("seed %d: %s is %+v (%v), want %+v (%v)", seed, p, g, gerr, w, werr)
			}
		}
	}
}

// randomLayer has some of names; what is in a directory only where that is one.
func randomLayer(r *rand.Rand, names []string) entry.FS {
	m := entry.NewMem()
	dirs := map[string]bool{".": true}
	m.Add(entry.Entry{Path: ".", Kind: entry.Dir, Mode: uint32(r.IntN(0o1000)), Opaque: r.IntN(20) == 0}, "")
	for _, p := range names {
		e := entry.Entry{Path: p, Mode: uint32(r.IntN(0o1000))}
		switch k := r.IntN(10); {
		case !dirs[entry.Parent(p)] || k < 3:
			continue
		case k < 7:
			e.Kind, e.Opaque, dirs[p] = entry.Dir, r.IntN(6) == 0, true
		case k < 8:
			e.Kind = entry.Whiteout
		default:
			e.Kind, e.Inode = entry.File, uint64(r.IntN(3))
		}
		m.Add(e, "x")
	}
	return m
}

// What a layer's own root says shows through layers above that do not say.
func TestAnImpliedRootShowsTheRootBelow(t *testing.T) {
	a, _ := build(t, []item{dirAt(".", 0o700)})
	b, _ := build(t, []item{fileAt("x", "1")})
	below := Merge(openTar(t, a))
	for name, view := range map[string]entry.FS{"both": Merge(openTar(t, a), openTar(t, b)), "one after the other": Extend(below, openTar(t, b))} {
		if e, err := below.Lstat("."); err != nil || e.Mode != 0o700 {
			t.Errorf("root has mode %o (%v), want 700", e.Mode, err)
		}
		if e, err := view.Lstat("."); err != nil || e.Mode != 0o700 {
			t.Errorf("%s: root has mode %o (%v), want 700", name, e.Mode, err)
		}
	}
}

func TestAViewGrowsTwice(t *testing.T) {
	below := Merge(entry.NewMem(), entry.NewMem(), entry.NewMem())
	below = Extend(below, entry.NewMem()) // whose list of layers has room now
	of := func(name string) entry.FS {
		m := entry.NewMem()
		m.Add(entry.Entry{Path: name}, "")
		return m
	}
	one, two := Extend(below, of("one")), Extend(below, of("two"))
	for name, view := range map[string]entry.FS{"one": one, "two": two} {
		if list, err := view.ReadDir("."); err != nil || len(list) != 1 || list[0].Path != name {
			t.Errorf("%v (%v), want %s", list, err, name)
		}
	}
}

func TestAnOpaqueRootHidesAllLayersBelow(t *testing.T) {
	a, _ := build(t, []item{fileAt("old", "1")})
	b, _ := build(t, []item{opaqueAt("."), fileAt("new", "1")})
	list, err := Merge(openTar(t, a), openTar(t, b)).ReadDir(".")
	if err != nil || len(list) != 1 || list[0].Path != "new" {
		t.Errorf("list is %v (%v), want only new", list, err)
	}
}

func TestFilesOfDifferentLayersAreNotHardLinks(t *testing.T) {
	pair := func(a, b string) []item {
		x, y := fileAt(a, "same"), fileAt(b, "same")
		x.Inode, y.Inode = 1, 1
		return []item{x, y}
	}
	one, _ := build(t, pair("a", "b"))
	two, _ := build(t, pair("c", "d"))
	m := Merge(openTar(t, one), openTar(t, two))
	inode := func(p string) uint64 {
		e, err := m.Lstat(p)
		if err != nil || e.Inode == 0 {
			t.Fatalf("%s: %+v %v", p, e, err)
		}
		return e.Inode
	}
	if inode("a") != inode("b") || inode("c") != inode("d") || inode("a") == inode("c") {
		t.Errorf("inodes %d %d %d %d", inode("a"), inode("b"), inode("c"), inode("d"))
	}
}

func TestTheMergedViewServesManyGoroutines(t *testing.T) {
	var views []entry.FS
	for i := range 5 {
		dir, _ := build(t, append(manyFiles(300), fileAt(fmt.Sprintf("only-%d", i), "1")))
		views = append(views, openTar(t, dir))
	}
	m := Merge(views...)
	want := dump(t, Merge(views...))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := dump(t, m); got != want {
				t.Error("views differ")
			}
		})
	}
	wg.Wait()
}
