package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/conformance/suite"
)

// TestCasesAreWhole checks that every case names lines of the reference that
// there are, that every line has a case if it can have one, and that the outcome
// of each case's text as it stands is recorded.
func TestCasesAreWhole(t *testing.T) {
	list, err := suite.ReadLines("lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]suite.Line{}
	for _, l := range list {
		lines[l.ID] = l
	}
	covered := map[string]bool{}
	names := map[string]bool{}
	for _, archive := range cases(t) {
		c, err := suite.Header(archive)
		if err != nil {
			t.Fatal(err)
		}
		names[c.Name+".json"] = true
		if len(c.Covers) == 0 {
			t.Errorf("%s: no line \"covers: ID\": what of lines.txt does it show?", c.Name)
		}
		for _, id := range c.Covers {
			switch l, ok := lines[id]; {
			case !ok:
				t.Errorf("%s: covers %s, which is not in lines.txt", c.Name, id)
			case l.NoCase != "":
				t.Errorf("%s: covers %s, of which lines.txt says that no case can: %s", c.Name, id, l.NoCase)
			}
			covered[id] = true
		}
		checkRecord(t, c)
	}
	recorded, err := os.ReadDir("testdata/recorded")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range recorded {
		if !names[e.Name()] {
			t.Errorf("testdata/recorded/%s: there is no case of this name", e.Name())
		}
	}
	var open []string
	for _, l := range list {
		if l.NoCase == "" && !covered[l.ID] {
			open = append(open, l.ID)
		}
	}
	if len(open) > 0 {
		t.Errorf("%d of %d lines have no case: %s", len(open), len(list), strings.Join(open, " "))
	}
}

func checkRecord(t *testing.T, c *suite.Case) {
	t.Helper()
	o, err := suite.ReadOutcome(filepath.Join("testdata/recorded", c.Name+".json"))
	switch {
	case err != nil:
		t.Errorf("%s: not recorded: make record: %v", c.Name, err)
	case o.Case != c.Sum:
		t.Errorf("%s: what is recorded is of another text of this case: make record", c.Name)
	case !strings.HasPrefix(o.Peer, "buildkitd v") || o.Date == "":
		t.Errorf("%s: recorded from %q on %q: want a version and a date", c.Name, o.Peer, o.Date)
	}
}
