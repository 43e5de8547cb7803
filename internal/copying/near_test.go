package copying

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func TestAMissingSourceIsLookedForWhereItMayBe(t *testing.T) {
	m := entry.NewMem()
	for _, p := range []string{"src/bin1", "src/Makefile", "opt/deep/down/tool", "usr/bin/sh", "work/here/bin1", "app/conf/x.yml", "README.md", "bin"} {
		m.Add(file(p), "")
	}
	m.Add(symlink("current", "/opt/deep"), "")
	tests := []struct {
		source string
		hints  []string
		want   []string
	}{
		{"bin1", nil, []string{"/src/bin1", "/work/here/bin1", "/bin"}},
		{"/bin1", []string{"/work/here"}, []string{"/work/here/bin1", "/src/bin1", "/bin"}},
		{"readme.md", nil, []string{"/README.md"}},
		{"src/makefile", nil, []string{"/src/Makefile"}},
		{"scr/bin1", nil, []string{"/src/bin1", "/work/here/bin1"}},
		{"SRC/bin1", nil, []string{"/src/bin1", "/work/here/bin1"}},
		{"tool", nil, []string{"/opt/deep/down/tool"}},
		{"conf/x.yml", nil, []string{"/app/conf/x.yml"}},
		{"current/down/tolo", nil, []string{"/current/down/tool"}},
		{"current/down/too", nil, []string{"/current/down/tool"}},
		{"work/her/*.c", nil, []string{"/work/here"}},
		{"nothing-like-it", nil, nil},
	}
	for _, tt := range tests {
		r := Request{From: m, Sources: []string{tt.source}, HintDirs: tt.hints, To: entry.NewMem(), Dest: "/x"}
		_, _, err := planOne(r)
		var missing *NotFound
		if !errors.As(err, &missing) || missing.Source != tt.source || !slices.Equal(missing.Near, tt.want) {
			t.Errorf("%s: %+v, want near %q", tt.source, err, tt.want)
		}
	}
	r := Request{From: m, Sources: []string{"bin1"}, FromContext: true}
	_, err := Match(r)
	var missing *NotFound
	if !errors.As(err, &missing) || missing.Near[0] != "src/bin1" {
		t.Errorf("a context's paths have no slash before them: %+v", err)
	}
	if want := `"/bin1": not found`; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestALinkToNothingIsNamedWithItsTarget(t *testing.T) {
	m := entry.NewMem()
	m.Add(symlink("l", "/gone"), "")
	for _, s := range []string{"l", "*"} {
		_, err := Match(Request{From: m, Sources: []string{s}})
		if want := `"/l": a link to "/gone": not found`; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", s, err, want)
		}
	}
}

// counted is a view without end that counts what is read of it.
type counted struct {
	reads *int
}

func (c counted) Lstat(p string) (entry.Entry, error) {
	*c.reads++
	if p == "." {
		return folder("."), nil
	}
	return entry.Entry{}, fs.ErrNotExist
}

func (c counted) ReadDir(p string) ([]entry.Entry, error) {
	*c.reads++
	var out []entry.Entry
	for i := range 50 {
		out = append(out, folder(entry.Join(p, fmt.Sprint("d", i))))
	}
	return out, nil
}

func (c counted) Open(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }

func TestTheSearchForAMissingSourceEnds(t *testing.T) {
	reads := 0
	_, err := Match(Request{From: counted{&reads}, Sources: []string{"a/b/c"}})
	var missing *NotFound
	if !errors.As(err, &missing) {
		t.Fatal(err)
	}
	if reads > nearBudget {
		t.Errorf("%d reads of a view without end", reads)
	}
}

func TestSuggestionsAreFew(t *testing.T) {
	m := entry.NewMem()
	for _, d := range usualDirs[1:] {
		m.Add(file(d+"/tool"), "")
	}
	for i := range 30 {
		m.Add(file(fmt.Sprintf("d%02d/tool", i)), "")
		m.Add(file(fmt.Sprintf("tool%02d", i)), "")
	}
	_, err := Match(Request{From: m, Sources: []string{"tool"}})
	var missing *NotFound
	if !errors.As(err, &missing) || len(missing.Near) != maxNear || missing.Near[0] != "/src/tool" {
		t.Errorf("%+v, want %d suggestions", err, maxNear)
	}
}
