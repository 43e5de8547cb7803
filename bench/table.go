package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// builderNames are the columns, in their order.
var builderNames = [...]string{"whittle erofs", "whittle tree", "whittle chroot", "buildkitd", "dockerd BuildKit", "dockerd classic", "buildah"}

// cells is the table: a head, and a line for each row.
func cells(results []result) (head []string, lines [][]string) {
	head = []string{"row", "floor"}
	head = append(head, builderNames[:]...)
	head = append(head, "of the best peer", "of the floor", "goal", "")
	for _, r := range results {
		line := []string{r.id, dash(r.each(r.floor.Median))}
		for _, name := range builderNames {
			line = append(line, r.cell(name))
		}
		e := r.figure("whittle erofs")
		peer, floor := "–", "–"
		if e != nil && e.Median > 0 {
			if p := r.best(); p != nil {
				peer = fmt.Sprintf("%.2f", ratio(e, p))
			}
			if r.floor.Median > 0 {
				floor = fmt.Sprintf("%.2f", ratio(e, &r.floor))
			}
			if r.sizes != nil {
				floor = fmt.Sprintf("n^%.2f", e.Exponent)
			}
		}
		lines = append(lines, append(line, peer, floor, r.goals(), r.verdict()))
	}
	return head, lines
}

func (r result) cell(builder string) string {
	f := r.figure(builder)
	switch {
	case f == nil || f.cannot():
		return "–"
	case f.Why != "":
		return "failed"
	}
	text := dash(r.each(f.Median))
	if n := len(f.Times); n > 1 && r.sizes == nil {
		text += fmt.Sprintf(" (%.0f–%.0f %%)", percent(slices.Min(f.Times), f.Median), percent(slices.Max(f.Times), f.Median))
	}
	return text
}

func percent(d, of time.Duration) float64 { return 100 * float64(d) / float64(of) }

func dash(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return show(d)
}

// verdict says which providers miss what.
func (r result) verdict() string {
	var list []string
	judged := false
	for i := range r.figures {
		f := &r.figures[i]
		if !own(f.Builder) && f.Builder != "all" {
			continue
		}
		judged = judged || f.Median > 0
		if m := r.misses(f); len(m) > 0 {
			list = append(list, strings.TrimPrefix(f.Builder, "whittle ")+": "+strings.Join(m, ", "))
		}
	}
	switch {
	case len(list) > 0:
		return "MISSED " + strings.Join(list, "; ")
	case judged && len(r.unjudged()) > 0:
		return "met, but for " + strings.Join(r.unjudged(), "; ")
	case judged:
		return "met"
	case len(r.figures) > 0:
		return r.figures[0].Why
	}
	return "not here"
}

// costs is the second table: memory and bytes.
func costs(results []result) (head []string, lines [][]string) {
	head = append([]string{"row"}, builderNames[:]...)
	for _, r := range results {
		line := []string{r.id}
		for _, name := range builderNames {
			text := "–"
			if f := r.figure(name); f != nil && f.Median > 0 {
				text = fmt.Sprintf("%s, %s, %s", megabytes(f.Peak), megabytes(f.Read), megabytes(f.Written))
			}
			line = append(line, text)
		}
		lines = append(lines, line)
	}
	return head, lines
}

// write prints both tables for people who look at a terminal.
func write(out io.Writer, results []result) error {
	for _, part := range []func([]result) ([]string, [][]string){cells, costs} {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		head, lines := part(results)
		for _, line := range append([][]string{head}, lines...) {
			fmt.Fprintln(w, strings.Join(line, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	for _, line := range notes(results) {
		fmt.Fprintln(out, line)
	}
	return nil
}

// notes say why figures are not there, and what else is to be known of those that
// are.
func notes(results []result) (lines []string) {
	for _, r := range results {
		var pushed []string
		for _, f := range append([]figure{r.floor}, r.figures...) {
			if f.Why != "" {
				lines = append(lines, fmt.Sprintf("%s, %s: %s", r.id, f.Builder, f.Why))
			}
			if f.Pushed > 0 {
				pushed = append(pushed, fmt.Sprintf("%s %.1f", f.Builder, float64(f.Pushed)/(1<<20)))
			}
		}
		if len(pushed) > 0 {
			lines = append(lines, fmt.Sprintf("%s, MB of compressed layers: %s", r.id, strings.Join(pushed, ", ")))
		}
		if r.aside != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", r.id, r.aside))
		}
	}
	return lines
}

// machine says on what the figures were measured: without it they are void.
func machine(dir string) string {
	var u unix.Utsname
	release := "unknown"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	who := "root"
	if os.Getuid() != 0 {
		who = "a user"
	}
	return fmt.Sprintf("%s/%s, %d CPUs, Linux %s, as %s, files in %s; dirty pages written back before each run",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), release, who, dir)
}

// firstLine is that of an error, not too long for a table.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimPrefix(text, "whittle: "), "\n")
	return line
}
