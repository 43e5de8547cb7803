package entry

import (
	"errors"
	"io"
	"io/fs"
	"testing"
)

func TestSubIsARootOfItsOwn(t *testing.T) {
	m := NewMem()
	m.Add(Entry{Path: "outside", Kind: File}, "secret")
	m.Add(Entry{Path: "a", Kind: Dir, Mode: 0o700}, "")
	m.Add(Entry{Path: "a/b", Kind: Dir}, "")
	m.Add(Entry{Path: "a/b/file", Kind: File}, "content")
	m.Add(Entry{Path: "a/b/up", Kind: Symlink, Link: "../../outside"}, "")
	m.Add(Entry{Path: "a/b/abs", Kind: Symlink, Link: "/file"}, "")
	s := Sub(m, "a/b")
	var names []string
	err := Walk(s, ".", func(e Entry) error { names = append(names, e.Path); return nil })
	if got := len(names); err != nil || got != 4 || names[1] != "abs" || names[2] != "file" {
		t.Errorf("walk %q, %v", names, err)
	}
	for link, want := range map[string]string{"up": "outside", "abs": "file"} {
		if p, err := Resolve(s, link, true); p != want || err != nil {
			t.Errorf("%s leads to %q, %v; want %q", link, p, err, want)
		}
	}
	if _, err := s.Lstat("outside"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is outside: %v", err)
	}
	r, err := s.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "content" || err != nil {
		t.Errorf("content %q, %v", b, err)
	}
	if Sub(m, ".") != FS(m) {
		t.Error("all of a file system is not itself")
	}
}
