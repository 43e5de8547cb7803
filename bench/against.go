package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// compare prints whittle's figures beside those of an earlier report. The two
// machines may differ: what counts is the ratio to the floor. Rows without one are
// compared by their times.
func (rep *report) compare(out io.Writer, file string) error {
	old, err := readReport(file)
	if err != nil {
		return err
	}
	was := old.byID()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tbuilder\tof\tthen\tnow")
	for _, r := range rep.Rows {
		then := was[r.ID]
		for _, f := range r.Figures {
			if !own(f.Builder) || f.cannot() {
				continue
			}
			of, format := "floor", (*rowReport).relative
			if r.Floor == nil || then.Floor == nil {
				of, format = "itself", (*rowReport).time
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, f.Builder, of, format(&then, f.Builder), format(&r, f.Builder))
		}
	}
	return w.Flush()
}

// relative is a builder's time in those of the floor.
func (r *rowReport) relative(builder string) string {
	for _, f := range r.Figures {
		if f.Builder == builder && f.Median > 0 && r.Floor.Median > 0 {
			return fmt.Sprintf("%.2f", ratio(&f, r.Floor))
		}
	}
	return "–"
}

// time is a builder's.
func (r *rowReport) time(builder string) string {
	for _, f := range r.Figures {
		if f.Builder == builder {
			return dash(f.Median)
		}
	}
	return "–"
}
