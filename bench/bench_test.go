package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMedianIsTheMiddleOrTheMeanOfTheTwo(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		want time.Duration
	}{{nil, 0}, {[]time.Duration{5}, 5}, {[]time.Duration{9, 1, 4}, 4}, {[]time.Duration{8, 2, 4, 100}, 6}} {
		in := slices.Clone(c.in)
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
		if !slices.Equal(in, c.in) {
			t.Errorf("median changed its argument to %v", c.in)
		}
	}
}

func TestNumbersAreReadFromTheKernelsLists(t *testing.T) {
	const text = "Name:\tx\nVmPeak:\t  100 kB\nVmRSS:\t 36 kB\nrchar: 700\nbad: much\n"
	for name, want := range map[string]int64{"VmRSS:": 36, "rchar:": 700, "bad:": 0, "Vm:": 0} {
		if got := field(text, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

// helperVar makes the test binary a program that reads and needs memory, or one
// that starts such a program.
const helperVar = "WHITTLE_BENCH_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVar) {
	case "starts":
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{helperVar + "=works"}
		if cmd.Run() != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "works":
		f, err := os.Open("/dev/zero")
		if err != nil {
			os.Exit(1)
		}
		b := make([]byte, 64<<20)
		if _, err := io.ReadFull(f, b); err != nil {
			os.Exit(1)
		}
		time.Sleep(200 * time.Millisecond)
		os.Exit(int(b[1]))
	}
	os.Exit(m.Run())
}

// none is a builder without a daemon that consists of the given programs.
type none struct {
	builder
	own []string
}

func (n none) programs() []string { return n.own }
func (none) daemon() int          { return 0 }
func (none) about() string        { return "as it comes" }

func TestMemoryIsThatOfTheBuildersProgramsAndBytesAreThoseOfAll(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		own   string
		large bool
	}{{filepath.Base(exe), true}, {"another", false}} {
		cmd := exec.Command(exe)
		cmd.Env = []string{helperVar + "=starts"}
		smp, err := timed(cmd, none{own: []string{c.own}})
		if err != nil {
			t.Fatal(err)
		}
		if smp.took < 200*time.Millisecond || smp.read < 64<<20 || smp.read > 70<<20 || smp.written > 1<<20 {
			t.Errorf("%+v", smp)
		}
		if (smp.peak >= 64<<20) != c.large {
			t.Errorf("program %s: %d bytes of memory", c.own, smp.peak)
		}
	}
}

