package suite

import (
	"fmt"
	"os"
	"strings"
)

// A Line is one promise of the reference.
type Line struct {
	ID, Where, What string
	NoCase          string // why it can be no case, or ""
}

// ReadLines reads lines of the form ID | WHERE | WHAT, with | WHY NO CASE after
// it where no case can cover it.
func ReadLines(name string) ([]Line, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var list []Line
	seen := map[string]bool{}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, " | ")
		if len(f) < 3 || len(f) > 4 || seen[f[0]] {
			return nil, fmt.Errorf("%s:%d: want ID | WHERE | WHAT, or ID | WHERE | WHAT | WHY NO CASE, each ID once", name, i+1)
		}
		l := Line{ID: f[0], Where: f[1], What: f[2]}
		if len(f) == 4 {
			l.NoCase = f[3]
		}
		seen[l.ID] = true
		list = append(list, l)
	}
	return list, nil
}
