package copying

import (
	"fmt"
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
		m.Add(e, p)
	}
	return m
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
	case it.Parent && !it.Made && (err != nil || fmt.Sprint(old) != fmt.Sprint(it.Entry)):
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
