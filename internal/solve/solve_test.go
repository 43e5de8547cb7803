package solve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/store"
)

func TestStepsRunInOrderOnTopOfEachOther(t *testing.T) {
	b := newBench(t, nil)
	p := planOf(t, twoStages)
	r, err := b.Solve(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, text := range b.ran {
		at[text] = i
	}
	for _, pair := range [][2]string{{`RUN ["a1"]`, `RUN ["a2"]`}, {`RUN ["a2"]`, "COPY --from=a /x /x"}, {`RUN ["b1"]`, "COPY --from=a /x /x"}, {"COPY --from=a /x /x", `RUN ["b2"]`}} {
		if at[pair[0]] >= at[pair[1]] {
			t.Errorf("%s ran after %s", pair[0], pair[1])
		}
	}
	for _, job := range b.jobs {
		s := job.Step
		if got, want := job.Below.ID(), r.Chain(s.Below).ID(); got != want {
			t.Errorf("%s ran on chain %s, want %s", s.Line.Text, got.Short(), want.Short())
		}
		if s.Copy != nil && job.From.ID() != r.Chain(p.Stages[0].Root).ID() {
			t.Errorf("%s copied from another chain", s.Line.Text)
		}
		if job.Key.IsZero() || job.Nonce == "" {
			t.Errorf("%s ran without a key or a nonce", s.Line.Text)
		}
	}
	if got := len(r.Chain(p.Target.Root)); got != 3 {
		t.Errorf("the target has %d layers, want 3", got)
	}
}

func TestOnlyWhatAProcessWillSeeIsInRoot(t *testing.T) {
	b := newBench(t, nil)
	b.mustSolve("FROM scratch AS a\nCOPY a /a\nRUN [\"x\"]\nCOPY b /b\nFROM a AS b\nCOPY c /c\nRUN [\"y\"]\nCOPY d /d\n")
	for _, job := range b.jobs {
		want := !strings.HasPrefix(job.Step.Line.Text, `RUN ["y"]`) && job.Step.Line.Text != "COPY d /d"
		if job.InRoot != want {
			t.Errorf("%s: InRoot %v, want %v", job.Step.Line.Text, job.InRoot, want)
		}
	}
}

func TestStagesRunSideBySide(t *testing.T) {
	const n = 8
	b := newBench(t, nil)
	var here sync.WaitGroup
	here.Add(n)
	all := make(chan struct{})
	go func() { here.Wait(); close(all) }()
	b.during = func(_ context.Context, text string) error {
		if !strings.Contains(text, "part") {
			return nil
		}
		here.Done()
		soon(t, all, "all stages running at once")
		return nil
	}
	text, copies := "", "FROM scratch\n"
	for i := range n {
		text += fmt.Sprintf("FROM scratch AS s%d\nRUN [\"part\", \"%d\"]\n", i, i)
		copies += fmt.Sprintf("COPY --from=s%d /x /x%d\n", i, i)
	}
	b.mustSolve(text + copies)
}

func TestAtMostJobsStepsRunAtOnce(t *testing.T) {
	for _, jobs := range []int{1, 2, 3} {
		b := newBench(t, nil)
		b.Jobs = jobs
		var mu sync.Mutex
		now, most := 0, 0
		b.during = func(context.Context, string) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(2 * time.Millisecond) // long enough for others to come in
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		}
		text, copies := "", "FROM scratch\n"
		for i := range 6 {
			text += fmt.Sprintf("FROM scratch AS s%d\nRUN [\"%d\"]\n", i, i)
			copies += fmt.Sprintf("COPY --from=s%d /x /x%d\n", i, i)
		}
		b.mustSolve(text + copies)
		if most > jobs {
			t.Errorf("--jobs %d: %d steps ran at once", jobs, most)
		}
	}
}

func TestASecondBuildRunsNothing(t *testing.T) {
	b := newBench(t, nil)
	first := b.mustSolve(twoStages)
	b.took()
	second := b.mustSolve(twoStages)
	b.wantRan()
	var a, c []string
	for _, d := range first.Steps {
		a = append(a, d.Layer.Hex()+d.Created.String())
		if d.Cached {
			t.Error("a step of the first build is cached")
		}
	}
	for _, d := range second.Steps {
		c = append(c, d.Layer.Hex()+d.Created.String())
		if !d.Cached || d.Size != 10 {
			t.Errorf("step of the second build: %+v", d)
		}
	}
	slices.Sort(a)
	slices.Sort(c)
	if !slices.Equal(a, c) {
		t.Error("the second build has other layers or times")
	}
}

