package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one timed run.
type sample struct {
	took time.Duration
	peak int64 // bytes of whittle's own process; 0 for a floor
}

// step prepares itself, does its work once and times only that.
type step func(context.Context) (sample, error)

// pair is what a row compares. floor may be nil: then there is no peer, and
// why says so.
type pair struct {
	subject, floor step
	why            string
	aside          string       // what else there is to say of it; below the table
	close          func() error // after the last run; may be nil
}

// measure runs the pairs of one row with one provider.
func (b *bench) measure(ctx context.Context, r row, provider string) line {
	l := line{row: r, provider: provider}
	if why := b.lacks[provider]; why != "" {
		l.note = "not here: " + why
		return l
	}
	p, err := r.setup(ctx, b, provider)
	if err != nil {
		l.err = err
		return l
	}
	if p.close != nil {
		defer func() {
			if err := p.close(); err != nil && l.err == nil {
				l.err = err
			}
		}()
	}
	l.note, l.aside = p.why, p.aside
	if p.subject == nil {
		return l
	}
	var took, floors []time.Duration
	for i := range b.pairs(r) {
		order := []bool{true, false} // the floor first
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, isFloor := range order {
			run, into := p.subject, &took
			if isFloor {
				run, into = p.floor, &floors
			}
			if run == nil {
				continue
			}
			s, err := run(ctx)
			if err != nil {
				l.err = err
				return l
			}
			*into = append(*into, s.took)
			l.peak = max(l.peak, s.peak)
		}
	}
	l.took, l.floor = median(took), median(floors)
	return l
}

// pairs is how often a row is measured.
func (b *bench) pairs(r row) int {
	switch {
	case b.set.pairs > 0:
		return b.set.pairs
	case b.set.quick:
		return min(r.pairs, 3)
	}
	return r.pairs
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	mid := len(d) / 2
	if len(d)%2 == 1 {
		return d[mid]
	}
	return (d[mid-1] + d[mid]) / 2
}

// timed runs cmd to its end. With watch it follows the memory of the process
// itself: what wait4(2) tells is the largest of the process and of all its
// children, a step's compiler among them.
func timed(cmd *exec.Cmd, watch bool) (sample, error) {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	settle()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	var peak chan int64
	done := make(chan struct{})
	if watch {
		peak = make(chan int64)
		go func() { peak <- follow(cmd.Process.Pid, os.Geteuid() != 0, done) }()
	}
	err := cmd.Wait()
	s := sample{took: time.Since(began)}
	close(done)
	if watch {
		s.peak = <-peak
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, said.Bytes())
	}
	return s, err
}

// settle writes back what earlier runs left dirty, so that no run pays for
// another. The page cache stays as it is: warm, for floor and whittle alike.
func settle() { unix.Sync() }

// follow reads the high-water mark of a process's memory until it ends. The
// mark only grows, so what is lost is the growth since the last look. Without
// root whittle does its work in a process that it starts of itself, in a user
// namespace: with again, that one is followed as soon as it is there. It must be
// seen twice: any child is the same program until its exec.
func follow(pid int, again bool, done <-chan struct{}) (peak int64) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for seen := 0; ; {
		if again {
			worker := sameProgram(pid)
			if worker != 0 && worker == seen {
				pid, again = worker, false
			}
			seen = worker
		}
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
			peak = max(peak, highWater(string(text)))
		}
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
	}
}

// sameProgram returns a child of pid that runs the program that pid runs, or 0.
func sameProgram(pid int) int {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(text)) {
			if exe, err := os.Readlink("/proc/" + child + "/exe"); err == nil && exe == program {
				n, _ := strconv.Atoi(child)
				return n
			}
		}
	}
	return 0
}

// highWater reads VmHWM, in bytes, from the text of /proc/PID/status; 0 when
// it is not there.
func highWater(status string) int64 {
	_, rest, ok := strings.Cut(status, "\nVmHWM:")
	if !ok {
		return 0
	}
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kb, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return kb << 10
}