// What a builder does after its command's end is in nobody's time.
func TestTheNextRunWaitsForWhatIsLeftOfABuilder(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "lingers")
	if err := os.Link("/bin/sleep", program); err != nil {
		if err := exec.Command("cp", "/bin/sleep", program).Run(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	smp, err := timed(exec.Command("sh", "-c", program+" 0.7 >/dev/null 2>&1 &"), none{own: []string{"lingers"}})
	if err != nil {
		t.Fatal(err)
	}
	if whole := time.Since(began); whole < 700*time.Millisecond || smp.took >= 700*time.Millisecond {
		t.Errorf("%s of %s are the builder's", smp.took, whole)
	}
}

// A thread has its process's memory, as a process has that is about to exec.
func TestMemoryThatIsSharedCountsOnce(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tid := make(chan int)
	for range 2 { // of which one is not the first thread
		go func() {
			runtime.LockOSThread()
			tid <- unix.Gettid()
			select {}
		}()
	}
	pids, own := []int{os.Getpid(), <-tid, <-tid}, []string{filepath.Base(exe)}
	once, all := memory(pids[:1], own), memory(pids, own)
	if once == 0 || all < once || all > once+once/2 {
		t.Errorf("%d bytes of memory, and %d with two threads", once, all)
	}
	if shareMemory(os.Getpid(), os.Getppid()) {
		t.Error("another process has the same memory")
	}
}

func TestTheFilesOfAProgramThatRunsTwiceCountOnce(t *testing.T) {
	var pids []int
	for range 2 {
		cmd := exec.Command("cat")
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
		defer func() {
			in.Close()
			cmd.Wait()
		}()
		// Until it answers it may not have all of its memory.
		if _, err := io.WriteString(in, "a line"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, cmd.Process.Pid)
	}
	own := []string{program(pids[0])}
	one, other, both := memory(pids[:1], own), memory(pids[1:], own), memory(pids, own)
	if one == 0 || both <= one || both >= one+other/2 {
		t.Errorf("%d and %d bytes of memory, both together %d", one, other, both)
	}
}

func TestACommandThatFailsSaysWhy(t *testing.T) {
	for said, line := range map[string]string{
		"because": "because",
		"#3 ERROR: no such file\n------\nwhittle: no such file\nwhittle: log: whittle logs k7m2qx4d": "#3 ERROR: no such file",
	} {
		_, err := timed(exec.Command("sh", "-c", `echo "$0" >&2; exit 3`, said), nil)
		if err == nil || !strings.Contains(err.Error(), "sh: exit status 3: "+line+"\n") {
			t.Errorf("%v", err)
		}
	}
}

func TestAFigureIsJudgedByItsOwnGoals(t *testing.T) {
	of := func(g goal, alone bool) result {
		return result{row: row{id: "r", goal: g, alone: alone}, floor: figure{Median: 100 * ms},
			figures: []figure{{Builder: "buildkitd", Median: 1000 * ms}, {Builder: "buildah", Median: 400 * ms}, {Builder: "dockerd classic", Why: "no"}}}
	}
	for _, c := range []struct {
		name string
		r    result
		f    figure
		want string
	}{
		{"half the best peer", of(goal{peer: 0.5}, false), figure{Builder: "whittle erofs", Median: 200 * ms}, ""},
		{"more than half", of(goal{peer: 0.5}, false), figure{Builder: "whittle erofs", Median: 240 * ms}, "0.60 of buildah"},
		{"tree is held against the peer itself", of(goal{peer: 0.5}, false), figure{Builder: "whittle tree", Median: 240 * ms}, ""},
		{"tree slower than it", of(goal{peer: 0.5}, false), figure{Builder: "whittle tree", Median: 440 * ms}, "1.10 of buildah"},
		{"tree slower than it where no ratio is asked for", of(goal{time: ms}, false), figure{Builder: "whittle tree", Median: 440 * ms}, "1.10 of buildah"},
		{"chroot is not held against it", of(goal{peer: 0.5}, false), figure{Builder: "whittle chroot", Median: 440 * ms}, ""},
		{"over the floor", of(goal{floor: 2}, false), figure{Builder: "whittle erofs", Median: 201 * ms}, "2.01 × the floor"},
		{"over the floor with tree", of(goal{floor: 2}, false), figure{Builder: "whittle tree", Median: 201 * ms}, ""},
		{"over the floor with tree, alone", of(goal{floor: 2}, true), figure{Builder: "whittle tree", Median: 201 * ms}, "2.01 × the floor"},
		{"half the best peer's overhead", of(goal{overhead: 0.5}, false), figure{Builder: "whittle erofs", Median: 250 * ms}, ""},
		{"more than half of it", of(goal{overhead: 0.5}, false), figure{Builder: "whittle erofs", Median: 280 * ms}, "0.60 of buildah's overhead"},
		{"more than half of it with tree", of(goal{overhead: 0.5}, false), figure{Builder: "whittle tree", Median: 280 * ms}, ""},
		{"in time for each step", of(goal{time: 10 * ms, steps: 20}, false), figure{Builder: "whittle erofs", Median: 200 * ms}, ""},
		{"late for each step", of(goal{time: 10 * ms, steps: 20}, false), figure{Builder: "whittle erofs", Median: 220 * ms}, "11.0 ms"},
		{"too large", of(goal{}, false), figure{Builder: "whittle tree", Median: ms, Peak: 201 << 20}, "201 MB of memory"},
		{"grows", of(goal{exponent: 1.05}, true), figure{Builder: "whittle chroot", Median: ms, Exponent: 1.2}, "exponent 1.20"},
		{"failed", of(goal{}, false), figure{Builder: "whittle erofs", Why: "it broke"}, "FAILED: it broke"},
		{"not possible here", of(goal{}, false), figure{Builder: "whittle erofs", Why: "not here: no erofs"}, ""},
	} {
		if got := strings.Join(c.r.misses(&c.f), ", "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNothingIsMetWithoutWhatItIsHeldAgainst(t *testing.T) {
	erofs, tree, peer := figure{Builder: "whittle erofs", Median: ms}, figure{Builder: "whittle tree", Median: ms}, figure{Builder: "buildkitd", Median: 10 * ms}
	floor := figure{Builder: "floor", Median: ms}
	for _, c := range []struct {
		name    string
		goal    goal
		floor   figure
		figures []figure
		want    string
	}{
		{"all is there", goal{peer: 0.5, floor: 2}, floor, []figure{erofs, tree, peer}, "met"},
		{"no peer", goal{peer: 0.5}, floor, []figure{erofs, tree}, "met, but for the peers: none is here"},
		{"a peer that failed", goal{peer: 0.5}, floor, []figure{erofs, peer, {Builder: "buildah", Why: "exit status 1"}}, "met, but for buildah: it failed"},
		{"a peer that cannot", goal{peer: 0.5}, floor, []figure{erofs, peer, {Builder: "buildah", Why: "not possible: it has none"}}, "met"},
		{"a floor that failed", goal{floor: 2}, figure{Builder: "floor", Why: "zstd: not found"}, []figure{erofs, peer}, "met, but for the floor: zstd: not found"},
		{"no erofs", goal{peer: 0.5}, floor, []figure{{Builder: "whittle erofs", Why: "not here: no erofs"}, tree, peer}, "met, but for erofs: not here"},
	} {
		if got := (result{row: row{id: "r", goal: c.goal}, floor: c.floor, figures: c.figures}).verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestOnlyMillionsOfEntriesMayTakeMoreMemory(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		want  string
	}{{nil, "201 MB of memory"}, {shares(1000), "201 MB of memory"}, {shares(1_000_000), ""}} {
		r := result{row: row{sizes: c.sizes}}
		if got := strings.Join(r.misses(&figure{Builder: "whittle erofs", Median: ms, Peak: 201 << 20}), ", "); got != c.want {
			t.Errorf("%v: %q, want %q", c.sizes, got, c.want)
		}
	}
}

func TestAFloorFailsWithAnyOfItsParts(t *testing.T) {
	if smp, err := timed(sideBySide(t.Context(), "0 0", "sleep $x.1; exit $x"), nil); err != nil || smp.took < 100*time.Millisecond {
		t.Errorf("%v, %v", smp, err)
	}
	for _, words := range []string{"1 0", "0 1"} {
		if _, err := timed(sideBySide(t.Context(), words, "(exit $x) | cat"), nil); err == nil {
			t.Errorf("%s: no error", words)
		}
	}
}

func TestTheExponentIsThatOfTheUpperSizes(t *testing.T) {
	if got := exponent([]int{1, 3, 10, 30, 100}, []time.Duration{50, 50, 100, 300, 1000}); got < 0.999 || got > 1.001 {
		t.Errorf("linear from 10 %% on: %.3f", got)
	}
	if got := exponent([]int{10, 30, 100}, []time.Duration{100, 900, 10000}); got < 1.99 || got > 2.01 {
		t.Errorf("quadratic: %.3f", got)
	}
	if got := exponent([]int{10, 30, 100}, []time.Duration{100, 900, 1000}); got < 1.99 || got > 2.01 {
		t.Errorf("quadratic up to the middle: %.3f", got)
	}
}

func TestTheTableHasEachBuilderBesideTheFloor(t *testing.T) {
	r := result{row: row{id: "copy", floor: "tar cf", goal: goal{peer: 0.15, floor: 2}}, floor: figure{Median: 600 * ms, Times: []time.Duration{600 * ms}},
		figures: []figure{{Builder: "whittle erofs", Median: 1200 * ms, Times: []time.Duration{1200 * ms, 1080 * ms, 1320 * ms}, Peak: 44 << 20},
			{Builder: "buildkitd", Median: 6000 * ms}, {Builder: "buildah", Why: "not here: no buildah"}}}
	var out bytes.Buffer
	if err := write(&out, []result{r}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"600 ms", "1.20 s (90–110 %)", "6.00 s", "0.20", "2.00", "≤ 0.15 of the best peer, ≤ 2.00 × the floor", "MISSED erofs: 0.20 of buildkitd", "44 MB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestDocumentAndPlotAreWrittenBetweenTheirLines(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "benchmarks.md")
	if err := os.WriteFile(file, []byte("# Title\n"+begin+"\nold\n"+end+"\nlast\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &suite{dir: dir}
	results := []result{{row: row{id: "copy", work: "w"}, floor: figure{Median: ms}, figures: []figure{{Builder: "whittle erofs", Median: 2 * ms}}}}
	rep := s.report(results)
	if err := rep.writeDocs(file, results); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); !strings.HasPrefix(got, "# Title\n"+begin) || !strings.HasSuffix(got, end+"\nlast\n") || strings.Contains(got, "old") || !strings.Contains(got, "| copy | 1.00 ms | 2.00 ms |") {
		t.Errorf("%s", got)
	}
	if plot, err := os.ReadFile(filepath.Join(dir, "benchmarks.svg")); err != nil || bytes.Count(plot, []byte("<rect")) < 3 {
		t.Errorf("%v: %s", err, plot)
	}
	// What was written can be compared with.
	if err := rep.writeJSON(file); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := rep.compare(&out, file); err != nil || !strings.Contains(out.String(), "copy  whittle erofs  floor  2.00  2.00") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// counted is a builder whose builds are counted.
type counted struct {
	none
	label string
	order *[]string
}

func (c counted) name() string { return c.label }
func (c counted) build(ctx context.Context, j job) *exec.Cmd {
	*c.order = append(*c.order, c.label)
	return exec.CommandContext(ctx, "true", fmt.Sprint(j.args["N"]))
}
func (counted) have(context.Context, string) error { return nil }
func (counted) forget(context.Context) error       { return nil }

func TestBuildersTakeTurnsAndEachRunIsAnother(t *testing.T) {
	var order []string
	s := &suite{set: settings{runs: 3, patience: time.Minute}, has: map[builder]map[string]bool{}}
	for _, name := range []string{"a", "b"} {
		s.builders = append(s.builders, &counted{label: name, order: &order})
	}
	seen := map[string]bool{}
	res := s.measure(t.Context(), row{id: "r", make: func(context.Context, *suite) (*scene, error) {
		return &scene{vary: func(j job, n int) job {
			j = numbered(j, n)
			seen[j.args["N"]] = true
			return j
		}}, nil
	}})
	if got := strings.Join(order, ""); got != "abbaab" {
		t.Errorf("order %s", got)
	}
	if len(seen) != 6 || len(res.figures) != 2 || len(res.figures[0].Times) != 3 || res.figures[1].Median == 0 {
		t.Errorf("%d jobs, figures %+v", len(seen), res.figures)
	}
}

func TestTheSizesOfARowTakeTurns(t *testing.T) {
	var order []string
	s := &suite{set: settings{runs: 2, patience: time.Minute}, has: map[builder]map[string]bool{}}
	for _, name := range []string{"a", "b"} {
		s.builders = append(s.builders, &counted{label: name, order: &order})
	}
	fails := func(_ context.Context, b builder) error {
		if b.name() == "b" {
			return errors.New("too much")
		}
		return nil
	}
	res := s.measure(t.Context(), row{id: "r", sizes: []int{10, 30}, grow: func(_ context.Context, _ *suite, n int) (*scene, error) {
		sc := &scene{ready: func(context.Context, builder, int) error {
			order = append(order, fmt.Sprint(n))
			return nil
		}}
		if n == 30 {
			sc.prime = fails
		}
		return sc, nil
	}})
	if got := strings.Join(order, ""); got != "10a10b30a10b10a30a" {
		t.Errorf("order %s", got)
	}
	a, b := res.figures[0], res.figures[1]
	if len(res.figures) != 2 || !slices.Equal(a.Sizes, []int{10, 30}) || len(a.Times) != 2 || a.Median != a.Times[1] || a.Exponent == 0 {
		t.Errorf("figures %+v", res.figures)
	}
	if b.Why != "30: too much" || b.Median != 0 {
		t.Errorf("what failed: %+v", b)
	}
}

func TestARunThatWasInterruptedIsTakenUpAgain(t *testing.T) {
	dir := t.TempDir()
	now := origin{"whittle 1", "one", "here"}
	s := &suite{set: settings{json: filepath.Join(dir, "f.json")}, origin: now, absent: map[string]string{"buildah": "not installed"}}
	if table, err := s.recorded(); err != nil || len(table.results) != 0 {
		t.Errorf("without a file: %v, %v", table, err)
	}
	ms := func(builder string, n int) figure {
		return figure{Builder: builder, Times: []time.Duration{time.Duration(n) * time.Millisecond}, Median: time.Duration(n) * time.Millisecond}
	}
	list := []result{
		{row: row{id: "noop-small"}, origin: now, figures: []figure{ms("whittle erofs", 2), {Builder: "whittle chroot", Why: "not in a chroot"}, ms("buildkitd", 30)}, floor: ms("floor", 1)},
		{row: row{id: "run-20"}, origin: now, figures: []figure{{Builder: "whittle erofs", Why: "exit status 1"}, ms("buildkitd", 3)}},
		{row: row{id: "copy-50k"}, origin: now, figures: []figure{{Builder: "all", Why: "no room"}}},
		{row: row{id: "big"}, origin: origin{"whittle 0", "none", "there"}, figures: []figure{ms("whittle erofs", 4)}},
		{row: row{id: "no row of now"}, origin: now, figures: []figure{ms("whittle erofs", 5)}},
	}
	if err := s.report(list).writeJSON(s.set.json); err != nil {
		t.Fatal(err)
	}
	table, err := s.recorded()
	if err != nil {
		t.Fatal(err)
	}
	res := table.results["noop-small"]
	if !s.done(res) || res.goal.peer == 0 || !reflect.DeepEqual(res.figures, list[0].figures) || res.floor.Median != time.Millisecond {
		t.Errorf("noop-small: %+v", res)
	}
	for _, id := range []string{"run-20", "copy-50k", "big", "noop-50k"} {
		if s.done(table.results[id]) {
			t.Errorf("%s is not measured again", id)
		}
	}
	var ids []string
	for _, r := range table.list() {
		ids = append(ids, r.id)
	}
	if want := []string{"noop-small", "run-20", "copy-50k", "big"}; !slices.Equal(ids, want) {
		t.Errorf("rows %v, want %v", ids, want)
	}
	var b bytes.Buffer
	measured(&b, table.list())
	if want := "- noop-small, run-20, copy-50k: measured with whittle 1 on here\n- big: measured with whittle 0 on there\n"; b.String() != want {
		t.Errorf("it says\n%s", b.String())
	}
	s.set.quick = true
	if _, err := s.recorded(); err == nil || !strings.Contains(err.Error(), "other sizes") {
		t.Errorf("other sizes: %v", err)
	}
}

func TestARowIsMeasuredAgainBesideOtherBuilders(t *testing.T) {
	s := &suite{origin: origin{Binary: "one"}, builders: []builder{&counted{label: "whittle erofs"}, &counted{label: "buildah"}}}
	res := func(list ...figure) result { return result{origin: s.origin, figures: list} }
	erofs, buildah := figure{Builder: "whittle erofs", About: "as it comes"}, figure{Builder: "buildah", About: "as it comes"}
	for _, c := range []struct {
		name string
		res  result
		want bool
	}{
		{"as it was", res(erofs, buildah), true},
		{"and another one then", res(erofs, buildah, figure{Builder: "buildkitd", About: "fast"}), true},
		{"one more now", res(erofs), false},
		{"another way now", res(erofs, figure{Builder: "buildah", About: "slow"}), false},
		{"it failed", res(erofs, figure{Builder: "buildah", About: "as it comes", Why: "exit status 1"}), false},
		{"it was too slow", res(erofs, figure{Builder: "buildah", About: "as it comes", Why: "not within 5m0s"}), true},
	} {
		if got := s.done(c.res); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	alone := res(erofs)
	if alone.alone = true; !s.done(alone) {
		t.Error("a row without peers is measured for their sake")
	}
}

func TestWhatCannotBeMeasuredIsSaidBeforeAnythingIs(t *testing.T) {
	good := settings{peers: "buildkitd,dockerd,buildah"}
	for _, c := range []struct {
		want   string // "" is none
		change func(s *settings) []string
	}{
		{"", func(*settings) []string { return nil }},
		{"", func(s *settings) []string { s.peers, s.only = "none", "^noop"; return nil }},
		{"no row is called so", func(s *settings) []string { s.only = "nosuch"; return nil }},
		{"-row", func(s *settings) []string { s.only = "("; return nil }},
		{"takes flags only", func(*settings) []string { return []string{"noop"} }},
		{"-peers docker", func(s *settings) []string { s.peers = "docker"; return nil }},
		{"-runs -1", func(s *settings) []string { s.runs = -1; return nil }},
		{"-resume", func(s *settings) []string { s.resume = true; return nil }},
		{"-docs", func(s *settings) []string { s.docs = "x.md"; return nil }},
		{"-json", func(s *settings) []string { s.json = "/nonexistent/x"; return nil }},
		{"-against", func(s *settings) []string { s.against = "/nonexistent"; return nil }},
	} {
		s := good
		operands := c.change(&s)
		if err := s.check(operands); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
}
