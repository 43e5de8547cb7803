package copying

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// A dice takes its throws from the fuzzer's bytes; after them it is all ones.
type dice struct{ b []byte }

func (d *dice) throw(n int) int {
	if len(d.b) == 0 {
		return 0
	}
	v := int(d.b[0]) % n
	d.b = d.b[1:]
	return v
}

var fuzzNames = []string{"a", "b", "c", "*", "[a]"}

// path makes a short path of few names, so that paths meet.
func (d *dice) path() string {
	els := []string{fuzzNames[d.throw(len(fuzzNames))]}
	for d.throw(3) == 1 && len(els) < 4 {
		els = append(els, fuzzNames[d.throw(len(fuzzNames))])
	}
	return strings.Join(els, "/")
}

// tree makes a file system whose links point anywhere.
func (d *dice) tree() *entry.Mem {
	m := entry.NewMem()
	for range d.throw(12) {
		p := d.path()
		if _, err := m.Lstat(p); err == nil || throughFile(m, p) {
			continue
		}
		e := entry.Entry{Path: p, Mode: uint32(d.throw(256)) << 4, UID: uint32(d.throw(3))}
		e.Kind = []entry.Kind{entry.File, entry.Dir, entry.Symlink, entry.Dir, entry.File, entry.Fifo, entry.Socket, entry.Char}[d.throw(8)]
		switch e.Kind {
		case entry.Symlink:
			e.Link = []string{"", "/", "../", "../../../", "./"}[d.throw(5)] + d.path()
		case entry.File:
			e.Inode = uint64(d.throw(4))
		}
		m.Add(e, content(e, p))
	}
	return m
}

// content is that of all names of a hard link, or else text.
func content(e entry.Entry, text string) string {
	if e.Inode != 0 {
		return fmt.Sprint("inode ", e.Inode)
	}
	return text
}

func throughFile(m *entry.Mem, p string) bool {
	for p = entry.Parent(p); p != "."; p = entry.Parent(p) {
		if e, err := m.Lstat(p); err == nil && !e.IsDir() {
			return true
		}
	}
	return false
}

func (d *dice) request() Request {
	r := Request{From: d.tree(), To: d.tree(), Now: testNow}
	r.Archive, r.FromContext, r.Literal = d.throw(3) == 1, d.throw(2) == 1, d.throw(4) == 1
	for range 1 + d.throw(3) {
		r.Sources = append(r.Sources, []string{"", "/", "../"}[d.throw(3)]+d.path())
	}
	if d.throw(3) == 1 {
		r.Sources[0] = ""
	}
	r.Dest = "/" + []string{"", "../", "a/../"}[d.throw(3)] + d.path() + []string{"", "/", "/."}[d.throw(3)]
	r.Chmod = []string{"", "0751", "u=rwX,go=rX"}[d.throw(3)]
	r.Chown = []string{"", "5", "a:b"}[d.throw(3)]
	for range d.throw(3) {
		r.Excludes = append(r.Excludes, []string{"", "**/", "!", "!**/", "*/"}[d.throw(5)]+d.path())
	}
	if r.Parents = d.throw(3) == 1; r.Parents {
		r.Literal, r.Archive = false, false
		for i, s := range r.Sources {
			r.Sources[i] = PathWithParents([]string{"", "a/./", "**/", "*/./"}[d.throw(4)] + s)
		}
	}
	if d.throw(2) == 1 {
		r.Implied = func(p string) bool { return len(p)%2 == 1 }
	}
	return r
}

func FuzzPlanKeepsItsPromises(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("a small tree over another"))
	for i := range byte(40) {
		seed := make([]byte, 160)
		for j := range seed {
			seed[j] = byte(j*j)*i + byte(j)*31 + i
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := dice{b}
		r := d.request()
		digest, _, contentErr := Content(r, nil)
		items, _, err := planOne(r)
		if err != nil {
			return
		}
		if contentErr != nil {
			t.Fatalf("planned, but has no digest: %v", contentErr)
		}
		checkItems(t, r, items)
		again, _, err := planOne(r)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(items) {
			t.Fatalf("a second plan differs: %v", err)
		}
		if same, _, _ := Content(r, nil); same != digest {
			t.Fatal("a second digest differs")
		}
	})
}

