package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// growthRows show how times grow with what a Dockerfile or a context has much of.
func growthRows() []row {
	return []row{
		{id: "wide", work: "1 000 stages with a COPY and a RUN each, nothing cached", alone: true, needs: []string{"busybox"},
			goal: goal{exponent: 1.05}, sizes: shares(1000), grow: wide},
		{id: "deep", work: "500 steps in one stage, nothing cached", alone: true, runs: 15, needs: []string{"busybox"},
			goal: goal{exponent: 1.05}, sizes: shares(500), grow: deep},
		{id: "deep-noop", work: "500 steps in one stage, nothing changed", alone: true, runs: 15, needs: []string{"busybox"},
			goal: goal{exponent: 1.05}, sizes: shares(500), grow: again(deep)},
		{id: "big", work: "COPY of 1 000 000 small files, cold", alone: true, runs: 7,
			goal: goal{exponent: 1.05}, sizes: shares(1_000_000), grow: big},
		{id: "big-noop", work: "1 000 000 small files, nothing changed", alone: true, runs: 9,
			goal: goal{exponent: 1.05}, sizes: shares(1_000_000), grow: again(big)},
	}
}

// shares are 1, 3, 10, 30 and 100 % of n.
func shares(n int) []int { return []int{n / 100, n * 3 / 100, n / 10, n * 3 / 10, n} }

// curve is what a builder takes at each of a row's sizes, and how fast that grows.
func curve(tracks []*track, b builder) figure {
	f := figure{Builder: b.name(), About: b.about()}
	for _, t := range tracks {
		one := t.figures[b]
		if one.Why != "" {
			f.fail(fmt.Errorf("%d: %s", t.size, one.Why))
			return f
		}
		f.Sizes, f.Times = append(f.Sizes, t.size), append(f.Times, one.Median)
		f.Peak, f.Read, f.Written = max(f.Peak, one.Peak), one.Read, one.Written
	}
	f.Median = f.Times[len(f.Times)-1]
	f.Exponent = exponent(f.Sizes, f.Times)
	return f
}

// exponent is how fast times grow with sizes, at the steepest between two sizes that
// are at least a tenth of the largest: 1 is linear.
func exponent(sizes []int, times []time.Duration) float64 {
	last := len(sizes) - 1
	steepest := math.Inf(-1)
	for i := range last {
		if sizes[i]*10 < sizes[last] {
			continue
		}
		for k := i + 1; k <= last; k++ {
			steepest = max(steepest, math.Log(float64(times[k])/float64(times[i]))/math.Log(float64(sizes[k])/float64(sizes[i])))
		}
	}
	return steepest
}

// curves is the table of growth.
func curves(results []result) (head []string, lines [][]string) {
	head = []string{"row", "builder", "1 %", "3 %", "10 %", "30 %", "100 %", "exponent"}
	for _, r := range results {
		for _, f := range r.figures {
			if r.sizes == nil || f.Median == 0 {
				continue
			}
			line := []string{r.id, f.Builder}
			for _, d := range f.Times {
				line = append(line, show(d))
			}
			for len(line) < len(head)-1 {
				line = append(line, "–")
			}
			lines = append(lines, append(line, fmt.Sprintf("%.2f", f.Exponent)))
		}
	}
	return head, lines
}

// again is a row whose runs find all done.
func again(grow func(context.Context, *suite, int) (*scene, error)) func(context.Context, *suite, int) (*scene, error) {
	return func(ctx context.Context, s *suite, n int) (*scene, error) {
		sc, err := grow(ctx, s, n)
		if err == nil {
			sc.job.noCache, sc.ready = false, nil
			sc.prime = built(sc.job)
		}
		return sc, err
	}
}

func wide(_ context.Context, s *suite, n int) (*scene, error) {
	var text strings.Builder
	text.WriteString("ARG BUSYBOX\n")
	for i := range n {
		fmt.Fprintf(&text, "FROM $BUSYBOX AS s%d\nCOPY file /file%d\nRUN echo %d >/made%d\n", i, i, i, i)
	}
	// Nothing is built that the last stage does not need, and an image has at most
	// some hundred layers.
	const each = 100
	for i := range n {
		if i%each == 0 {
			fmt.Fprintf(&text, "FROM scratch AS c%d\n", i/each)
		}
		fmt.Fprintf(&text, "COPY --from=s%d /made%d /\n", i, i)
	}
	text.WriteString("FROM scratch\n")
	for i := 0; i < n; i += each {
		fmt.Fprintf(&text, "COPY --from=c%d / /\n", i/each)
	}
	return s.grown(text.String())
}

func deep(_ context.Context, s *suite, n int) (*scene, error) {
	var text strings.Builder
	text.WriteString("ARG BUSYBOX\nFROM $BUSYBOX\n")
	for i := range n / 5 {
		fmt.Fprintf(&text, "ENV A%d=%d\nLABEL l%d=%d\nWORKDIR /w%d\nCOPY file /file%d\nENV B%d=%d\n", i, i, i, i, i%5, i, i, i)
	}
	return s.grown(text.String())
}

// grown is a scene of a Dockerfile with one file beside it.
func (s *suite) grown(text string) (*scene, error) {
	dir, err := s.context(text)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "file"), []byte("a file\n"), 0o644)
	}
	return &scene{job: job{dir: dir, noCache: true}}, err
}

// big has files that are shorter than a block of the disk. To make a million takes a minute: they
// stay for the next row.
func big(_ context.Context, s *suite, n int) (*scene, error) {
	dir, ok := s.small[n]
	if !ok {
		var err error
		if dir, err = s.smallFiles(n); err != nil {
			return nil, err
		}
		s.small[n] = dir
	}
	return &scene{job: job{dir: dir}, ready: emptied}, nil
}

func (s *suite) smallFiles(n int) (dir string, err error) {
	dir, err = s.context(copyTree)
	for i := range n {
		if i%100 == 0 {
			err = errors.Join(err, os.MkdirAll(filepath.Dir(nthFile(dir, i)), 0o755))
		}
		if err != nil {
			return "", err
		}
		err = os.WriteFile(nthFile(dir, i), fmt.Appendf(nil, "file %d\n", i), 0o644)
	}
	return dir, err
}
