package copying

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// sampleTree is a view with one of everything that a content digest covers.
func sampleTree() map[string]entry.Entry {
	all := []entry.Entry{
		{Path: "s", Kind: entry.Dir, Mode: 0o755},
		{Path: "s/f", Mode: 0o644, Inode: 7},
		{Path: "s/g", Mode: 0o644, Inode: 7},
		{Path: "s/h", Mode: 0o600, UID: 1, GID: 2, Xattrs: map[string]string{"user.a": "1", "security.capability": "c", "security.selinux": "x", "system.posix_acl_access": "y"}},
		{Path: "s/d", Kind: entry.Dir, Mode: 0o700},
		{Path: "s/l", Kind: entry.Symlink, Mode: 0o777, Link: "f"},
		{Path: "s/c", Kind: entry.Char, Mode: 0o666, Major: 1, Minor: 3},
		{Path: "s/p", Kind: entry.Fifo, Mode: 0o644},
		{Path: "other", Mode: 0o644},
	}
	m := map[string]entry.Entry{}
	for _, e := range all {
		m[e.Path] = e
	}
	return m
}

func mem(entries map[string]entry.Entry, text map[string]string) *entry.Mem {
	m := entry.NewMem()
	var paths []string
	for p := range entries {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		m.Add(entries[p], text[p])
	}
	return m
}

