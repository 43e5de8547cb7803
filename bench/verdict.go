package main

import (
	"fmt"
	"strings"
	"time"
)

// peakLimit is what whittle itself may need in any row. Where entries are counted by
// the million it is manyLimit, and perMillion for each million of them.
const (
	peakLimit  = 200 << 20
	manyLimit  = 150 << 20
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
	if limit := r.memory(); limit > peakLimit {
		add("≤ %s of memory", megabytes(limit))
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
		goal.peer, goal.floor, goal.time, goal.overhead = 0, 0, 0, 0
	}
	if f.Builder == "whittle tree" {
		if goal.peer = 1; r.alone {
			goal.peer, goal.floor, goal.time = r.goal.peer, r.goal.floor, r.goal.time
		}
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
	if f.Peak > r.memory() {
		miss("%s of memory", megabytes(f.Peak))
	}
	return list
}

// memory is the limit for a figure.
func (r result) memory() int64 {
	if n := len(r.sizes); n > 0 {
		return max(peakLimit, manyLimit+int64(r.sizes[n-1])*perMillion/1_000_000)
	}
	return peakLimit
}

// unjudged says which goals with erofs nothing was held against, each in words: a
// goal without its yardstick is not met.
func (r result) unjudged() []string {
	var list []string
	if e := r.figure("whittle erofs"); !r.alone && (e == nil || e.cannot()) {
		list = append(list, "erofs: not here")
	}
	switch {
	case r.goal.floor+r.goal.overhead > 0 && r.floor.Why != "":
		list = append(list, "the floor: "+r.floor.Why)
	case r.goal.floor+r.goal.overhead > 0 && r.floor.Median == 0:
		list = append(list, "the floor: there is none")
	}
	if r.goal.peer+r.goal.overhead > 0 && r.best() == nil && !r.alone {
		list = append(list, "the peers: none is here")
	}
	for i := range r.figures {
		if f := &r.figures[i]; !own(f.Builder) && f.failed() {
			list = append(list, f.Builder+": it failed")
		}
	}
	return list
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