// checkItems checks what Plan promises of every result.
func checkItems(t *testing.T, r Request, items []Item) {
	t.Helper()
	kinds := map[string]entry.Kind{".": entry.Dir}
	links := map[uint64]int{}
	for _, it := range items {
		e := it.Entry
		if !fs.ValidPath(e.Path) || e.Path == "." {
			t.Fatalf("path %q", e.Path)
		}
		if _, twice := kinds[e.Path]; twice {
			t.Fatalf("%s: twice", e.Path)
		}
		if k, ok := kinds[entry.Parent(e.Path)]; !ok || k != entry.Dir {
			t.Fatalf("%s: its directory is not before it", e.Path)
		}
		kinds[e.Path] = e.Kind
		if e.Inode != 0 {
			links[e.Inode]++
		}
		if e.Mode > 0o7777 || e.Kind == entry.Socket || e.Kind == entry.Whiteout {
			t.Fatalf("%s: %s with mode %o", e.Path, e.Kind, e.Mode)
		}
		checkOld(t, r, it)
		checkSource(t, r, it)
	}
	for inode, n := range links {
		if n < 2 {
			t.Fatalf("inode %d has one name", inode)
		}
	}
}

// checkOld checks an item against what lies at its path.
func checkOld(t *testing.T, r Request, it Item) {
	t.Helper()
	old, err := r.To.Lstat(it.Entry.Path)
	switch {
	case it.Parent && !it.Made && (err != nil || fmt.Sprint(timeless(old)) != fmt.Sprint(timeless(it.Entry))):
		t.Fatalf("%s: repeated as %+v, is %+v (%v)", it.Entry.Path, it.Entry, old, err)
	case it.Made && err == nil:
		t.Fatalf("%s: made, but exists", it.Entry.Path)
	case !r.Archive && err == nil && old.IsDir() != it.Entry.IsDir():
		t.Fatalf("%s: a %s over a %s", it.Entry.Path, it.Entry.Kind, old.Kind)
	}
}

// checkSource checks that an item can be read from where it says.
func checkSource(t *testing.T, r Request, it Item) {
	t.Helper()
	if it.Source == "" {
		return
	}
	e, err := r.From.Lstat(it.Source)
	if err != nil || e.Kind != it.Entry.Kind || e.Size != it.Entry.Size {
		t.Fatalf("%s: from %s, which is %+v (%v)", it.Entry.Path, it.Source, e, err)
	}
}

func timeless(e entry.Entry) entry.Entry {
	e.Mtime = entry.Time{}
	return e
}

// results is all that a plan gives but times.
func results(t *testing.T, r Request) (string, error) {
	t.Helper()
	items, _, err := planOne(r)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, it := range items {
		fmt.Fprintf(&b, "%+v %v", timeless(it.Entry), it.Made)
		if it.Source != "" && it.Entry.Kind == entry.File {
			fmt.Fprintf(&b, " %q", readAll(t, r.From, it.Source))
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

// change makes one thing of a file system different.
func (d *dice) change(m *entry.Mem) *entry.Mem {
	out := entry.NewMem()
	var all []entry.Entry
	var walk func(p string)
	walk = func(p string) {
		kids, _ := m.ReadDir(p)
		for _, e := range kids {
			all = append(all, e)
			if e.IsDir() {
				walk(e.Path)
			}
		}
	}
	walk(".")
	at, what := d.throw(len(all)+1), d.throw(8)
	for i, e := range all {
		text := ""
		if e.Kind == entry.File {
			if f, err := m.Open(e.Path); err == nil {
				b, _ := io.ReadAll(f)
				text = string(b)
			}
		}
		if i == at {
			switch what {
			case 0:
				e.Mode ^= 1 << d.throw(12)
			case 1:
				e.UID++
			case 2:
				e.GID++ // no time: it is in no key, and yet what has another is not left out
			case 3:
				text += "x"
			case 4:
				if e.Kind == entry.Symlink {
					e.Link += "x"
				}
			case 5:
				e.Inode = uint64(d.throw(4))
			case 6:
				e.Xattrs = map[string]string{"user.x": "1"}
			case 7:
				if !e.IsDir() {
					continue
				}
			}
		}
		out.Add(e, content(e, text))
	}
	if at == len(all) {
		if p := d.path(); !throughFile(m, p) {
			if _, err := m.Lstat(p); err != nil {
				out.Add(entry.Entry{Path: p}, "new")
			}
		}
	}
	return out
}

// What gives another result has another digest: the key of a copy has no
// more than the digest of what it reads.
func FuzzDifferentResultsHaveDifferentContents(f *testing.F) {
	for i := range byte(60) {
		seed := make([]byte, 120)
		for j := range seed {
			seed[j] = byte(j*j)*(i+3) + byte(j)*57 + i
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := dice{b}
		one := d.request()
		two := one
		two.From = d.change(one.From.(*entry.Mem))
		was, err1 := results(t, one)
		is, err2 := results(t, two)
		if err1 != nil || err2 != nil || was == is {
			return
		}
		c1, _, err1 := Content(one, nil)
		c2, _, err2 := Content(two, nil)
		if err1 == nil && err2 == nil && c1 == c2 {
			t.Fatalf("one digest for\n%s and\n%s", was, is)
		}
	})
}
