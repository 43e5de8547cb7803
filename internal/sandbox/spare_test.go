package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// withSpare makes Spares that have one ready, for processes like those of shell
// or, unless one is set, with two pipes.
func withSpare(t *testing.T, dir string, one bool) (*Spares, int) {
	t.Helper()
	s := &Spares{}
	t.Cleanup(func() { s.Close() })
	for range 2 {
		c, _ := shell(t, dir, "true")
		if m := c.Isolation.Mode; m == OCI || m == Chroot {
			t.Skip("other isolations have no init of this kind")
		}
		c.Spares = s
		if !one {
			c.Stderr = new(bytes.Buffer)
		}
		run(t, c)
	}
	if procRefused.Load() {
		t.Skip("without a pid namespace there is no spare")
	}
	return s, ready(t, s)
}

// ready waits for the spare and returns its process.
func ready(t *testing.T, s *Spares) int {
	t.Helper()
	s.mu.Lock()
	sp := s.spare
	s.mu.Unlock()
	if sp == nil {
		t.Fatal("there is no spare")
	}
	for range 1000 {
		if pid := childCalled("whittle-init"); pid != 0 {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the spare does not begin")
	return 0
}

// childCalled finds a child of this process by its argv[0].
func childCalled(name string) (found int) {
	eachProcess(func(pid int) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if parentOf(pid) == os.Getpid() && bytes.HasPrefix(b, []byte(name+"\x00")) {
			found = pid
		}
	})
	return found
}

func TestASpareBecomesTheNextProcess(t *testing.T) {
	dir := newRoot(t)
	s, pid := withSpare(t, dir, false)
	for i := range 3 {
		var out, other bytes.Buffer
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "f"), fmt.Append(nil, "mounted ", i), 0o644); err != nil {
			t.Fatal(err)
		}
		c := isolated(t, &Config{
			Root: openPath(t, dir), Args: []string{"sh", "-c", "cat /a/f /b; echo; id -u; echo $0 $X; pwd; echo err >&2; ls /proc/self/fd; exit 3", fmt.Sprint(i)},
			Env: []string{"PATH=/bin", "X=y"}, Dir: "/tmp", User: "web", Spares: s, Stdout: &out, Stderr: &other,
			Mounts: []Mount{{Target: "/a", Path: folder}, {Target: "/b", Content: &Content{Content: []byte(" and made"), Mode: 0o444}}, {Target: "/c"}},
		})
		p, err := Start(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if p.Pid() != pid {
			t.Errorf("the process is %d, the spare was %d", p.Pid(), pid)
		}
		st, err := p.Wait()
		if err != nil || st.Code != 3 {
			t.Errorf("it ended with %v, %v", st, err)
		}
		expect(t, "stdout", out.String(), fmt.Sprintf("mounted %d and made\n33\n%d y\n/tmp\n0\n1\n2\n3\n", i, i))
		expect(t, "stderr", other.String(), "err\n")
		for _, name := range []string{"a", "b", "c"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s is left in the root", name)
			}
		}
		pid = ready(t, s)
	}
}

func TestAProcessThatTheSpareDoesNotFitGetsAnotherInit(t *testing.T) {
	dir := newRoot(t)
	s, pid := withSpare(t, dir, true)
	for what, change := range map[string]func(*Config){
		"a network of its own": func(c *Config) { c.Network = NetworkNone },
		"input":                func(c *Config) { c.Stdin = bytes.NewReader(nil) },
		"one pipe less":        func(c *Config) { c.Stderr = new(bytes.Buffer) },
		"a file for output":    func(c *Config) { c.Stdout = os.Stderr },
	} {
		c, _ := shell(t, dir, "true")
		c.Spares = s
		change(c)
		p, err := Start(t.Context(), c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if p.Pid() == pid {
			t.Errorf("%s: the spare was taken", what)
		}
		if _, err := p.Wait(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestASpareThatWasKilledIsNotMissed(t *testing.T) {
	dir := newRoot(t)
	s, pid := withSpare(t, dir, true)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // the kernel ends its threads one after the other
		if s.spare.ended() {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	c, out := shell(t, dir, "echo still")
	c.Spares = s
	run(t, c)
	expect(t, "output", out.String(), "still\n")
}

func TestTheEndOfTheContextEndsWhatWasASpare(t *testing.T) {
	dir := newRoot(t)
	s, _ := withSpare(t, dir, true)
	ctx, cancel := context.WithCancelCause(t.Context())
	c, _ := shell(t, dir, "sleep 1000")
	c.Spares = s
	p, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	cancel(why)
	if _, err := p.Wait(); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
}

func TestNoSpareIsLeft(t *testing.T) {
	dir := newRoot(t)
	s, pid := withSpare(t, dir, true)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("after Close: %v", err)
	}
	c, _ := shell(t, dir, "true")
	c.Spares = s
	run(t, c)
	if s.spare != nil {
		t.Error("there is one again")
	}
}
