package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

var hardNames = []string{
	"a", "A", ".", "..", "...", "../../../etc/passwd", "/", "//", "/abs", "a/b", "a%2fb", "a%2Fb", "%", "%%", "+", "a+", "+a",
	"docker.io/library/alpine:3.20", "localhost:5000/x@sha256:" + strings.Repeat("0", 64), "a b", "a\nb", "a\x00b", "ä", "\xff",
	"-x", "~", "CON", strings.Repeat("a", 200), strings.Repeat("a", 201), strings.Repeat("a", 200) + "+/+a",
	strings.Repeat("a", 200) + "..", strings.Repeat("/", 1024), strings.Repeat("a", 199) + "/", strings.Repeat("a", 400),
}

func TestAttack05NamesStayInTheirFolderAndNeverCollide(t *testing.T) {
	s := open(t)
	for i, name := range hardNames {
		check(t, s.PutDoc("tag", name, fmt.Appendf(nil, "%d", i)))
	}
	for i, name := range hardNames {
		b, err := s.Doc("tag", name)
		if err != nil || string(b) != fmt.Sprint(i) {
			t.Errorf("%.40q: got %s, %v; want %d", name, b, err, i)
		}
	}
	got, err := s.Docs("tag")
	check(t, err)
	want := slices.Clone(hardNames)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Docs gave %q", got)
	}
	for _, name := range hardNames {
		_, err := s.Folder("cache", name)
		check(t, err)
	}
	if got, _ := s.Folders("cache"); len(got) != len(hardNames) {
		t.Errorf("%d folders, want %d", len(got), len(hardNames))
	}
	names, err := readNames(s.Dir())
	check(t, err)
	if len(names) != len(folderNames())+1 {
		t.Errorf("the store's folder holds %v", names)
	}
	sound(t, s)
	for _, name := range hardNames {
		check(t, s.DeleteDoc("tag", name))
		check(t, s.RemoveFolder("cache", name))
	}
	if got, _ := s.Docs("tag"); len(got) > 0 {
		t.Errorf("left after deleting all: %q", got)
	}
}

func TestNamesOfNoOrTooManyBytesAndOddKindsAreRefused(t *testing.T) {
	s := open(t)
	for _, tt := range [][2]string{
		{"tag", ""}, {"tag", strings.Repeat("a", maxName+1)}, {"", "a"}, {"..", "a"}, {"a/b", "a"}, {"Tag", "a"},
	} {
		if err := s.PutDoc(tt[0], tt[1], []byte("1")); err == nil {
			t.Errorf("kind %q, name %.10q: accepted", tt[0], tt[1])
		}
		if _, err := s.Folder(tt[0], tt[1]); err == nil {
			t.Errorf("folder: kind %q, name %.10q: accepted", tt[0], tt[1])
		}
	}
	if err := s.PutDoc("tag", "a", []byte("{")); err == nil {
		t.Error("a document that is not JSON was accepted")
	}
	if p := s.CacheFile("../x", "../../y"); !strings.HasPrefix(p, s.path(cacheDir)+"/") || strings.Contains(p, "..") {
		t.Errorf("cache file at %s", p)
	}
}

func TestDistinctNamesGiveDistinctPaths(t *testing.T) {
	const alphabet = "aA./%+-2f\x00é"
	rnd := rand.New(rand.NewPCG(1, 2))
	seen := map[string]string{}
	for range 50000 {
		b := make([]byte, 1+rnd.IntN(6))
		if rnd.IntN(20) == 0 {
			b = make([]byte, 195+rnd.IntN(12))
		}
		for i := range b {
			b[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		name := string(b)
		enc, err := encodeName(name)
		check(t, err)
		if other, ok := seen[enc]; ok && other != name {
			t.Fatalf("%q and %q both give %q", name, other, enc)
		}
		seen[enc] = name
		if enc != strings.ToLower(enc) {
			t.Fatalf("%q gives %q, which a file system may fold", name, enc)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, n := range hardNames {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, name string) {
		enc, err := encodeName(name)
		if err != nil {
			return
		}
		for e := range strings.SplitSeq(enc, "/") {
			if e == "" || e[0] == '.' && len(name) < maxElem || len(e) > 255 || e == "." || e == ".." {
				t.Fatalf("%q gives the element %q", name, e)
			}
		}
		if back, err := decodeName(enc); err != nil || back != name {
			t.Fatalf("%q → %q → %q, %v", name, enc, back, err)
		}
		// What is not made by encodeName is refused.
		if back, err := decodeName(name); err == nil {
			if again, _ := encodeName(back); again != name {
				t.Fatalf("%q was read as %q", name, back)
			}
		}
	})
}

func TestUpdateDocDeletesFailsAndSkips(t *testing.T) {
	s := open(t)
	check(t, s.PutDoc("tag", "a", []byte(`{"v":1}`)))
	path, _ := s.named(docDir, "tag", "a")
	before, err := os.Stat(path)
	check(t, err)
	check(t, s.PutDoc("tag", "a", []byte(`{"v":1}`)))
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("the same document was written again")
	}
	if err := s.UpdateDoc("tag", "a", func([]byte) ([]byte, error) { return []byte("2"), os.ErrClosed }); err != os.ErrClosed {
		t.Errorf("got %v", err)
	}
	if b, _ := s.Doc("tag", "a"); string(b) != `{"v":1}` {
		t.Errorf("a failed update left %s", b)
	}
	check(t, s.UpdateDoc("tag", "a", func([]byte) ([]byte, error) { return nil, nil }))
	if names, _ := s.Docs("tag"); len(names) != 0 {
		t.Errorf("deleted, and still there: %v", names)
	}
	sound(t, s)
}
