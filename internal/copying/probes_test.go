package copying

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
	patterns "github.com/whittle-build/whittle/internal/pattern"
)

var testNow = entry.Time{Sec: 1_700_000_000}

// probe is one case of testdata/cases.txt, which says what its lines mean.
type probe struct {
	name     string
	from, to *entry.Mem
	implied  map[string]bool // directories of from without a line
	run      string
	want     []string
	err      string
	ours     bool // want is not what the reference answers
}

func readProbes(t *testing.T) []probe {
	t.Helper()
	text, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []probe
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if name, ok := strings.CutPrefix(block, "case "); ok {
			name, lines, _ := strings.Cut(name, "\n")
			out = append(out, readProbe(t, name, strings.Split(strings.TrimSpace(lines), "\n")))
		}
	}
	return out
}

func readProbe(t *testing.T, name string, lines []string) probe {
	t.Helper()
	p := probe{name: name, implied: map[string]bool{}}
	var from, to, theirs []string
	for _, l := range lines {
		word, rest, _ := strings.Cut(l, " ")
		switch word {
		case "from":
			from = append(from, rest)
		case "to":
			to = append(to, rest)
		case "=":
			theirs = append(theirs, rest)
		case "~":
			p.want, p.ours = append(p.want, rest), true
		case "!":
			p.err = rest
		case "STAGE", "CONTEXT", "FILE", "ARCHIVE", "WORKDIR":
			p.run = l
		}
	}
	if p.ours {
		p.err = ""
	} else {
		p.want = theirs
	}
	p.from, p.to = tree(t, from, p.implied), tree(t, to, map[string]bool{})
	return p
}

// tree makes a file system of lines as cases.txt has them. It adds the
// directories that only parents imply to implied.
func tree(t *testing.T, lines []string, implied map[string]bool) *entry.Mem {
	t.Helper()
	m := entry.NewMem()
	listed := map[string]bool{}
	inodes := map[string]uint64{}
	for _, l := range lines {
		e, content := parseEntry(t, l)
		if e.Path == "./" {
			continue
		}
		if strings.HasPrefix(l, "h ") {
			first, err := m.Lstat(e.Link)
			if err != nil {
				t.Fatal(err)
			}
			if inodes[e.Link] == 0 {
				inodes[e.Link] = uint64(100 + len(inodes))
			}
			content = readAll(t, m, e.Link)
			first.Inode = inodes[e.Link]
			m.Add(first, content)
			first.Path = e.Path
			e = first
		}
		m.Add(e, content)
		listed[e.Path] = true
	}
	for p := range listed {
		for d := entry.Parent(p); d != "."; d = entry.Parent(d) {
			if !listed[d] {
				implied[d] = true
			}
		}
	}
	return m
}

// parseEntry reads `kind mode uid:gid @mtime path ["content"|-> target|n,n] [xattr name=hex]`.
func parseEntry(t *testing.T, line string) (entry.Entry, string) {
	t.Helper()
	line, xattr, _ := strings.Cut(line, " xattr ")
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 {
		t.Fatalf("%q: too short", line)
	}
	kinds := map[string]entry.Kind{
		"d": entry.Dir, "f": entry.File, "h": entry.File, "l": entry.Symlink,
		"p": entry.Fifo, "c": entry.Char, "b": entry.Block, "s": entry.Socket,
	}
	e := entry.Entry{Path: f[4], Kind: kinds[f[0]]}
	if _, err := fmt.Sscanf(strings.Join(f[1:4], " "), "%o %d:%d @%d", &e.Mode, &e.UID, &e.GID, &e.Mtime.Sec); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if name, value, ok := strings.Cut(xattr, "="); ok {
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		e.Xattrs = map[string]string{name: string(b)}
	}
	if len(f) < 6 {
		return e, ""
	}
	switch e.Kind {
	case entry.Char, entry.Block:
		fmt.Sscanf(f[5], "%d,%d", &e.Major, &e.Minor)
	default:
		if target, ok := strings.CutPrefix(f[5], "-> "); ok {
			e.Link = target
			return e, ""
		}
		s, err := strconv.Unquote(f[5])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return e, s
	}
	return e, ""
}

// show writes items as cases.txt has them, with no time for directories that
// hold what is written.
func show(t *testing.T, items []Item, from ...entry.FS) []string {
	t.Helper()
	items = slices.Clone(items)
	for i, it := range items {
		if it.Parent {
			items[i].Entry.Mtime = testNow
		}
	}
	return showTimes(t, items, from...)
}

// showTimes is show with all times.
func showTimes(t *testing.T, items []Item, from ...entry.FS) []string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	for _, it := range items {
		e := it.Entry
		kind := string("dflcbps"[slices.Index([]entry.Kind{entry.Dir, entry.File, entry.Symlink, entry.Char, entry.Block, entry.Fifo, entry.Socket}, e.Kind)])
		when := fmt.Sprintf("@%d", e.Mtime.Sec)
		if e.Mtime == testNow {
			when = "@now"
		}
		if e.Inode != 0 && first[e.Inode] != "" {
			out = append(out, fmt.Sprintf("h 0000 %d:%d %s %s -> %s", e.UID, e.GID, when, e.Path, first[e.Inode]))
			continue
		}
		first[e.Inode] = e.Path
		s := fmt.Sprintf("%s %04o %d:%d %s %s", kind, e.Mode, e.UID, e.GID, when, e.Path)
		switch {
		case e.Kind == entry.Symlink:
			s += " -> " + e.Link
		case e.Kind == entry.Char || e.Kind == entry.Block:
			s += fmt.Sprintf(" %d,%d", e.Major, e.Minor)
		case e.Kind == entry.File && e.Size > 0:
			s += " " + strconv.Quote(readAll(t, from[it.From], it.Source))
		}
		for k, v := range e.Xattrs {
			s += fmt.Sprintf(" xattr %s=%x", k, v)
		}
		out = append(out, s)
	}
	return out
}

