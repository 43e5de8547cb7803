package conformance

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// An accepted is a line of differences.txt: in which cases, what, and why.
type accepted struct {
	line   int
	cases  *regexp.Regexp
	what   *regexp.Regexp
	reason string
}

// differences are the accepted ones; it remembers which were met.
type differences struct {
	file string
	list []accepted
	mu   sync.Mutex
	met  map[int]bool
}

// readDifferences reads lines of the form CASES | WHAT | REASON. The first two
// are regular expressions for the whole of a case's name and of a difference's.
func readDifferences(name string) (*differences, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	d := &differences{file: name, met: map[int]bool{}}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.SplitN(line, " | ", 3)
		if len(f) != 3 || f[2] == "" {
			return nil, fmt.Errorf("%s:%d: want CASES | WHAT | REASON", name, i+1)
		}
		a := accepted{line: i + 1, reason: f[2]}
		if a.cases, err = regexp.Compile("^(?:" + strings.TrimSpace(f[0]) + ")$"); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		if a.what, err = regexp.Compile("^(?:" + strings.TrimSpace(f[1]) + ")$"); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		d.list = append(d.list, a)
	}
	return d, nil
}

// accepts says whether a line accepts a difference of a case, which has one or
// several names.
func (d *differences) accepts(name string, whats ...string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	ok := false
	for _, a := range d.list {
		if a.cases.MatchString(name) && slices.ContainsFunc(whats, a.what.MatchString) {
			d.met[a.line], ok = true, true
		}
	}
	return ok
}

// unmet reports the lines that no build needed: differences that are gone.
func (d *differences) unmet(t *testing.T) {
	for _, a := range d.list {
		if !d.met[a.line] {
			t.Errorf("%s:%d: no build differs so any more: %s", d.file, a.line, a.reason)
		}
	}
}
