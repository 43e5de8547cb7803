package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report is what a run found, as JSON.
type report struct {
	Quick    bool              `json:",omitempty"`
	Builders map[string]string // name → how it was set up, or why it is not there
	Rows     []rowReport
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
	rep := &report{Quick: s.set.quick, Builders: map[string]string{}}
	for name, why := range s.absent {
		rep.Builders[name] = "not here: " + why
	}
	for _, b := range s.builders {
		rep.Builders[b.name()] = b.about()
	}
	for _, r := range results {
		row := rowReport{ID: r.id, Work: r.work, Origin: r.origin, FloorName: r.row.floor, Goal: r.goals(), Steps: r.goal.steps, Figures: r.figures, Verdict: r.verdict()}
		if r.floor.Median > 0 {
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
	for _, name := range builderNames {
		fmt.Fprintf(&b, "- %s: %s\n", name, rep.Builders[name])
	}
	fmt.Fprintf(&b, "\nMedians of whole commands; in parentheses the fastest and the slowest run.\n\n")
	markdown(&b, cells, results)
	fmt.Fprintf(&b, "\n| row | work | floor |\n|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.id, r.work, r.row.floor)
	}
	fmt.Fprintf(&b, "\n![times](benchmarks.svg)\n\nPeak memory of the builder's own programs, bytes read and written by all processes involved:\n\n")
	markdown(&b, costs, results)
	fmt.Fprintf(&b, "\n%s", end)
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "benchmarks.svg"), plot(results), 0o644); err != nil {
		return err
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
}

func markdown(b *bytes.Buffer, part func([]result) ([]string, [][]string), results []result) {
	head, lines := part(results)
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, line := range lines {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}

// colours are those of the builders, in the order of builderNames; the floor is
// a line.
var colours = [...]string{"#0b6e4f", "#3fa34d", "#a1cf6b", "#1d3557", "#457b9d", "#8ab6d6", "#c08552"}

// plot draws the times of all rows on one logarithmic axis.
func plot(results []result) []byte {
	const (
		left, right, barHeight, gap = 150, 760, 9, 10
		least, most                 = time.Millisecond, 200 * time.Second
	)
	x := func(d time.Duration) float64 {
		share := math.Log(float64(max(d, least))/float64(least)) / math.Log(float64(most)/float64(least))
		return left + min(share, 1)*(right-left)
	}
	var body bytes.Buffer
	y := 40
	for _, r := range results {
		top := y
		for i, name := range builderNames {
			if f := r.figure(name); f != nil && f.Median > 0 {
				fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s, %s: %s</title></rect>`+"\n",
					left, y, max(x(f.Median)-left, 1), barHeight-1, colours[i], r.id, name, show(f.Median))
				y += barHeight
			}
		}
		if y == top {
			continue
		}
		fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, (top+y)/2+4, r.id)
		if d := r.floor.Median; d > 0 {
			fmt.Fprintf(&body, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#d00" stroke-width="2"><title>%s, floor: %s</title></line>`+"\n",
				x(d), x(d), top-2, y+1, r.id, show(d))
		}
		y += gap
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="800" height="%d" font-family="sans-serif" font-size="12">`+"\n", y+20)
	fmt.Fprintln(&out, `<rect width="100%" height="100%" fill="#fff"/>`)
	for d := least; d <= most; d *= 10 {
		fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="34" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#666">%s</text>`+"\n",
			x(d), x(d), y, x(d), y+14, strings.Replace(show(d), ".00", "", 1))
	}
	for i, name := range append(builderNames[:], "floor") {
		colour := "#d00"
		if i < len(colours) {
			colour = colours[i]
		}
		fmt.Fprintf(&out, `<rect x="%d" y="8" width="10" height="10" fill="%s"/><text x="%d" y="17" font-size="10">%s</text>`+"\n", 20+i*97, colour, 33+i*97, name)
	}
	out.Write(body.Bytes())
	fmt.Fprintln(&out, "</svg>")
	return out.Bytes()
}
