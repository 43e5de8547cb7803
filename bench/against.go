package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// compare prints whittle's figures beside those of an earlier report. The two
// machines may differ: what counts is the ratio to the floor, or to the best
// peer where there is no floor.
func (rep *report) compare(out io.Writer, file string) error {
	old, err := readReport(file)
	if err != nil {
		return err
	}
	was := old.byID()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tbuilder\tof\tthen\tnow")
	for _, r := range rep.Rows {
		for _, f := range r.Figures {
			then := was[r.ID].relative(f.Builder)
			now := r.relative(f.Builder)
			if own(f.Builder) && now > 0 && then > 0 {
				fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\n", r.ID, f.Builder, r.yardstick(), then, now)
			}
		}
	}
	return w.Flush()
}

// yardstick is what a row's figures are divided by.
func (r rowReport) yardstick() string {
	if r.Floor != nil {
		return "floor"
	}
	return "buildkitd"
}

// relative is a builder's time in those of the yardstick; 0 when one is
// missing.
func (r rowReport) relative(builder string) float64 {
	var time, of time.Duration
	if r.Floor != nil {
		of = r.Floor.Median
	}
	for _, f := range r.Figures {
		if f.Builder == builder {
			time = f.Median
		}
		if r.Floor == nil && f.Builder == r.yardstick() {
			of = f.Median
		}
	}
	if of == 0 {
		return 0
	}
	return float64(time) / float64(of)
}