// do computes what a case's instruction writes.
func (p probe) do(t *testing.T) ([]Item, error) {
	t.Helper()
	verb, rest, _ := strings.Cut(p.run, " ")
	if verb == "WORKDIR" {
		user, dir, _ := strings.Cut(rest, " ")
		uid, gid, err := User(p.to, user)
		if err != nil {
			t.Fatal(err)
		}
		items, err := Workdir(p.to, dir, uid, gid, testNow)
		if err != nil {
			return nil, err
		}
		return listOf(items)
	}
	r := Request{From: p.from, To: p.to, Now: testNow, FromContext: verb == "CONTEXT" || verb == "FILE"}
	link := false
	for strings.HasPrefix(rest, "--") {
		flag, tail, _ := strings.Cut(rest, " ")
		name, value, _ := strings.Cut(flag, "=")
		switch name {
		case "--chown":
			r.Chown = value
		case "--chmod":
			r.Chmod = value
		case "--exclude":
			r.Excludes = append(r.Excludes, value)
		case "--parents":
			r.Parents = true
		case "--link":
			link = value == "" || strings.EqualFold(value, "true")
		default:
			t.Fatalf("%s: a flag that the test does not know", flag)
		}
		rest = tail
	}
	words := strings.Fields(rest)
	if strings.HasPrefix(rest, `["`) {
		words = strings.Split(strings.Trim(rest, `["]`), `", "`)
	}
	r.Sources, r.Dest = words[:len(words)-1], words[len(words)-1]
	if r.Parents {
		for i, s := range r.Sources {
			r.Sources[i] = PathWithParents(s)
		}
	}
	if link && r.Chmod == "" {
		if NamesUser(r.Chown) {
			return nil, errors.New("invalid user index: -1")
		}
		r.To = entry.NewMem()
	}
	if verb == "ARCHIVE" {
		r.Archive = true
		r.Implied = func(path string) bool { return p.implied[path] }
	}
	items, _, err := planOne(r)
	return items, err
}

func TestPlanAnswersAsTheReferenceDoes(t *testing.T) {
	for _, p := range readProbes(t) {
		t.Run(p.name, func(t *testing.T) {
			items, err := p.do(t)
			if p.err != "" {
				checkError(t, err, p.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := showTimes(t, items, p.from)
			// The order is ours: a sorted layer is a reproducible one.
			want := slices.Clone(p.want)
			slices.SortFunc(want, byPath)
			slices.SortFunc(got, byPath)
			if !slices.Equal(got, want) {
				t.Errorf("%s\ngot  %s\nwant %s", p.run, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
		})
	}
}

func byPath(a, b string) int {
	return strings.Compare(strings.Fields(a)[4], strings.Fields(b)[4])
}

// checkError compares the words where whittle has the reference's, and the
// meaning where it has its own.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	var missing *NotFound
	var pattern *BadPattern
	var conflict *Conflict
	switch {
	case strings.Contains(want, "not found"), strings.Contains(want, "no such file") && !strings.Contains(want, "open "):
		if notKept := new(NotKept); !errors.As(err, &missing) && !errors.As(err, &notKept) {
			t.Errorf("error %v, want *NotFound (%s)", err, want)
		}
	case strings.Contains(want, "cludepatterns"):
		var bad *patterns.Error
		if !errors.As(err, &bad) {
			t.Errorf("error %v, want *pattern.Error (%s)", err, want)
		}
	case strings.Contains(want, "chmod parameter"), want == "invalid syntax":
		var bad *BadMode
		if !errors.As(err, &bad) {
			t.Errorf("error %v, want *BadMode (%s)", err, want)
		}
	case strings.Contains(want, "invalid user index"):
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	case strings.HasPrefix(want, "failed to stat /new/x/a: lstat /new/x/a: not a directory"):
		if !errors.As(err, &conflict) || conflict.Path != "/new/x" {
			t.Errorf("error %v, want a conflict with /new/x", err)
		}
	case strings.Contains(want, "syntax error"):
		if !errors.As(err, &pattern) {
			t.Errorf("error %v, want *BadPattern (%s)", err, want)
		}
	case strings.Contains(want, "too many links"):
		if !errors.Is(err, entry.ErrLoop) {
			t.Errorf("error %v, want %v", err, entry.ErrLoop)
		}
	case strings.HasPrefix(want, "lstat /f/x"):
		if !errors.As(err, &conflict) || conflict.Path != "/f" {
			t.Errorf("error %v, want a conflict with /f", err)
		}
	default:
		if !errors.As(err, &conflict) || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
}
