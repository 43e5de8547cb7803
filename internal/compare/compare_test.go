package compare

import (
	"bytes"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func file(p, text string) (entry.Entry, string) {
	return entry.Entry{Path: p, Kind: entry.File, Mode: 0o644, Size: int64(len(text))}, text
}

func TestTrees(t *testing.T) {
	long := strings.Repeat("x", window) // so that the difference lies in the second window
	tests := map[string]struct {
		make func(m *entry.Mem, second bool)
		want []Difference
	}{
		"the same":            {func(m *entry.Mem, _ bool) { m.Add(file("a", "text")) }, nil},
		"text":                {func(m *entry.Mem, s bool) { m.Add(file("a", "one\ntwo "+pick(s, "3", "4")+"\nfive")) }, []Difference{{"a", Content, "two 3", "two 4", 8}}},
		"a longer one":        {func(m *entry.Mem, s bool) { m.Add(file("a", "one"+pick(s, "", "two"))) }, []Difference{{"a", Content, "one", "onetwo", 3}}},
		"past the first part": {func(m *entry.Mem, s bool) { m.Add(file("a", long+"y"+pick(s, "1", "2"))) }, []Difference{{"a", Content, strings.Repeat("x", 23) + "y1", strings.Repeat("x", 23) + "y2", window + 1}}},
		"bytes":               {func(m *entry.Mem, s bool) { m.Add(file("a", "\x00\x01"+pick(s, "\x02", "\x03"))) }, []Difference{{"a", Content, "02", "03", 2}}},
		"one more": {func(m *entry.Mem, s bool) {
			m.Add(file("b", ""))
			m.Add(file(pick(s, "a", "c"), ""))
		}, []Difference{{"a", OnlyFirst, "file", "", 0}, {"c", OnlySecond, "", "file", 0}}},
		"metadata": {func(m *entry.Mem, s bool) {
			e, b := file("a", "")
			if s {
				e.Mode, e.UID, e.Mtime.Sec, e.Xattrs = 0o755, 1, 9, map[string]string{"user.a": "b"}
			}
			m.Add(e, b)
		}, []Difference{{"a", Mode, "0644", "0755", 0}, {"a", Owner, "0:0", "1:0", 0}, {"a", Attributes, "", "", 0}, {"a", Time, "0", "9", 0}}},
		"the root": {func(m *entry.Mem, s bool) {
			e := entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755}
			if s {
				e.Mode, e.GID, e.Mtime.Sec = 0o700, 7, 9
			}
			m.Add(e, "")
		}, []Difference{{".", Mode, "0755", "0700", 0}, {".", Owner, "0:0", "0:7", 0}, {".", Time, "0", "9", 0}}},
		"a link": {func(m *entry.Mem, s bool) {
			m.Add(entry.Entry{Path: "a", Kind: entry.Symlink, Link: pick(s, "x", "y")}, "")
		}, []Difference{{"a", Target, "x", "y", 0}}},
		"hard links": {func(m *entry.Mem, s bool) {
			for i, p := range []string{"a", "b"} {
				e, b := file(p, "same")
				if e.Inode = 7; s {
					e.Inode = uint64(i)
				}
				m.Add(e, b)
			}
		}, []Difference{{"b", Links, "a", "b", 0}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			first, second := entry.NewMem(), entry.NewMem()
			tt.make(first, false)
			tt.make(second, true)
			var got []Difference
			err := Trees(t.Context(), first, second, func(d Difference) bool { got = append(got, d); return true })
			if err != nil || len(got) != len(tt.want) {
				t.Fatalf("got %+v, %v; want %+v", got, err, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %+v, want %+v", got[i], tt.want[i])
				}
			}
		})
	}
}

// implying is a layer that does not say what its root is.
type implying struct{ *entry.Mem }

func (implying) RootImplied() bool { return true }

func TestTheTimeOfARootThatIsImpliedIsNoDifference(t *testing.T) {
	one, other := entry.NewMem(), entry.NewMem()
	e := entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755}
	one.Add(e, "")
	e.Mode, e.Mtime.Sec = 0o711, 9
	other.Add(e, "")
	var got []Difference
	err := Trees(t.Context(), implying{one}, other, func(d Difference) bool { got = append(got, d); return true })
	if err != nil || len(got) != 1 || got[0].Kind != Mode {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestItEndsWhenThereIsEnough(t *testing.T) {
	first := entry.NewMem()
	for _, p := range []string{"a", "b", "c"} {
		first.Add(file(p, ""))
	}
	n := 0
	if err := Trees(t.Context(), first, entry.NewMem(), func(Difference) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("%d differences, %v", n, err)
	}
}

func pick(second bool, a, b string) string {
	if second {
		return b
	}
	return a
}

func FuzzExcerpt(f *testing.F) {
	f.Add([]byte("tail"), []byte("text\n"), 2)
	f.Fuzz(func(t *testing.T, tail, b []byte, n int) {
		if n < 0 || n > len(b) {
			t.Skip()
		}
		got := excerpt(tail, b, n)
		if len(got) > 4*around+len(tail) && !bytes.Contains(append(tail, b...), []byte(got)) {
			t.Errorf("%q", got)
		}
	})
}
