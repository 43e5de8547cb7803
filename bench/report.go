package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// report is what a run found, as JSON.
type report struct {
	Quick bool `json:",omitempty"`
	Rows  []rowReport
}

type rowReport struct {
	ID, Work  string
	Origin    origin
	FloorName string   `json:",omitempty"`
	Goal      string   `json:",omitempty"`
	Steps     int      `json:",omitempty"`
	Floor     *figure  `json:",omitempty"`
	Figures   []figure // times in nanoseconds
	Verdict   string
}

func (s *suite) report(results []result) *report {
	rep := &report{Quick: s.set.quick}
	for _, r := range results {
		row := rowReport{ID: r.id, Work: r.work, Origin: r.origin, FloorName: r.row.floor, Goal: r.goals(), Steps: r.goal.steps, Figures: r.figures, Verdict: r.verdict()}
		if r.floor.Median > 0 || r.floor.Why != "" {
			row.Floor = &r.floor
		}
		rep.Rows = append(rep.Rows, row)
	}
	return rep
}

// writeJSON writes the report to a file, or leaves that as it was.
func (rep *report) writeJSON(file string) error {
	b, err := json.MarshalIndent(rep, "", "\t")
	if err != nil {
		return err
	}
	err = os.WriteFile(file+".new", append(b, '\n'), 0o644)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	return err
}

// readReport reads what writeJSON wrote.
func readReport(file string) (rep report, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return rep, err
	}
	if err := json.Unmarshal(text, &rep); err != nil {
		return rep, fmt.Errorf("%s: %w", file, err)
	}
	return rep, nil
}

// byID are the report's rows.
func (rep *report) byID() map[string]rowReport {
	rows := map[string]rowReport{}
	for _, r := range rep.Rows {
		rows[r.ID] = r
	}
	return rows
}

// Between these lines docs/benchmarks.md is written by the suite.
const (
	begin = "<!-- begin: written by make bench -->"
	end   = "<!-- end -->"
)

// writeDocs replaces the suite's part of a document, and writes the plot beside
// it.
func (rep *report) writeDocs(file string, results []result) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s: has no lines %q and %q", file, begin, end)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", begin)
	measured(&b, results)
	fmt.Fprintf(&b, "\nMedians of whole commands; in parentheses the fastest and the slowest run.\n\n")
	markdown(&b, cells, results)
	fmt.Fprintf(&b, "\n| row | work | floor |\n|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.id, r.work, r.row.floor)
	}
	fmt.Fprintf(&b, "\n![times](benchmarks.svg)\n\n")
	for _, line := range notes(results) {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	grows := slices.ContainsFunc(results, func(r result) bool { return r.sizes != nil })
	if grows {
		fmt.Fprintf(&b, "\nGrowth: medians at 1, 3, 10, 30 and 100 %% of the work, and the steepest exponent between two of the last three:\n\n")
		markdown(&b, curves, results)
		fmt.Fprintf(&b, "\n![growth](benchmarks-growth.svg)\n")
	}
	fmt.Fprintf(&b, "\nPeak memory of the builder's own programs, bytes read and written by all processes involved:\n\n")
	markdown(&b, costs, results)
	fmt.Fprintf(&b, "\n%s", end)
	drawings := map[string][]byte{"benchmarks.svg": plot(results)}
	if grows {
		drawings["benchmarks-growth.svg"] = growth(results)
	}
	for name, drawn := range drawings {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), drawn, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(before+b.String()+after), 0o644)
}

// measured says with what and where: of a table that was not made in one run,
// which rows.
func measured(b *bytes.Buffer, results []result) {
	rows := map[origin][]string{}
	var origins []origin
	for _, r := range results {
		if rows[r.origin] == nil {
			origins = append(origins, r.origin)
		}
		rows[r.origin] = append(rows[r.origin], r.id)
	}
	for _, o := range origins {
		which := ""
		if len(origins) > 1 {
			which = strings.Join(rows[o], ", ") + ": "
		}
		fmt.Fprintf(b, "- %smeasured with %s on %s\n", which, o.Whittle, o.Machine)
	}
	for _, name := range builderNames {
		for _, line := range abouts(name, results) {
			fmt.Fprintf(b, "- %s\n", line)
		}
	}
}

// abouts say how a builder was set up, for all rows or for some.
func abouts(name string, results []result) (lines []string) {
	rows := map[string][]string{}
	var ways []string
	for _, r := range results {
		if f := r.figure(name); f != nil && f.About != "" {
			if rows[f.About] == nil {
				ways = append(ways, f.About)
			}
			rows[f.About] = append(rows[f.About], r.id)
		}
	}
	for i, way := range ways {
		if i == 0 {
			lines = append(lines, name+": "+way)
			continue
		}
		lines = append(lines, fmt.Sprintf("%s in %s: %s", name, strings.Join(rows[way], ", "), way))
	}
	return lines
}

func markdown(b *bytes.Buffer, part func([]result) ([]string, [][]string), results []result) {
	head, lines := part(results)
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, line := range lines {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}