func TestAChangeRunsWhatComesAfterItOnly(t *testing.T) {
	b := newBench(t, nil)
	b.mustSolve(twoStages)
	b.took()
	b.mustSolve(strings.Replace(twoStages, "a2", "a2 changed", 1))
	b.wantRan(`RUN ["a2 changed"]`) // what COPY copies is the same: early cut-off
	b.content = func(Job) digest.Digest { return digest.Of([]byte("other content")) }
	b.mustSolve(twoStages)
	b.wantRan("COPY --from=a /x /x", `RUN ["b2"]`)
}

func TestEveryFieldOfAKeyChangesIt(t *testing.T) {
	const text = "FROM scratch\nCOPY a /a\n"
	keyOf := func(b *bench, text string) digest.Digest {
		t.Helper()
		p := planOf(t, text)
		r, err := b.Solve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return r.Steps[p.Steps[len(p.Steps)-1]].Key
	}
	b := newBench(t, nil)
	base := keyOf(b, text)
	for name, other := range map[string]digest.Digest{
		"the chain below": keyOf(b, "FROM scratch\nRUN [\"x\"]\nCOPY a /a\n"),
		"the instruction": keyOf(b, "FROM scratch\nADD a /a\n"),
		"its kind":        keyOf(b, "FROM scratch\nWORKDIR /a\n"),
	} {
		if other == base {
			t.Errorf("%s is not in the key", name)
		}
	}
	b.content = func(Job) digest.Digest { return digest.Of([]byte("other")) }
	if keyOf(b, text) == base {
		t.Error("the content is not in the key")
	}
}

func TestTheSameStepTwiceRunsOnce(t *testing.T) {
	for _, jobs := range []int{0, 1} {
		for _, noCache := range []bool{false, true} {
			b := newBench(t, nil)
			b.Jobs, b.NoCache = jobs, always(noCache)
			r := b.mustSolve("FROM scratch AS a\nRUN [\"same\"]\nRUN [\"a\"]\nFROM scratch AS b\nRUN [\"same\"]\nRUN [\"b\"]\nFROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n")
			b.wantRan("COPY --from=a /x /a", "COPY --from=b /x /b", `RUN ["a"]`, `RUN ["b"]`, `RUN ["same"]`)
			layers := map[digest.Digest]bool{}
			for s, d := range r.Steps {
				if s.Line.Text == `RUN ["same"]` {
					layers[d.Layer] = true
				}
			}
			if len(layers) != 1 {
				t.Errorf("the same step has %d layers", len(layers))
			}
			for _, e := range b.events {
				if e.Kind == progress.Note {
					t.Errorf("note %q about a step of this very build", e.Text)
				}
			}
		}
	}
}

func TestSolversThatShareFlightsRunAStepOnce(t *testing.T) {
	b := newBench(t, nil)
	b.NoCache, b.Flights = always(true), NewFlights(0)
	running := make(chan struct{})
	b.during = func(context.Context, string) error {
		time.Sleep(20 * time.Millisecond)
		return nil
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			<-running
			if _, err := b.solve("FROM scratch\nRUN [\"x\"]\n"); err != nil {
				t.Error(err)
			}
		})
	}
	close(running)
	all.Wait()
	b.wantRan(`RUN ["x"]`)
}

func TestSolversThatShareFlightsShareTheirSlots(t *testing.T) {
	for jobs := 1; jobs <= 2; jobs++ {
		b := newBench(t, nil)
		b.Flights = NewFlights(jobs)
		var now, most atomic.Int32
		b.during = func(context.Context, string) error {
			n := now.Add(1)
			defer now.Add(-1)
			for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
			}
			time.Sleep(5 * time.Millisecond) // long enough for another to begin, if it may
			return nil
		}
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() { // with a step that all have, and two side by side
				text := fmt.Sprintf("FROM scratch AS s\nRUN [\"same\"]\nFROM s AS a\nRUN [\"a%d\"]\nFROM s\nRUN [\"b%d\"]\nCOPY --from=a /x /y\n", i, i)
				if _, err := b.solve(text); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got := most.Load(); got > int32(jobs) {
			t.Errorf("%d steps ran at once, want at most %d", got, jobs)
		}
		if n := len(b.took()); n != 13 {
			t.Errorf("%d steps ran, want 13", n)
		}
	}
}