func contentOf(t *testing.T, r Request) digest.Digest {
	t.Helper()
	d, _, err := Content(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContentChangesWithWhatIsCopiedAndWithNothingElse(t *testing.T) {
	edit := func(p string, f func(*entry.Entry)) func(map[string]entry.Entry, map[string]string) {
		return func(m map[string]entry.Entry, _ map[string]string) {
			e := m[p]
			f(&e)
			m[p] = e
		}
	}
	changes := map[string]func(map[string]entry.Entry, map[string]string){
		"content": func(_ map[string]entry.Entry, text map[string]string) { text["s/f"] = "G" },
		"mode":    edit("s/f", func(e *entry.Entry) { e.Mode = 0o755 }),
		"set-id":  edit("s/f", func(e *entry.Entry) { e.Mode = 0o4644 }),
		"an access list": edit("s/h", func(e *entry.Entry) {
			e.Xattrs = map[string]string{"user.a": "1", "security.capability": "c", "system.posix_acl_access": "z"}
		}),
		"uid":           edit("s/h", func(e *entry.Entry) { e.UID = 9 }),
		"gid":           edit("s/h", func(e *entry.Entry) { e.GID = 9 }),
		"uid for gid":   edit("s/h", func(e *entry.Entry) { e.UID, e.GID = 2, 1 }),
		"target":        edit("s/l", func(e *entry.Entry) { e.Link = "g" }),
		"device":        edit("s/c", func(e *entry.Entry) { e.Minor = 5 }),
		"kind":          edit("s/c", func(e *entry.Entry) { e.Kind = entry.Block }),
		"kind of fifo":  edit("s/p", func(e *entry.Entry) { e.Kind = entry.Socket }),
		"xattr":         edit("s/h", func(e *entry.Entry) { e.Xattrs = map[string]string{"user.a": "2", "security.capability": "c"} }),
		"capability":    edit("s/h", func(e *entry.Entry) { e.Xattrs = map[string]string{"user.a": "1", "security.capability": "d"} }),
		"no hard links": edit("s/g", func(e *entry.Entry) { e.Inode = 0 }),
		"nested dir":    edit("s/d", func(e *entry.Entry) { e.Mode = 0o755 }),
		"new name": func(m map[string]entry.Entry, _ map[string]string) {
			m["s/new"] = entry.Entry{Path: "s/new"}
		},
		"moved down": func(m map[string]entry.Entry, text map[string]string) {
			delete(m, "s/h")
			m["s/d/h"] = entry.Entry{Path: "s/d/h", Mode: 0o600, UID: 1, GID: 2, Xattrs: sampleTree()["s/h"].Xattrs}
		},
	}
	same := map[string]func(map[string]entry.Entry, map[string]string){
		"mtime":                   edit("s/f", func(e *entry.Entry) { e.Mtime.Sec = 99 }),
		"size without content":    edit("s/f", func(e *entry.Entry) { e.Size = 99 }),
		"mode of the copied root": edit("s", func(e *entry.Entry) { e.Mode, e.UID = 0o700, 8 }),
		"a file not copied":       func(_ map[string]entry.Entry, text map[string]string) { text["other"] = "changed" },
		"inode numbers": func(m map[string]entry.Entry, _ map[string]string) {
			edit("s/f", func(e *entry.Entry) { e.Inode = 70 })(m, nil)
			edit("s/g", func(e *entry.Entry) { e.Inode = 70 })(m, nil)
		},
		"a link to a file not copied": edit("s/h", func(e *entry.Entry) { e.Inode = 71 }),
		"labels of the machine": edit("s/h", func(e *entry.Entry) {
			e.Xattrs = map[string]string{"user.a": "1", "security.capability": "c", "system.posix_acl_access": "y"}
		}),
	}
	text := func() map[string]string { return map[string]string{"s/f": "F", "s/g": "F", "s/h": "H", "other": "O"} }
	base := contentOf(t, Request{From: mem(sampleTree(), text()), Sources: []string{"s"}})
	seen := map[digest.Digest]string{base: "no change"}
	for name, change := range changes {
		m, c := sampleTree(), text()
		change(m, c)
		d := contentOf(t, Request{From: mem(m, c), Sources: []string{"s"}})
		if other, ok := seen[d]; ok {
			t.Errorf("%q has the digest of %q", name, other)
		}
		seen[d] = name
	}
	for name, change := range same {
		m, c := sampleTree(), text()
		change(m, c)
		if contentOf(t, Request{From: mem(m, c), Sources: []string{"s"}}) != base {
			t.Errorf("%q changes the digest", name)
		}
	}
}

func TestContentLeavesOutWhatTheRequestReplaces(t *testing.T) {
	text := map[string]string{"s/f": "F", "s/g": "F", "s/h": "H"}
	one, two := sampleTree(), sampleTree()
	h := two["s/h"]
	h.UID, h.GID, h.Mode = 8, 9, 0o755
	two["s/h"] = h
	owner, full := sampleTree(), two
	h = owner["s/h"]
	h.UID, h.GID = 8, 9
	owner["s/h"] = h
	tests := []struct {
		name string
		r    Request
		with map[string]entry.Entry
		same bool
	}{
		{"owners of a context", Request{FromContext: true}, owner, true},
		{"owners under chown", Request{Chown: "1:1"}, owner, true},
		{"owners of an archive", Request{FromContext: true, Archive: true}, owner, false},
		{"modes under an octal chmod", Request{Chown: "1", Chmod: "755"}, full, true},
		{"modes under a symbolic chmod", Request{Chown: "1", Chmod: "u+x"}, full, false},
		{"modes of an archive", Request{Chown: "1", Chmod: "755", Archive: true}, full, false},
	}
	for _, tt := range tests {
		a, b := tt.r, tt.r
		a.From, b.From = mem(one, text), mem(tt.with, text)
		a.Sources, b.Sources = []string{"s"}, []string{"s"}
		if got := contentOf(t, a) == contentOf(t, b); got != tt.same {
			t.Errorf("%s: same is %v, want %v", tt.name, got, tt.same)
		}
	}
}

func TestContentTellsSourcesApart(t *testing.T) {
	m := view(t, `d 0755 0:0 @1 d1`, `f 0644 0:0 @1 d1/a "A"`, `d 0755 0:0 @1 d2`, `f 0644 0:0 @1 d2/a "A"`, `f 0644 0:0 @1 a "A"`, `f 0644 0:0 @1 b "A"`, `d 0755 0:0 @1 empty`)
	seen := map[digest.Digest]string{}
	for _, s := range [][]string{{"a"}, {"b"}, {"a", "b"}, {"b", "a"}, {"d1"}, {"d*"}, {"d1", "d2"}, {"d?", "a"}, {"x*"}, {}, {"x*", "y*"}, {"."}, {"empty"}, {"e*"}} {
		d := contentOf(t, Request{From: m, Sources: s})
		if other, ok := seen[d]; ok {
			t.Errorf("%q has the digest of %s", s, other)
		}
		seen[d] = fmt.Sprint(s)
	}
	inside := view(t, `d 0755 0:0 @1 d`, `f 0644 0:0 @1 d/x "X"`)
	beside := view(t, `d 0755 0:0 @1 d`, `f 0644 0:0 @1 x "X"`)
	if contentOf(t, Request{From: inside, Sources: []string{"."}}) == contentOf(t, Request{From: beside, Sources: []string{"."}}) {
		t.Error("a file in a directory is like one beside it")
	}
	// A directory's own name says nothing when no pattern found it.
	if contentOf(t, Request{From: m, Sources: []string{"d1"}}) != contentOf(t, Request{From: m, Sources: []string{"d2"}}) {
		t.Error("equal directories of two names differ")
	}
	archive := Request{From: m, Archive: true}
	if contentOf(t, archive) == contentOf(t, Request{From: m, Sources: []string{"."}}) {
		t.Error("an unpacked archive is like a copied root")
	}
	implied := archive
	implied.Implied = func(p string) bool { return p == "d1" }
	if contentOf(t, archive) == contentOf(t, implied) {
		t.Error("an implied directory is like a listed one")
	}
}

func TestContentReturnsWhatMatched(t *testing.T) {
	m := view(t, `f 0644 0:0 @1 a.c "A"`, `f 0644 0:0 @1 b.c "B"`)
	_, names, err := Content(Request{From: m, Sources: []string{"*.c", "*.h", "a.c"}}, nil)
	if want := []string{"a.c", "b.c", "a.c"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v; want %q", names, err, want)
	}
	var missing *NotFound
	if _, _, err := Content(Request{From: m, Sources: []string{"c.c"}}, nil); !errors.As(err, &missing) {
		t.Errorf("error %v, want *NotFound", err)
	}
}

// known answers for content without reading, and counts.
type known struct {
	asked map[string]int
	err   error
}

func (k known) FileDigest(e entry.Entry) (digest.Digest, error) {
	k.asked[e.Path]++
	return digest.Of([]byte("A")), k.err
}

func TestContentAsksADigesterOnceForEachFile(t *testing.T) {
	m := view(t, `d 0755 0:0 @1 s`, `f 0644 0:0 @1 s/a "A"`, `h 0644 0:0 @1 s/b -> s/a`, `f 0644 0:0 @1 s/c "A"`)
	k := known{asked: map[string]int{}}
	d, _, err := Content(Request{From: m, Sources: []string{"s"}}, k)
	if err != nil || d != contentOf(t, Request{From: m, Sources: []string{"s"}}) {
		t.Errorf("another digest than by reading; %v", err)
	}
	if len(k.asked) != 2 || k.asked["s/a"] != 1 || k.asked["s/c"] != 1 {
		t.Errorf("asked for %v", k.asked)
	}
	k.err = errors.New("disk on fire")
	if _, _, err := Content(Request{From: m, Sources: []string{"s"}}, k); !errors.Is(err, k.err) {
		t.Errorf("error %v, want %v", err, k.err)
	}
}

// broken is a view of which some files cannot be read, in part of the ways.
type broken struct {
	entry.FS
	open, read map[string]error
	opened     *atomic.Int64
}

func (b broken) Open(p string) (io.ReadCloser, error) {
	b.opened.Add(1)
	if err := b.open[p]; err != nil {
		return nil, err
	}
	f, err := b.FS.Open(p)
	if b.read[p] != nil {
		return io.NopCloser(iotest.ErrReader(b.read[p])), nil
	}
	return f, err
}

// Files are read side by side: the digest is that of reading them in order, and
// so is the error.
func TestContentOfManyFilesIsInOrder(t *testing.T) {
	m := big(5000)
	m.Add(entry.Entry{Path: "src/z/linked", Mode: 0o644, Inode: 7}, "A")
	m.Add(entry.Entry{Path: "src/z/linked2", Mode: 0o644, Inode: 7}, "A")
	m.Add(entry.Entry{Path: "src/d001/large", Mode: 0o644}, strings.Repeat("large ", 100_000))
	r := Request{From: m, Sources: []string{"src"}}
	want, _, err := Content(r, reads{m})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if got := contentOf(t, r); got != want {
			t.Fatalf("side by side %s, one after the other %s", got, want)
		}
	}
	first, second := errors.New("the first"), errors.New("the second")
	for _, b := range []broken{
		{open: map[string]error{"src/d001/f01200": first, "src/d001/f01300": second}},
		{open: map[string]error{"src/d001/f01300": second}, read: map[string]error{"src/d001/f01200": first}},
	} {
		b.FS, b.opened = m, new(atomic.Int64)
		r.From = b
		if _, _, err := Content(r, nil); !errors.Is(err, first) || errors.Is(err, second) {
			t.Errorf("error %v, want %v", err, first)
		}
		if n := b.opened.Load(); n > 3000 {
			t.Errorf("%d files were opened, though the 1201st could not be read", n)
		}
	}
}

// reads answers for content by reading, one file at a time.
type reads struct{ entry.FS }

func (r reads) FileDigest(e entry.Entry) (d digest.Digest, err error) {
	f, err := r.Open(e.Path)
	if err != nil {
		return d, err
	}
	b, err := io.ReadAll(f)
	return digest.Of(b), err
}

// big is a view of n files in folders of a thousand.
func big(n int) *entry.Mem {
	m := entry.NewMem()
	for i := range n {
		m.Add(entry.Entry{Path: fmt.Sprintf("src/d%03d/f%05d", i/1000, i), Mode: 0o644}, "x")
	}
	return m
}

func BenchmarkContentOf50000Files(b *testing.B) {
	r := Request{From: big(50_000), Sources: []string{"src"}, FromContext: true}
	k := known{asked: map[string]int{}}
	for b.Loop() {
		if _, _, err := Content(r, k); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPlanOf50000Files(b *testing.B) {
	r := Request{From: big(50_000), Sources: []string{"src"}, FromContext: true, To: entry.NewMem(), Dest: "/app/"}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := planOne(r); err != nil {
			b.Fatal(err)
		}
	}
}

// appending lists into memory that the caller has.
type appending struct {
	*entry.Mem
	again int
}

func (a *appending) AppendDir(list []entry.Entry, path string) ([]entry.Entry, error) {
	all, err := a.Mem.ReadDir(path)
	if cap(list) > 0 {
		a.again++
	}
	return append(list, all...), err
}

// fresh has new memory for each list.
type fresh struct{ *entry.Mem }

func (f fresh) AppendDir(_ []entry.Entry, path string) ([]entry.Entry, error) {
	return f.Mem.ReadDir(path)
}

// A folder's list is read to its end before its memory is used for another one, those
// of the folders in it included.
func TestContentIsThatOfListsOfTheirOwn(t *testing.T) {
	m := big(5000)
	for i := range 5 {
		m.Add(entry.Entry{Path: fmt.Sprintf("src/d%03d/in/deep/f", i), Mode: 0o600}, "y")
	}
	for _, excludes := range [][]string{nil, {"**/f000*"}} {
		r := Request{From: fresh{m}, Sources: []string{"src"}, FromContext: true, Excludes: excludes}
		want, _, err := Content(r, known{asked: map[string]int{}})
		if err != nil {
			t.Fatal(err)
		}
		from := &appending{Mem: m}
		r.From = from
		got, _, err := Content(r, known{asked: map[string]int{}})
		if err != nil || got != want {
			t.Errorf("without %v: content %v, want %v (%v)", excludes, got, want, err)
		}
		if from.again == 0 {
			t.Error("no list was used again")
		}
	}
}
