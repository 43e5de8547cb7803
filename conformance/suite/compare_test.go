package suite

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outcome describes an image that was made at 1000, by way of its recording.
func outcome(t *testing.T, m Image) *Outcome {
	t.Helper()
	o, err := Describe(&Case{}, &m, &Bases{}, time.Unix(1000, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "recorded")
	if err := o.Write(name); err != nil {
		t.Fatal(err)
	}
	if o, err = ReadOutcome(name); err != nil {
		t.Fatal(err)
	}
	return o
}

func whats(t *testing.T, peer, got *Outcome) string {
	t.Helper()
	diffs, err := Compare(peer, got)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, d := range diffs {
		list = append(list, d.What)
	}
	return strings.Join(list, "; ")
}

// The comparison itself is tested with images made here.
func TestCompareSeesWhatDiffers(t *testing.T) {
	file := func(name, sum string) entry {
		return entry{name: name, node: node{kind: "file", mode: 0o644, size: 1, sha256: sum, mtime: 5}}
	}
	dir := func(name string) entry { return entry{name: name, node: node{kind: "directory", mode: 0o755}} }
	changed := func(e entry, change func(*node)) entry {
		change(&e.node)
		return e
	}
	base := []entry{dir("/d"), file("/d/a", "x"), file("/d/b", "y")}
	config := func(s string) Image { return Image{config: []byte(s), layers: [][]entry{base}} }
	layers := func(l ...[]entry) Image {
		return Image{config: []byte(`{"config":{"Env":["A=1"]},"history":[{"created":"1980-01-01T00:00:00Z","created_by":"x"}]}`), layers: l}
	}
	peer := layers(base)
	tests := map[string]struct {
		got  Image
		want string
	}{
		"nothing":            {layers(base), ""},
		"a field":            {config(`{"config":{"Env":["A=2"]},"history":[{"created":"1980-01-01T00:00:00Z","created_by":"x"}]}`), "config.Env"},
		"a history entry":    {config(`{"config":{"Env":["A=1"]},"history":[{"created":"1980-01-01T00:00:00Z","created_by":"z"}]}`), "history[0].created_by"},
		"a time not now":     {config(`{"config":{"Env":["A=1"]},"history":[{"created":"1960-01-01T00:00:00Z","created_by":"x"}]}`), "history[0].created"},
		"the order":          {config(`{"history":[{"created":"1980-01-01T00:00:00Z","created_by":"x"}],"config":{"Env":["A=1"]}}`), "order of fields"},
		"the order below":    {config(`{"config":{"Env":["A=1"]},"history":[{"created_by":"x","created":"1980-01-01T00:00:00Z"}]}`), "history[0] order of fields"},
		"an attribute":       {layers([]entry{dir("/d"), file("/d/a", "x"), changed(file("/d/b", "y"), func(n *node) { n.mode, n.uid = 0o600, 7 })}), "/d/b mode; /d/b owner"},
		"a content":          {layers([]entry{dir("/d"), file("/d/a", "x"), file("/d/b", "z")}), "/d/b content"},
		"a time that is now": {layers([]entry{dir("/d"), file("/d/a", "x"), changed(file("/d/b", "y"), func(n *node) { n.mtime = 1001 })}), "/d/b mtime"},
		"a hard link":        {layers([]entry{dir("/d"), file("/d/a", "x"), {name: "/d/b", link: "/d/a"}}), "/d/a names; /d/b content; /d/b names"},
		"a deletion":         {layers(base, []entry{file("/d/.wh.b", "")}), "/d/b content; /d/b kind; /d/b mode; /d/b mtime; /d/b owner; layer[1]; layer[1] /d/.wh.b"},
		"an empty layer":     {layers(base, nil), "layer[1]"},
		"an xattr and a device": {layers([]entry{dir("/d"), file("/d/a", "x"),
			changed(file("/d/b", "y"), func(n *node) { n.xattrs, n.device = map[string]string{"user.k": "v"}, "1,3" })}), "/d/b device; /d/b xattr user.k"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := whats(t, outcome(t, peer), outcome(t, test.got)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// What a base holds is no part of an outcome, and what was taken of it is.
func TestOutcomesAreAboveTheBase(t *testing.T) {
	bases := &Bases{diffIDs: map[string]bool{"base": true}, contents: map[string]string{"sum": "busybox:/big"}}
	big := entry{name: "/big", node: node{kind: "file", size: 5000, sha256: "sum"}}
	dir := entry{name: "/d", node: node{kind: "directory"}}
	in := entry{name: "/d/in", node: node{kind: "file"}}
	moved := big
	moved.name = "/moved"
	m := &Image{config: []byte(`{"rootfs":{"diff_ids":["base","2"]}}`), diffIDs: []string{"base", "2"},
		layers: [][]entry{{big, dir, in}, {moved, {name: "/.wh.d"}, {name: "/.wh.big"}}}}
	o, err := Describe(&Case{}, m, bases, time.Unix(1000, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(o.Deleted, " "); got != "/big /d" {
		t.Errorf("deleted: got %s, want /big and /d, not what is in it", got)
	}
	if len(o.Files) != 1 || o.Files["/moved"].Bytes != "those of busybox:/big" {
		t.Errorf("files: got %v, want /moved with bytes of the base", o.Files)
	}
	if string(o.Config) != `{"rootfs":{"diff_ids":2}}` {
		t.Errorf("config: got %s", o.Config)
	}
}

func TestCompareSeesLintAndResult(t *testing.T) {
	peer := &Outcome{Lint: []string{"3 UndefinedVar: one", "3 UndefinedVar: two", "4 JSONArgsRecommended: x"}}
	got := &Outcome{Lint: []string{"3 UndefinedVar: one", "5 JSONArgsRecommended: x"}}
	if got, want := whats(t, peer, got), "lint 3 UndefinedVar; lint 4 JSONArgsRecommended; lint 5 JSONArgsRecommended"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	other := &Outcome{Error: "never"}
	if got := whats(t, &Outcome{Error: "no"}, other); got != "" {
		t.Errorf("both fail: got %s", got)
	}
	if got := whats(t, &Outcome{}, other); got != "result" {
		t.Errorf("one fails: got %s", got)
	}
}

func TestHardLinksToNothingAreAnError(t *testing.T) {
	if _, err := merge([][]entry{{{name: "/b", link: "/a"}}}); err == nil || !strings.Contains(err.Error(), "/a") {
		t.Errorf("got %v, want an error that names /a", err)
	}
}
