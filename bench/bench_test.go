package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMedianIsTheMiddleOrTheMeanOfTheTwo(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{nil, 0}, {[]time.Duration{5}, 5}, {[]time.Duration{9, 1, 4}, 4}, {[]time.Duration{8, 2, 4, 100}, 6}} {
		in := append([]time.Duration(nil), c.in...)
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
		for i := range in {
			if c.in[i] != in[i] {
				t.Errorf("median changed its argument to %v", c.in)
			}
		}
	}
}

func TestHighWaterIsReadFromStatus(t *testing.T) {
	for text, want := range map[string]int64{
		"Name:\tx\nVmPeak:\t  100 kB\nVmHWM:\t   36 kB\nVmRSS:\t 7 kB\n": 36 << 10,
		"Name:\tzombie\nState:\tZ\n":                                     0,
		"Name:\tx\nVmHWM:":                                               0,
		"Name:\tx\nVmHWM:\tmuch kB\n":                                    0,
	} {
		if got := highWater(text); got != want {
			t.Errorf("highWater(%q) = %d, want %d", text, got, want)
		}
	}
}

// helperVar makes the test binary a program that starts itself again and lets
// the second process need memory.
const helperVar = "WHITTLE_BENCH_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVar) {
	case "first":
		cmd := exec.Command("/proc/self/exe")
		cmd.Env, cmd.Stdin, cmd.Stdout = []string{helperVar + "=second"}, os.Stdin, os.Stdout
		if cmd.Run() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "second":
		b := make([]byte, 64<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(int(b[1]))
	}
	os.Exit(m.Run())
}

func TestPeakMemoryIsThatOfTheProcessThatDoesTheWork(t *testing.T) {
	for again, large := range map[bool]bool{true: true, false: false} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{helperVar + "=first"}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		time.AfterFunc(100*time.Millisecond, func() { close(done) })
		if got := follow(cmd.Process.Pid, again, done); (got >= 64<<20) != large {
			t.Errorf("again %t: %d bytes", again, got)
		}
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}
}

func TestALineIsJudgedByItsOwnTargetOnly(t *testing.T) {
	ms := time.Millisecond
	both := row{name: "r", target: target{ratio: 2}}
	one := row{name: "r", target: target{time: 10 * ms, only: "erofs"}, steps: 20}
	for _, c := range []struct {
		name    string
		line    line
		verdict string
		missed  bool
	}{
		{"in time for each step", line{row: one, provider: "erofs", took: 200 * ms, floor: ms}, "met", false},
		{"late for each step", line{row: one, provider: "erofs", took: 201 * ms, floor: ms}, "MISSED", true},
		{"late where no target is", line{row: one, provider: "tree", took: 900 * ms, floor: ms}, "shown beside", false},
		{"twice the floor", line{row: both, provider: "tree", took: 4 * ms, floor: 2 * ms}, "met", false},
		{"over twice the floor", line{row: both, provider: "tree", took: 5 * ms, floor: 2 * ms}, "MISSED", true},
		{"too large", line{row: both, provider: "tree", took: ms, floor: ms, peak: 201 << 20}, "MISSED (memory)", true},
		{"failed", line{row: both, err: errors.New("no")}, "FAILED", true},
		{"not possible here", line{row: both, note: "not here: no erofs"}, "not here: no erofs", false},
		{"without a peer", line{row: both, took: ms, note: "no peer: none"}, "no peer: none", false},
	} {
		if got := c.line.verdict(); got != c.verdict || c.line.missed() != c.missed {
			t.Errorf("%s: verdict %q, missed %v; want %q, %v", c.name, got, c.line.missed(), c.verdict, c.missed)
		}
	}
}

func TestTableHasFloorProviderTargetAndMemoryBesideEachFigure(t *testing.T) {
	var out bytes.Buffer
	r := row{name: "copy", floor: "tar cf", target: target{ratio: 3}}
	err := table(&out, []line{
		{row: r, provider: "erofs", took: 1200 * time.Millisecond, floor: 600 * time.Millisecond, peak: 44 << 20},
		{row: r, provider: "tree", note: "not here: no overlay"},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, want := range [][]string{1: {"copy", "erofs", "1.20 s", "600.0 ms", "tar cf", "2.00", "≤ 3.00 ×", "met", "44 MB"}, 2: {"tree", "-", "no overlay"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d: %q has no %q", i, lines[i], w)
			}
		}
	}
	if strings.Contains(lines[2], "copy") {
		t.Errorf("the row's name is said twice: %q", lines[2])
	}
}