func TestAStepThatFailedForAnotherSolverIsTriedHere(t *testing.T) {
	b := newBench(t, nil)
	b.Flights = NewFlights(0)
	var tries atomic.Int32
	started := make(chan struct{})
	broken := errors.New("broken")
	b.during = func(context.Context, string) error {
		if tries.Add(1) > 1 {
			return nil
		}
		close(started)
		time.Sleep(20 * time.Millisecond)
		return broken
	}
	first := make(chan error, 1)
	go func() {
		_, err := b.solve("FROM scratch\nRUN [\"x\"]\n")
		first <- err
	}()
	<-started
	if _, err := b.solve("FROM scratch\nRUN [\"x\"]\n"); err != nil {
		t.Errorf("the second solver: %v", err)
	}
	if err := <-first; !errors.Is(err, broken) {
		t.Errorf("the first: %v", err)
	}
}

func TestNoCacheRunsEverythingAndLaterBuildsUseIt(t *testing.T) {
	b := newBench(t, nil)
	b.mustSolve(twoStages)
	all := b.took()
	b.NoCache = always(true)
	fresh := b.mustSolve(twoStages)
	b.wantRan(all...)
	b.NoCache = nil
	again := b.mustSolve(twoStages)
	b.wantRan()
	layers := func(r *Result) (out []string) {
		for _, d := range r.Steps {
			out = append(out, d.Layer.Hex())
		}
		slices.Sort(out)
		return out
	}
	if !slices.Equal(layers(fresh), layers(again)) {
		t.Error("a build after --no-cache does not use its layers")
	}
}

func TestAnErrorEndsTheOtherStages(t *testing.T) {
	b := newBench(t, nil)
	broken := errors.New("broken")
	running := make(chan struct{})
	ended := make(chan struct{})
	b.during = func(ctx context.Context, text string) error {
		switch text {
		case `RUN ["long"]`:
			close(running)
			<-ctx.Done()
			close(ended)
			return context.Cause(ctx)
		case `RUN ["bad"]`:
			<-running
			return broken
		}
		return nil
	}
	_, err := b.solve("FROM scratch AS a\nRUN [\"long\"]\nRUN [\"never\"]\nFROM scratch AS b\nRUN [\"bad\"]\nFROM scratch\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n")
	if !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	select {
	case <-ended:
	default:
		t.Error("Solve returned while a step was running")
	}
	b.wantRan(`RUN ["bad"]`, `RUN ["long"]`)
	var failed, stopped int
	for _, e := range b.events {
		switch {
		case e.Kind != progress.Done || e.Err == nil:
		case errors.Is(e.Err, context.Canceled):
			stopped++
		default:
			failed++
		}
	}
	if failed != 1 || stopped != 1 {
		t.Errorf("%d steps failed and %d were stopped, want one each", failed, stopped)
	}
}

// closes counts how often it is closed.
type closes struct{ n *atomic.Int32 }

func (c closes) Close() error {
	c.n.Add(1)
	return nil
}

func TestWhatIsKeptForAStepIsClosedWhetherItRunsOrNot(t *testing.T) {
	b := newBench(t, nil)
	var made, closed atomic.Int32
	b.content = func(job Job) digest.Digest {
		made.Add(1)
		job.Kept.Made = closes{&closed}
		return digest.Of([]byte("content"))
	}
	broken := errors.New("broken")
	fails := func(_ context.Context, text string) error {
		if closed.Load() == made.Load() {
			t.Error("closed before the step runs")
		}
		return broken
	}
	for _, c := range []struct {
		what, text string
		during     func(context.Context, string) error
	}{
		{"it runs", "COPY x /", nil},
		{"it is cached", "COPY x /", nil},
		{"it fails", "COPY x /elsewhere", fails},
	} {
		b.during = c.during
		if _, err := b.solve("FROM scratch\n" + c.text + "\n"); err != nil && !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if made.Load() == 0 || made.Load() != closed.Load() {
			t.Errorf("%s: made %d, closed %d", c.what, made.Load(), closed.Load())
		}
	}
	b.wantRan("COPY x /", "COPY x /elsewhere")
}

