package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// peakLimit is what whittle itself may need in any row.
const peakLimit = 200 << 20

// target is what a row is held against: a time, or a multiple of the floor.
type target struct {
	time  time.Duration
	ratio float64
	// only names the one provider that is held against it; the other is shown
	// beside it.
	only string
}

func (t target) String() string {
	if t.time > 0 {
		return "≤ " + show(t.time)
	}
	return fmt.Sprintf("≤ %.2f ×", t.ratio)
}

// line is one measured row with one provider.
type line struct {
	row
	provider    string
	took, floor time.Duration
	peak        int64
	note        string
	aside       string
	err         error
}

// each is a time for one of the row's steps.
func (l line) each(d time.Duration) time.Duration { return d / time.Duration(max(l.steps, 1)) }

// ratio is whittle's time in floors; 0 when there is no floor.
func (l line) ratio() float64 {
	if l.floor == 0 {
		return 0
	}
	return float64(l.took) / float64(l.floor)
}

// missed says whether a figure is over its target. A row that could not be
// measured because of the machine is no miss; one that failed is.
func (l line) missed() bool {
	if l.err != nil {
		return true
	}
	return l.took > 0 && (l.slow() || l.peak > peakLimit)
}

func (l line) slow() bool {
	t := l.target
	if t.only != "" && t.only != l.provider {
		return false
	}
	if t.time > 0 {
		return l.each(l.took) > t.time
	}
	return l.ratio() > t.ratio
}

// verdict is the last column.
func (l line) verdict() string {
	switch {
	case l.err != nil:
		return "FAILED"
	case l.took == 0:
		return l.note
	case l.slow():
		return "MISSED"
	case l.peak > peakLimit:
		return "MISSED (memory)"
	case l.note != "":
		return l.note
	case l.target.only != "" && l.target.only != l.provider:
		return "shown beside"
	}
	return "met"
}

func (l line) short() string {
	if l.err != nil {
		return l.err.Error()
	}
	if l.took == 0 {
		return l.note
	}
	return fmt.Sprintf("%s (floor %s)", show(l.each(l.took)), show(l.each(l.floor)))
}

// table prints the lines, those of one row together.
func table(to io.Writer, lines []line) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tprovider\twhittle\tfloor\t\tratio\ttarget\t\tpeak memory")
	last := ""
	for _, l := range lines {
		name := l.name
		if name == last {
			name = ""
		}
		last = l.name
		floor, ratio, took, peak := "-", "-", "-", "-"
		if l.floor > 0 {
			floor, ratio = show(l.each(l.floor)), fmt.Sprintf("%.2f", l.ratio())
		}
		if l.took > 0 {
			took, peak = show(l.each(l.took)), fmt.Sprintf("%.0f MB", float64(l.peak)/(1<<20))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			name, l.provider, took, floor, l.row.floor, ratio, l.target, l.verdict(), peak)
	}
	fmt.Fprintf(w, "any\t\t\t\t\t\t≤ %d MB\t\t\n", peakLimit>>20)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range lines {
		if l.aside != "" {
			fmt.Fprintf(to, "%s, %s: %s\n", l.name, l.provider, l.aside)
		}
	}
	return nil
}

// show writes a duration with three digits.
func show(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// machine says on what the figures were measured: without it they are void.
func machine(dir string) string {
	var u unix.Utsname
	release := "unknown"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("unknown")
	}
	who := "root"
	if os.Getuid() != 0 {
		who = "a user"
	}
	averages := strings.Fields(string(load))
	averages = averages[:min(3, len(averages))]
	return fmt.Sprintf("%s/%s, %d CPUs, Linux %s, as %s, load %s at the end, files in %s; page cache warm, dirty pages written back before each run\n",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), release, who, strings.Join(averages, " "), filepath.Dir(dir))
}
