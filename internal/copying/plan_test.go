package copying

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// view makes a file system of lines as testdata/cases.txt has them.
func view(t *testing.T, lines ...string) *entry.Mem {
	t.Helper()
	return tree(t, lines, map[string]bool{})
}

func planOne(r Request) ([]Item, []Warning, error) { return planAll([]Request{r}) }

// planAll is Plan, with the items in a list. They are the same a second time.
func planAll(rs []Request) ([]Item, []Warning, error) {
	items, warnings, err := Plan(rs)
	if err != nil {
		return nil, warnings, err
	}
	list, err := listOf(items)
	again, _ := listOf(items)
	if err == nil && !reflect.DeepEqual(list, again) {
		err = fmt.Errorf("first %+v, then %+v", list, again)
	}
	return list, warnings, err
}

func listOf(items *Items) (list []Item, err error) {
	var size int64
	err = items.Each(func(it *Item) error {
		list = append(list, *it)
		list[len(list)-1].below = nil
		size += it.Entry.Size
		return nil
	})
	if err == nil && (len(list) != items.Len || size != items.Size) {
		err = fmt.Errorf("%d items of %d bytes, not %d of %d", len(list), size, items.Len, items.Size)
	}
	return list, err
}

func plan(t *testing.T, r Request) []Item {
	t.Helper()
	r.Now = testNow
	items, _, err := planOne(r)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func checkShow(t *testing.T, items []Item, from entry.FS, want ...string) {
	t.Helper()
	if got := show(t, items, from); !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestASymbolicModeChangesWhatIsCopiedAndNothingElse(t *testing.T) {
	from := view(t, `d 0700 0:0 @1 s`, `f 0600 0:0 @1 s/f "F"`, `f 0700 0:0 @1 s/x "X"`, `d 0700 0:0 @1 s/d`, `l 0777 0:0 @1 s/l -> f`)
	items := plan(t, Request{From: from, Sources: []string{"s"}, To: entry.NewMem(), Dest: "/a/b/", Chmod: "u=rwX,go=rX"})
	checkShow(t, items, from,
		`d 0755 0:0 @now a`, `d 0755 0:0 @now a/b`, `d 0755 0:0 @1 a/b/d`,
		`f 0644 0:0 @1 a/b/f "F"`, `l 0777 0:0 @1 a/b/l -> f`, `f 0755 0:0 @1 a/b/x "X"`)
	items = plan(t, Request{From: from, Sources: []string{"s"}, To: entry.NewMem(), Dest: "/a/", Chmod: "go-rwx"})
	if got := items[0].Entry.Mode; got != 0o755 {
		t.Errorf("a directory made on the way has mode %o, want 755", got)
	}
}

func TestABadModeIsAnErrorEvenWhenNothingMatches(t *testing.T) {
	r := Request{From: entry.NewMem(), Sources: []string{"*"}, To: entry.NewMem(), Dest: "/", Chmod: "08"}
	_, _, err := planOne(r)
	var bad *BadMode
	if !errors.As(err, &bad) {
		t.Errorf("Plan: error %v, want *BadMode", err)
	}
	if _, _, err = Content(r, nil); !errors.As(err, &bad) {
		t.Errorf("Content: error %v, want *BadMode", err)
	}
}

func TestASocketBecomesAnEmptyFile(t *testing.T) {
	from := entry.NewMem()
	from.Add(entry.Entry{Path: "s/sock", Kind: entry.Socket, Mode: 0o600, UID: 3, GID: 4, Mtime: entry.Time{Sec: 9}}, "")
	items := plan(t, Request{From: from, Sources: []string{"s"}, To: entry.NewMem(), Dest: "/"})
	checkShow(t, items, from, `f 0600 3:4 @9 sock`)
	if items[0].Source != "" {
		t.Errorf("Source is %q: there is nothing to read", items[0].Source)
	}
}

func TestXattrsAreCopiedAndAddToThoseOfAnExistingDirectory(t *testing.T) {
	from, to := entry.NewMem(), entry.NewMem()
	from.Add(entry.Entry{Path: "s/d", Kind: entry.Dir, Mode: 0o755, Xattrs: map[string]string{"user.a": "new", "user.b": "2"}}, "")
	from.Add(entry.Entry{Path: "s/f", Mode: 0o644, Xattrs: map[string]string{"user.f": "1"}}, "F")
	old := map[string]string{"user.a": "old", "user.c": "3"}
	to.Add(entry.Entry{Path: "d", Kind: entry.Dir, Mode: 0o700, Xattrs: old}, "")
	to.Add(entry.Entry{Path: "f", Mode: 0o600, Xattrs: map[string]string{"user.gone": "1"}}, "O")
	items := plan(t, Request{From: from, Sources: []string{"s"}, To: to, Dest: "/"})
	if x := items[0].Entry.Xattrs; len(x) != 3 || x["user.a"] != "new" || x["user.b"] != "2" || x["user.c"] != "3" {
		t.Errorf("directory: %v", x)
	}
	if x := items[1].Entry.Xattrs; len(x) != 1 || x["user.f"] != "1" {
		t.Errorf("file: %v", x)
	}
	if old["user.a"] != "old" || len(old) != 2 {
		t.Errorf("the view's own entry was changed: %v", old)
	}
}

func TestItemsSayWhereTheyComeFrom(t *testing.T) {
	from := view(t, `d 0700 0:0 @5 s`, `d 0700 0:0 @6 s/d`, `f 0600 0:0 @7 s/d/f "F"`)
	to := view(t, `d 0711 9:9 @20 old`)
	items := plan(t, Request{From: from, Sources: []string{"s"}, To: to, Dest: "/old/new/x"})
	want := []Item{
		{Parent: true}, {Parent: true, Made: true}, {Parent: true, Made: true},
		{Source: "s/d"}, {Source: "s/d/f"},
	}
	paths := []string{"old", "old/new", "old/new/x", "old/new/x/d", "old/new/x/d/f"}
	for i, it := range items {
		if it.Entry.Path != paths[i] || it.Source != want[i].Source || it.Parent != want[i].Parent || it.Made != want[i].Made {
			t.Errorf("item %d: %+v, want %s %+v", i, it, paths[i], want[i])
		}
	}
	// A directory on the way has the time of the request, the one that stands
	// for the copied directory has that directory's.
	if a, b := items[1].Entry.Mtime, items[2].Entry.Mtime; a != testNow || b.Sec != 5 {
		t.Errorf("times %v and %v", a, b)
	}
	if m := items[0].Entry.Mtime; m != testNow {
		t.Errorf("the existing directory, which got something new, has the time %v", m)
	}
}

func TestLinkGroupsAreOnesOfThisCopy(t *testing.T) {
	from := entry.NewMem()
	for _, p := range []string{"s/a", "s/b", "other", "s/sub/c"} {
		from.Add(entry.Entry{Path: p, Mode: 0o644, Inode: 900}, "x")
	}
	from.Add(entry.Entry{Path: "s/lone", Mode: 0o644, Inode: 901}, "y")
	from.Add(entry.Entry{Path: "t/lone2", Mode: 0o644, Inode: 901}, "y")
	inodes := func(items []Item) map[string]uint64 {
		m := map[string]uint64{}
		for _, it := range items {
			m[it.Entry.Path] = it.Entry.Inode
		}
		return m
	}
	m := inodes(plan(t, Request{From: from, Sources: []string{"s", "t"}, To: entry.NewMem(), Dest: "/"}))
	if m["a"] == 0 || m["a"] != m["b"] || m["a"] != m["sub/c"] || m["lone"] != 0 || m["lone2"] != 0 {
		t.Errorf("inodes %v", m)
	}
	// One of the names is replaced by a later source: two of three are left.
	over := view(t, `f 0600 0:0 @1 b "B"`)
	items, _, err := planAll([]Request{
		{From: from, Sources: []string{"s"}, To: entry.NewMem(), Dest: "/d/"},
		{From: over, Sources: []string{"b"}, Dest: "/d/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if m := inodes(items); m["d/a"] == 0 || m["d/a"] != m["d/sub/c"] || m["d/b"] != 0 {
		t.Errorf("after a replacement: inodes %v", m)
	}
}

func TestRequestsOfOneInstructionSeeEachOther(t *testing.T) {
	local := view(t, `f 0600 0:0 @1 a "A"`)
	text := view(t, `f 0644 0:0 @2 *.txt "T"`)
	items, _, err := planAll([]Request{
		{From: local, Sources: []string{"a"}, To: entry.NewMem(), Dest: "/x/y"},
		{From: text, Sources: []string{"*.txt"}, Literal: true, Dest: "/x", Chown: "u"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(t, items, local, text), []string{`d 0755 0:0 @now x`, `f 0644 0:0 @2 x/*.txt "T"`, `f 0600 0:0 @1 x/y "A"`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	_, _, err = planAll([]Request{
		{From: local, Sources: []string{"a"}, To: entry.NewMem(), Dest: "/x"},
		{From: text, Sources: []string{"*.txt"}, Literal: true, Dest: "/x/"},
	})
	var conflict *Conflict
	if !errors.As(err, &conflict) {
		t.Errorf("error %v, want *Conflict", err)
	}
}

func TestAnEmptySourceIsTheWholeRoot(t *testing.T) {
	from := view(t, `f 0600 1:1 @1 a "A"`, `d 0700 1:1 @2 d`)
	for _, s := range []string{"", ".", "/", "./", "..", "/../..", "x/.."} {
		items := plan(t, Request{From: from, Sources: []string{s}, FromContext: true, To: entry.NewMem(), Dest: "/x"})
		checkShow(t, items, from, `d 0755 0:0 @now x`, `f 0600 0:0 @1 x/a "A"`, `d 0700 0:0 @2 x/d`)
	}
}

func TestAPatternThatMatchesDirectoriesIsWarnedOf(t *testing.T) {
	from := view(t, `d 0755 0:0 @1 src`, `d 0755 0:0 @1 src/d1`, `d 0755 0:0 @1 src/d2`, `f 0644 0:0 @1 src/f "F"`, `l 0777 0:0 @1 l -> src/d1`)
	tests := []struct {
		source, dest, message, hint string
	}{
		{"src/*", "/app", "src/* matches src/d1, src/d2: the contents of each directory are merged into /app/", "to keep them, copy src/ instead of src/*: COPY src/ /app/"},
		{"src/d*", "/w/", "src/d* matches src/d1, src/d2: the contents of each directory are merged into /w/", "to keep a directory, name it in the destination too: COPY src/d1 /w/d1/"},
		{"*", "/", "* matches l, src: the contents of each directory are merged into /", "to keep them, copy . instead of *: COPY . /"},
		{"s?c", "/x", "s?c matches src: its contents go into /x/ without it", "to keep a directory, name it in the destination too: COPY src /x/src/"},
		{"src/f*", "/x", "", ""},
		{"src", "/x", "", ""},
	}
	for _, tt := range tests {
		_, ws, err := planOne(Request{From: from, Sources: []string{tt.source}, To: entry.NewMem(), Dest: tt.dest})
		if err != nil {
			t.Fatal(err)
		}
		var w Warning
		if len(ws) > 0 {
			w = ws[0]
		}
		if w.Message != tt.message || w.Hint != tt.hint {
			t.Errorf("%s:\n%s\n%s\nwant\n%s\n%s", tt.source, w.Message, w.Hint, tt.message, tt.hint)
		}
	}
}

func TestMatchReturnsTheNamesAsTheyAreCopied(t *testing.T) {
	from := view(t, `d 0755 0:0 @1 x`, `f 0644 0:0 @1 x/b.c "B"`, `f 0644 0:0 @1 x/a.c "A"`, `l 0777 0:0 @1 l -> x`)
	got, err := Match(Request{From: from, Sources: []string{"l/*.c", "/x/b.c", "*.none", "l"}})
	if want := []string{"x/a.c", "x/b.c", "x/b.c", "l"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	var bad *BadPattern
	if _, err := Match(Request{From: from, Sources: []string{"x/*/[a"}}); !errors.As(err, &bad) {
		t.Errorf("error %v, want *BadPattern", err)
	}
}

// asked is a view that counts what it is asked.
type asked struct {
	entry.FS
	n *int
}

func (a asked) Lstat(p string) (entry.Entry, error) {
	*a.n++
	return a.FS.Lstat(p)
}

func TestADirectoryThatIsMadeIsNotLookedInto(t *testing.T) {
	for _, source := range []string{"src", "src/d000"} {
		n := 0
		items := plan(t, Request{From: big(1000), Sources: []string{source}, To: asked{entry.NewMem(), &n}, Dest: "/app/"})
		if len(items) < 1000 || n > 20 {
			t.Errorf("%s: %d items, %d questions to an image that has none of them", source, len(items), n)
		}
	}
}
