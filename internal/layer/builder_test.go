package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// writers makes the two writers of layers, each with a way to read the result.
func writers(t *testing.T) map[string]func() (w writer, view func() *View) {
	return map[string]func() (writer, func() *View){
		"tar": func() (writer, func() *View) {
			dir := filepath.Join(t.TempDir(), "l")
			b, err := Create(dir)
			if err != nil {
				t.Fatal(err)
			}
			return b, func() *View { return openTar(t, dir) }
		},
		"tree": func() (writer, func() *View) {
			dir := filepath.Join(t.TempDir(), "tree")
			b, err := NewTree(dir, UnpackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return b, func() *View { return openTree(t, dir) }
		},
	}
}

type writer interface {
	adder
	Abort()
}

func linked(i item, n uint64) item {
	i.Inode = n
	return i
}

// What is added later replaces what was there, in both forms alike.
func TestAPathAddedAgainReplacesWhatItWas(t *testing.T) {
	needRoot(t)
	cases := map[string]struct {
		items []item
		want  string
	}{
		"file by file":         {[]item{fileAt("a", "1"), fileAt("a", "22")}, "a=22"},
		"file by folder":       {[]item{fileAt("a", "1"), dirAt("a", 0o755), fileAt("a/b", "2")}, "a/ a/b=2"},
		"folder by file":       {[]item{dirAt("a", 0o755), fileAt("a/b", "2"), dirAt("a/c", 0o755), fileAt("a", "1")}, "a=1"},
		"folder by link":       {[]item{dirAt("a", 0o755), fileAt("a/b", "2"), linkAt("a", "b")}, "a->b"},
		"link by file":         {[]item{linkAt("a", "b"), fileAt("b", "keep"), fileAt("a", "1")}, "a=1 b=keep"},
		"folder by folder":     {[]item{dirAt("a", 0o755), fileAt("a/b", "2"), dirAt("a", 0o700)}, "a/ a/b=2"},
		"parents are implied":  {[]item{fileAt("a/b/c", "1"), dirAt("a", 0o700)}, "a/ a/b/ a/b/c=1"},
		"parent was a file":    {[]item{dirAt("x", 0o755), fileAt("x/a", "1"), dirAt("x/a", 0o755), fileAt("x/a/b", "2")}, "x/ x/a/ x/a/b=2"},
		"hard links":           {[]item{linked(fileAt("a", "1"), 5), linked(fileAt("b", "1"), 5)}, "a=1 b=1(a)"},
		"first link replaced":  {[]item{linked(fileAt("a", "1"), 5), fileAt("a", "2"), linked(fileAt("b", "1"), 5), linked(fileAt("c", "1"), 5)}, "a=2 b=1 c=1(b)"},
		"first link in folder": {[]item{dirAt("d", 0o755), linked(fileAt("d/a", "1"), 5), fileAt("d", "x"), linked(fileAt("b", "1"), 5)}, "b=1 d=x"},
		"deletion by file":     {[]item{goneAt("a"), fileAt("a", "1")}, "a=1"},
		"sockets are left out": {[]item{{entry.Entry{Path: "s", Kind: entry.Socket}, ""}, fileAt("a", "1")}, "a=1"},
	}
	for name, c := range cases {
		for form, open := range writers(t) {
			w, view := open()
			addAll(t, w, c.items)
			if got := short(t, view()); got != c.want {
				t.Errorf("%s, %s: %q, want %q", name, form, got, c.want)
			}
		}
	}
}

// short lists a view with contents and hard links.
func short(t *testing.T, fsys entry.FS) string {
	t.Helper()
	var out []string
	groups := map[uint64]string{}
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		s := e.Path
		switch {
		case e.Path == ".":
			return nil
		case e.Kind == entry.Dir:
			s += "/"
		case e.Kind == entry.Symlink:
			s += "->" + e.Link
		case e.Kind == entry.File:
			s += "=" + strings.Trim(read(t, fsys, e.Path), `"`)
		}
		if first, ok := groups[e.Inode]; ok {
			s += "(" + first + ")"
		}
		if e.Inode != 0 {
			groups[e.Inode] = e.Path
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestWhatALayerCannotHoldIsRefused(t *testing.T) {
	for name, e := range map[string]entry.Entry{
		"a name that means deletion": {Path: "d/.wh.x", Kind: entry.File},
		"a path that is not clean":   {Path: "d/../x", Kind: entry.File},
		"an absolute path":           {Path: "/x", Kind: entry.File},
		"an empty path":              {Path: "", Kind: entry.File},
		"a path with a NUL":          {Path: "a\x00b", Kind: entry.File},
		"a root that is a file":      {Path: ".", Kind: entry.File},
		"a whiteout device":          {Path: "x", Kind: entry.Char},
		"a link to nothing":          {Path: "x", Kind: entry.Symlink},
		"a path that is too long":    {Path: strings.Repeat("x/", 3000) + "x", Kind: entry.File},
		"a file of less than none":   {Path: "x", Kind: entry.File, Size: -1},
	} {
		for form, open := range writers(t) {
			w, _ := open()
			if err := w.Add(e, strings.NewReader("")); err == nil {
				t.Errorf("%s was taken as a %s", name, form)
			}
			w.Abort()
		}
	}
}

func TestContentThatEndsEarlyIsAnError(t *testing.T) {
	for form, open := range writers(t) {
		for _, size := range []int64{10, maxPooled + 10} {
			for what, r := range map[string]io.Reader{
				"short": strings.NewReader("12345"), "empty": strings.NewReader(""),
				"broken": io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(errors.New("gone"))),
			} {
				w, _ := open()
				err := w.Add(entry.Entry{Path: "f", Kind: entry.File, Mode: 0o644, Size: size}, r)
				if err == nil || !strings.Contains(err.Error(), ": f: ") {
					t.Errorf("%s, %d bytes, %s: error %v", form, size, what, err)
				}
				w.Abort()
			}
		}
	}
}

func TestAnAbortedLayerLeavesNothing(t *testing.T) {
	top := t.TempDir()
	b, err := Create(filepath.Join(top, "l"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(entry.Entry{Path: "f", Kind: entry.File, Size: 3}, strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	b.Abort()
	tree, err := NewTree(filepath.Join(top, "tree"), UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Add(entry.Entry{Path: "d/f", Kind: entry.File, Size: 3}, strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	tree.Abort()
	for p, want := range map[string]int{"l": 0, ".": 1} {
		left, err := os.ReadDir(filepath.Join(top, p))
		if err != nil || len(left) != want {
			t.Errorf("%s has %v (%v)", p, left, err)
		}
	}
}

// A file that a worker of the tree builder cannot write is not forgotten.
func TestAnErrorOfAWorkerReachesTheCaller(t *testing.T) {
	to := filepath.Join(t.TempDir(), "tree")
	b, err := NewTree(to, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	if err := b.Add(entry.Entry{Path: "d", Kind: entry.Dir, Mode: 0o755}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(to, "d")); err != nil {
		t.Fatal(err)
	}
	add := b.Add(entry.Entry{Path: "d/f", Kind: entry.File, Size: 1}, strings.NewReader("x"))
	if _, err := b.Finish(); err == nil || !strings.Contains(err.Error(), "d/f") {
		t.Errorf("Add says %v, Finish %v", add, err)
	}
}

func TestAFileIsLinkedOnlyWhenNothingAboutItDiffers(t *testing.T) {
	needRoot(t)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	i, err := fsroot.Stat(f)
	if err != nil {
		t.Fatal(err)
	}
	same := i.Entry
	cases := map[string]func(*entry.Entry){
		"same":       func(*entry.Entry) {},
		"mode":       func(e *entry.Entry) { e.Mode = 0o600 },
		"owner":      func(e *entry.Entry) { e.UID = 7 },
		"time":       func(e *entry.Entry) { e.Mtime.Sec++ },
		"attributes": func(e *entry.Entry) { e.Xattrs = map[string]string{"user.x": "y"} },
	}
	b, err := NewTree(filepath.Join(t.TempDir(), "tree"), UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range cases {
		e := same
		e.Path = name
		change(&e)
		linked, err := b.AddLink(e, f)
		if err != nil || linked != (name == "same") {
			t.Errorf("%s: linked %v (%v)", name, linked, err)
		}
	}
	if _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	v := openTree(t, b.to)
	for name, change := range cases {
		want := same
		want.Path, want.Mtime.Nsec = name, 0
		change(&want)
		e, err := v.Lstat(name)
		e.Inode, e.Mtime.Nsec = 0, 0
		if err != nil || fmt.Sprint(e) != fmt.Sprint(want) || read(t, v, name) != `"text"` {
			t.Errorf("%s is %v (%v), want %v", name, e, err, want)
		}
	}
	if err := setxattr(src, "trusted.overlay.origin", ""); err != nil {
		t.Fatal(err)
	}
	b, err = NewTree(filepath.Join(t.TempDir(), "tree"), UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	same.Path = "marked"
	if linked, err := b.AddLink(same, f); linked || err != nil {
		t.Errorf("a file with a mark of overlayfs: linked %v (%v)", linked, err)
	}
}

func TestATreeThatCannotBeFinishedLeavesNoDescriptor(t *testing.T) {
	open := func() int {
		l, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	before := open()
	for range 5 {
		b, err := NewTree(filepath.Join(t.TempDir(), "tree"), UnpackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.pool.fail(io.ErrUnexpectedEOF) // what a full disk does
		_ = b.Add(entry.Entry{Path: "a", Kind: entry.Dir}, nil)
		if _, err := b.Finish(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("error %v", err)
		}
	}
	if n := open(); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}
