package main

import (
	"fmt"
	"strings"
	"time"
)

// peakLimit is what whittle itself may need in any row, and perMillion what it
// may need more for each million of entries beyond the first.
const (
	peakLimit  = 200 << 20
	perMillion = 250 << 20
)

// each is a time for one of the row's steps.
func (r result) each(d time.Duration) time.Duration { return d / time.Duration(max(r.goal.steps, 1)) }

// best is the fastest peer; nil when there is none.
func (r result) best() *figure {
	var best *figure
	for i := range r.figures {
		f := &r.figures[i]
		if !own(f.Builder) && f.Median > 0 && (best == nil || f.Median < best.Median) {
			best = f
		}
	}
	return best
}

// own says whether a builder is whittle.
func own(builder string) bool { return strings.HasPrefix(builder, "whittle ") }

// figure returns that of a builder; nil when there is none.
func (r result) figure(builder string) *figure {
	for i := range r.figures {
		if r.figures[i].Builder == builder {
			return &r.figures[i]
		}
	}
	return nil
}

// goals are what f is held against, each in words.
func (r result) goals() string {
	var list []string
	add := func(format string, value any) { list = append(list, fmt.Sprintf(format, value)) }
	if r.goal.peer > 0 {
		add("≤ %.2f of the best peer", r.goal.peer)
	}
	if r.goal.floor > 0 {
		add("≤ %.2f × the floor", r.goal.floor)
	}
	if r.goal.overhead > 0 {
		add("≤ %.2f of the best peer's overhead", r.goal.overhead)
	}
	if r.goal.time > 0 {
		add("≤ %s", show(r.goal.time))
	}
	if r.goal.exponent > 0 {
		add("exponent ≤ %.2f", r.goal.exponent)
	}
	return strings.Join(list, ", ")
}

// misses says in which ways a figure of whittle's misses its goals. The ratios
// hold for erofs; with tree no row may be slower than the best peer.
func (r result) misses(f *figure) []string {
	var list []string
	miss := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch {
	case f.cannot():
		return nil
	case f.Why != "":
		return []string{"FAILED: " + f.Why}
	}
	goal := r.goal
	if f.Builder != "whittle erofs" {
		goal.floor, goal.time, goal.overhead = 0, 0, 0
		if goal.peer > 0 {
			goal.peer = 1
		}
	}
	if r.alone && f.Builder == "whittle tree" {
		goal.floor, goal.time = r.goal.floor, r.goal.time
	}
	if f.Builder == "whittle chroot" {
		goal.peer = 0
	}
	if p := r.best(); goal.peer > 0 && p != nil && ratio(f, p) > goal.peer {
		miss("%.2f of %s", ratio(f, p), p.Builder)
	}
	if goal.floor > 0 && r.floor.Median > 0 && ratio(f, &r.floor) > goal.floor {
		miss("%.2f × the floor", ratio(f, &r.floor))
	}
	if o, ok := r.overhead(f); goal.overhead > 0 && ok && o > goal.overhead {
		miss("%.2f of %s's overhead", o, r.best().Builder)
	}
	if goal.time > 0 && r.each(f.Median) > goal.time {
		miss("%s", show(r.each(f.Median)))
	}
	if goal.exponent > 0 && f.Exponent > goal.exponent {
		miss("exponent %.2f", f.Exponent)
	}
	if f.Peak > r.memory(f) {
		miss("%s of memory", megabytes(f.Peak))
	}
	return list
}

// memory is the limit for a figure.
func (r result) memory(f *figure) int64 {
	limit := int64(peakLimit)
	if n := len(f.Sizes); n > 0 && strings.HasPrefix(r.id, "big") {
		limit = max(limit, 150<<20+int64(f.Sizes[n-1])*perMillion/1_000_000)
	}
	return limit
}

func ratio(f, of *figure) float64 { return float64(f.Median) / float64(of.Median) }

// overhead is what f takes beyond the floor, of what the best peer does.
func (r result) overhead(f *figure) (share float64, ok bool) {
	p := r.best()
	if p == nil || r.floor.Median == 0 || p.Median <= r.floor.Median {
		return 0, false
	}
	return float64(f.Median-r.floor.Median) / float64(p.Median-r.floor.Median), true
}

// missed counts the figures that miss a goal.
func missed(results []result) (n int) {
	for _, r := range results {
		for i := range r.figures {
			if own(r.figures[i].Builder) && len(r.misses(&r.figures[i])) > 0 {
				n++
			}
		}
	}
	return n
}

// show writes a duration with three digits.
func show(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/(1<<20)) }