func TestAFailedStepIsNotRecorded(t *testing.T) {
	b := newBench(t, nil)
	broken := errors.New("broken")
	b.during = func(context.Context, string) error { return broken }
	if _, err := b.solve("FROM scratch\nRUN [\"x\"]\n"); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	b.took()
	b.during = nil
	b.mustSolve("FROM scratch\nRUN [\"x\"]\n")
	b.wantRan(`RUN ["x"]`)
}

func TestCancelEndsASolveWithItsCause(t *testing.T) {
	b := newBench(t, nil)
	b.Jobs = 1 // so that one stage stands in line for a slot
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	b.during = func(ctx context.Context, _ string) error {
		cancel(why)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	_, err := b.Solve(ctx, planOf(t, twoStages))
	if !errors.Is(err, why) {
		t.Errorf("error %v, want the cause", err)
	}
	if n := len(b.took()); n != 1 {
		t.Errorf("%d steps ran", n)
	}
	if _, err := b.Solve(ctx, planOf(t, twoStages)); !errors.Is(err, why) || len(b.took()) != 0 {
		t.Errorf("a solve that was cancelled before it began: %v", err)
	}
}

func TestAStepThatAnotherProcessRunsIsWaitedFor(t *testing.T) {
	a := newBench(t, nil)
	// Another process's store is another Store on the same folder.
	s, err := store.Open(a.Store.Dir(), store.Options{Owner: a.Store.Owner()})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, s)
	b.Jobs = 1
	running, waits, other := make(chan struct{}), make(chan struct{}), make(chan struct{})
	a.during = func(_ context.Context, text string) error {
		if text == `RUN ["shared"]` {
			close(running)
			soon(t, waits, "the other build waiting")
			// While it waits it holds no slot: its other stage runs.
			soon(t, other, "the other build's other stage")
		}
		return nil
	}
	b.Sink = sinkFunc(func(e progress.Event) {
		if e.Kind == progress.Note {
			close(waits)
		}
	})
	b.content = func(job Job) digest.Digest {
		if job.Step.Line.Text == "COPY after /" { // the other stage begins when this one waits
			soon(t, waits, "waiting")
		}
		return digest.Of(nil)
	}
	b.during = func(_ context.Context, text string) error {
		if text == `RUN ["own"]` {
			close(other)
		}
		return nil
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.solve("FROM scratch\nRUN [\"shared\"]\n")
		done <- err
	}()
	soon(t, running, "the first build running")
	r, err := b.solve("FROM scratch AS x\nRUN [\"shared\"]\nFROM scratch AS y\nCOPY after /\nRUN [\"own\"]\nFROM scratch\nCOPY --from=x / /\nCOPY --from=y / /\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := b.took(); slices.Contains(got, `RUN ["shared"]`) {
		t.Errorf("the second build ran %q", got)
	}
	for s, d := range r.Steps {
		if s.Line.Text == `RUN ["shared"]` && !d.Cached {
			t.Error("the step that another process ran is not cached")
		}
	}
}

type sinkFunc func(progress.Event)

func (f sinkFunc) Emit(e progress.Event) { f(e) }

func TestTwoBuildsWithOneJobEachDoNotBlockEachOther(t *testing.T) {
	s := newBench(t, nil).Store
	const a = "FROM scratch AS a\nRUN [\"1\"]\nRUN [\"2\"]\nFROM scratch AS b\nRUN [\"3\"]\nRUN [\"4\"]\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
	other := strings.NewReplacer("1", "3", "2", "4", "3", "1", "4", "2").Replace(a)
	for range 5 {
		var wg sync.WaitGroup
		for i := range 4 {
			b := newBench(t, s)
			b.Jobs, b.NoCache = 1, always(i%2 == 0)
			text := a
			if i >= 2 {
				text = other
			}
			wg.Go(func() {
				if _, err := b.solve(text); err != nil {
					t.Error(err)
				}
			})
		}
		ended := make(chan struct{})
		go func() { wg.Wait(); close(ended) }()
		soon(t, ended, "four builds")
	}
}

