package store

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// helper builds the other process, once for a test.
func helper(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs time: builds a helper program")
	}
	bin := filepath.Join(t.TempDir(), "storecrash")
	cmd := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, "./testdata/storecrash")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	return bin
}

// crashPoints lists the points in the sources of this package, so that none
// can be forgotten.
func crashPoints(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	check(t, err)
	point := regexp.MustCompile(`crash\.Point\("([a-z.]+)"\)`)
	write := regexp.MustCompile(`s\.write\("([a-z]+)"`)
	var points []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		check(t, err)
		for _, m := range point.FindAllStringSubmatch(string(b), -1) {
			points = append(points, m[1])
		}
		for _, m := range write.FindAllStringSubmatch(string(b), -1) {
			points = append(points, "store."+m[1]+".written", "store."+m[1]+".renamed")
		}
	}
	if len(points) < 20 {
		t.Fatalf("only %d crash points found: %v", len(points), points)
	}
	return points
}

func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// recovered checks what a second process finds after a crash, lets it finish
// the work, and looks for leftovers.
func recovered(t *testing.T, bin, dir string) {
	t.Helper()
	s := openIn(t, dir)
	problems, err := s.Fsck(t.Context(), FsckOptions{})
	check(t, err)
	for _, p := range problems {
		// The helper itself damages this one and mends it again.
		if p.Kind != "tmp" && !strings.Contains(p.Path, named("mended").Hex()) {
			t.Errorf("right after the crash: %s", p)
		}
	}
	if out, err := exec.Command(bin, dir, "work").CombinedOutput(); err != nil {
		t.Fatalf("the second process: %v\n%s", err, out)
	}
	_, err = s.Prune(t.Context(), PruneOptions{})
	check(t, err)
	sound(t, s)
	for _, sub := range []string{lockKeys, lockUsers} {
		if left, _ := readNames(s.path(lockDir, sub)); len(left) > 0 {
			t.Errorf("left in locks/%s: %v", sub, left)
		}
	}
	if r, err := s.Record(named("key")); err != nil || r.Text != "RUN work" {
		t.Errorf("the record of the work: %v, %v", r, err)
	}
	if b, err := os.ReadFile(s.LayerDir(named("layer")) + "/layer.tar"); string(b) != "whole content" {
		t.Errorf("the layer of the work: %q, %v", b, err)
	}
}

func TestCrashAtEveryPointLeavesOnlyWholeThings(t *testing.T) {
	bin := helper(t)
	for _, point := range crashPoints(t) {
		t.Run(point, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			cmd := exec.Command(bin, dir, "work")
			cmd.Env = append(os.Environ(), "WHITTLE_CRASH="+point)
			if out, err := cmd.CombinedOutput(); !killed(err) {
				t.Fatalf("the helper was not killed at its point: %v\n%s", err, out)
			}
			recovered(t, bin, dir)
		})
	}
}

func TestKillAtRandomMomentsLeavesOnlyWholeThings(t *testing.T) {
	bin := helper(t)
	dir := filepath.Join(t.TempDir(), "store")
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 12 {
		cmd := exec.Command(bin, dir, "loop")
		check(t, cmd.Start())
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		check(t, cmd.Process.Kill())
		if err := cmd.Wait(); !killed(err) {
			t.Fatalf("the helper ended by itself: %v", err)
		}
		recovered(t, bin, dir)
	}
}

func TestOneAtATimeHoldsAKeyAmong32(t *testing.T) {
	s := open(t)
	var inside, most, waited atomic.Int32
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			l, err := s.LockKey(context.Background(), named("key"), func() { waited.Add(1) })
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			time.Sleep(100 * time.Microsecond)
			inside.Add(-1)
			if err := errors.Join(l.Close(), l.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d were inside at once", most.Load())
	}
	if w := waited.Load(); w < 1 || w > 31 {
		t.Errorf("waiting was called %d times", w)
	}
	if left, _ := readNames(s.path(lockDir, lockKeys)); len(left) > 0 {
		t.Errorf("lock files left: %v", left)
	}
}

// start runs the helper until it says that it holds something; the returned
// function ends it.
func start(t *testing.T, bin string, args ...string) (cmd *exec.Cmd, end func()) {
	t.Helper()
	cmd = exec.Command(bin, args...)
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	cmd.Stderr = os.Stderr
	check(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "holding\n" {
		t.Fatalf("the helper said %q, %v", line, err)
	}
	return cmd, sync.OnceFunc(func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() })
}

func TestAKeyHeldByAnotherProcessIsWaitedFor(t *testing.T) {
	bin := helper(t)
	s := open(t)
	cmd, end := start(t, bin, s.Dir(), "hold", "key")
	defer end()

	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := s.LockKey(ctx, named("key"), func() { cancel(over) })
	if !errors.Is(err, over) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	// A killed process holds nothing.
	l, err := s.LockKey(t.Context(), named("key"), func() { cmd.Process.Kill() })
	check(t, err)
	check(t, l.Close())
}

func TestTwoProcessesLoseNoUpdateAndFillOnce(t *testing.T) {
	bin := helper(t)
	s := open(t)
	commit(t, s, "shared", "content")
	outs := make([]string, 3)
	var wg sync.WaitGroup
	for i := range outs {
		wg.Go(func() {
			for _, args := range [][]string{{"count", "80"}, {"fill"}} {
				out, err := exec.Command(bin, append([]string{s.Dir()}, args...)...).CombinedOutput()
				if err != nil {
					t.Errorf("%v: %v\n%s", args, err, out)
				}
				outs[i] += string(out)
			}
		})
	}
	wg.Wait()
	if b, err := s.Doc("count", "er"); string(b) != "240" {
		t.Errorf("counted to %s, %v; want 240", b, err)
	}
	slices.Sort(outs)
	if want := []string{"0\n", "0\n", "1\n"}; !slices.Equal(outs, want) {
		t.Errorf("filled %q times, want %q", outs, want)
	}
	sound(t, s)
}

func TestExclusiveWaitsForUse(t *testing.T) {
	s := open(t)
	a, err := s.Use(t.Context())
	check(t, err)
	b, err := s.Use(t.Context())
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Exclusive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("exclusive beside use: %v", err)
	}
	check(t, errors.Join(a.Close(), a.Close(), b.Close()))
	l, err := s.Exclusive(t.Context())
	check(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Use(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("use beside exclusive: %v", err)
	}
	check(t, l.Close())
	if left, _ := readNames(s.path(lockDir, lockUsers)); len(left) > 0 {
		t.Errorf("pin files left: %v", left)
	}
}

func TestPruneKeepsWhatAnotherProcessUses(t *testing.T) {
	bin := helper(t)
	s := open(t)
	id, rest := commit(t, s, "shared", "content"), commit(t, s, "rest", "content")
	cmd, end := start(t, bin, s.Dir(), "use")
	defer end()
	freed, err := s.Prune(t.Context(), PruneOptions{All: true, Keep: keepNothing})
	check(t, err)
	if !freed.Busy || freed.Layers != 1 || !s.HasLayer(id) || s.HasLayer(rest) {
		t.Errorf("beside a build: %+v; used there: %v, unused there: %v", freed, s.HasLayer(id), s.HasLayer(rest))
	}
	check(t, cmd.Process.Kill())
	end()
	freed, err = s.Prune(t.Context(), PruneOptions{All: true, Keep: keepNothing})
	check(t, err)
	if freed.Busy || freed.Layers != 1 || s.HasLayer(id) {
		t.Errorf("after the build was killed: %+v", freed)
	}
	sound(t, s)
}