func TestARecordWhoseLayerIsGoneIsRunAgain(t *testing.T) {
	b := newBench(t, nil)
	r := b.mustSolve(twoStages)
	b.took()
	for s, d := range r.Steps {
		if s.Line.Text == `RUN ["a2"]` {
			if err := os.RemoveAll(b.Store.LayerDir(d.Layer)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.mustSolve(twoStages)
	b.wantRan(`RUN ["a2"]`)
}

func TestARunnerThatCommitsNothingIsAnError(t *testing.T) {
	b := newBench(t, nil)
	b.Runner = runnerFunc(func(context.Context, Job) (Made, error) {
		return Made{Layer: digest.Of([]byte("nowhere"))}, nil
	})
	if _, err := b.solve("FROM scratch\nRUN [\"x\"]\n"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

type runnerFunc func(context.Context, Job) (Made, error)

func (f runnerFunc) Run(ctx context.Context, job Job) (Made, error) { return f(ctx, job) }

func TestLayersOfABuildArePinned(t *testing.T) {
	b := newBench(t, nil)
	lock, err := b.Store.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	r := b.mustSolve(twoStages)
	other, err := store.Open(b.Store.Dir(), store.Options{Owner: b.Store.Owner()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Prune(t.Context(), store.PruneOptions{All: true, Keep: func(digest.Digest) bool { return false }}); err != nil {
		t.Fatal(err)
	}
	for s, d := range r.Steps {
		if !b.Store.HasLayer(d.Layer) {
			t.Errorf("the layer of %s was pruned during the build", s.Line.Text)
		}
	}
}

func TestEveryLineIsTold(t *testing.T) {
	b := newBench(t, nil)
	p := planOf(t, "FROM scratch AS a\nENV A=1\nRUN [\"x\"]\nCMD [\"x\"]\nFROM a\nLABEL a=b\nWORKDIR /w\n")
	for _, want := range []progress.Kind{progress.Done, progress.Cached} {
		b.events = nil
		if _, err := b.Solve(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		ends := map[int]progress.Kind{}
		for _, e := range b.events {
			if e.Kind == progress.Done || e.Kind == progress.Cached {
				ends[e.Vertex] = e.Kind
				if len(e.Key) != 12 {
					t.Errorf("line %d ends with key %q", e.Vertex, e.Key)
				}
			}
		}
		for _, l := range p.Lines {
			if l.Step != nil && ends[l.Number] != want {
				t.Errorf("%s ended as %s, want %s", l.Text, ends[l.Number], want)
			}
			if _, ok := ends[l.Number]; !ok {
				t.Errorf("%s never ended", l.Text)
			}
		}
	}
}

func TestABaseImageIsTheBottomOfTheChain(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM base\nRUN [\"x\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	amd64 := plan.Platform{OS: "linux", Arch: "amd64"}
	req := plan.Request{File: f, BuildPlatform: amd64, Images: map[plan.Ref]*plan.Base{}}
	_, err = plan.New(req)
	var missing *plan.Missing
	if !errors.As(err, &missing) {
		t.Fatal(err)
	}
	keys := map[digest.Digest]bool{}
	for _, name := range []string{"one", "two"} {
		b := newBench(t, nil)
		layer := digest.Of([]byte(name))
		req.Images[missing.Refs[0]] = testBase()
		p, err := plan.New(req)
		if err != nil {
			t.Fatal(err)
		}
		b.Bases = map[plan.Ref]Base{missing.Refs[0]: {ID: digest.Of([]byte("id")), Chain: rootfs.Chain{layer}}}
		r, err := b.Solve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if c := r.Chain(p.Target.Root); len(c) != 2 || c[0] != layer {
			t.Errorf("chain %v", c)
		}
		keys[r.Steps[p.Steps[0]].Key] = true
	}
	if len(keys) != 2 {
		t.Error("another base image gives the same key")
	}
}

func always(yes bool) func(*plan.Step) bool { return func(*plan.Step) bool { return yes } }
