package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests are run in three places: as root, in a user namespace, and in one
// whose /proc is masked, where there is no pid namespace to end.

func TestNothingOutlivesItsSandbox(t *testing.T) {
	dir := newRoot(t)
	if err := os.Symlink("busybox", dir+"/bin/setsid"); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"a child":             "sleep 987601 &",
		"a session":           "setsid sleep 987602 &",
		"a daemon":            "(setsid sh -c 'sleep 987603 & sleep 987604' &)",
		"who is not waited":   "(true &); (false &); sleep 0.01",
		"after the reaper":    `setsid sh -c 'sleep 987605 & sleep 987606' & kill -9 $PPID; sleep 3`,
		"one that forks on":   `f() { sleep 987608 & sleep 0.02; (f &); }; (f &); sleep 0.1`,
		"who ignores signals": `(trap "" TERM HUP INT; setsid sleep 987609 &)`,
	} {
		t.Run(name, func(t *testing.T) {
			c, out := shell(t, dir, script)
			if _, err := Run(t.Context(), c); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if left := matching("sleep\x0098760"); len(left) > 0 {
				t.Errorf("still there: %v", left)
			}
		})
	}
}

func TestOrphansAreWaitedForWithoutAPidNamespace(t *testing.T) {
	c, out := shell(t, newRoot(t), "(true &); (sleep 0.02 &); sleep 0.1; grep -s \" Z $PPID \" /proc/[0-9]*/stat; true")
	run(t, c)
	if procRefused.Load() && out.Len() > 0 {
		t.Errorf("zombies: %s", out)
	}
}

// With a pid namespace the command is its first process, as in every RUN of
// docker's: orphans become its children. One that waits for no one keeps them
// as zombies until it ends, and they take of what --pids-limit gives; they go
// with it. A shell waits for them.
func TestOrphansAreTheCommandsOwnUntilItEnds(t *testing.T) {
	dir := newRoot(t)
	const orphans = "(sleep 0.02 &); (sleep 0.02 &)"
	zombies := func(script string) string {
		t.Helper()
		c, out := shell(t, dir, script)
		if st, err := Run(t.Context(), c); err != nil || st.Code != 0 {
			t.Fatalf("%+v, %v: %s", st, err, out)
		}
		return strings.TrimSpace(out.String())
	}
	const count = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '"
	got := zombies(orphans + "; sleep 0.2; true; " + count + "; true")
	if procRefused.Load() || os.Getenv(isolationVar) == Chroot {
		return // the reaper waits for them, and the step sees those of others too
	}
	if got != "0" {
		t.Errorf("a shell leaves %s zombies", got)
	}
	// sleep, in the shell's place, waits for no one.
	if got := zombies(orphans + "; (sleep 0.3; " + count + " ; true) & exec sleep 1"); got != "2" {
		t.Errorf("%s zombies below a command that does not wait, want 2 as in docker", got)
	}
}

func TestACancelEndsWhatASandboxStarted(t *testing.T) {
	dir := newRoot(t)
	c, _ := shell(t, dir, "sleep 987621 & sleep 987622")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	if _, err := Run(ctx, c); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
	if left := matching("sleep\x0098762"); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func TestTheStatusIsTheCommandsOwn(t *testing.T) {
	dir := newRoot(t)
	for script, want := range map[string]Status{
		"exit 3":              {Code: 3},
		"kill -SEGV $$":       {Code: 139, Signal: syscall.SIGSEGV},
		"exec sh -c 'exit 0'": {},
	} {
		c, out := shell(t, dir, script)
		st, err := Run(t.Context(), c)
		if procRefused.Load() || st.Signal == 0 && want.Signal == 0 {
			if err != nil || st != want {
				t.Errorf("%s: got %+v, %v, want %+v\n%s", script, st, err, want, out)
			}
		}
	}
}

func TestWithoutAPidNamespaceTheCallersProcIsSeen(t *testing.T) {
	dir := newRoot(t)
	c, out := shell(t, dir, "echo $$; readlink /proc/self")
	run(t, c)
	own := strings.HasPrefix(out.String(), "1\n")
	if masked := os.Getenv(helperVar) == helperMasked; own == masked {
		t.Errorf("own pid namespace: %v, with a masked /proc: %v", own, masked)
	}
	if n := strings.Fields(out.String()); len(n) != 2 || n[1] == "0" {
		t.Errorf("/proc/self is not the process: %q", n)
	}
}

func TestAllOfASandboxEndsWithItsCaller(t *testing.T) {
	dir := newRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVar+"="+helperHold, "WHITTLE_SANDBOX_ROOT="+dir,
		"WHITTLE_SANDBOX_SCRIPT=sleep 987631 & (trap '' TERM; sleep 987632)")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "started", func() bool { return len(matching("sleep\x0098763")) == 2 })
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "ended", func() bool { return len(matching("sleep\x0098763")) == 0 })
}

// needPIDs skips a test of what only a sandbox with a pid namespace has.
func needPIDs(t *testing.T) {
	t.Helper()
	if os.Getenv(helperVar) == helperMasked {
		t.Skip("needs a pid namespace of its own")
	}
}

func TestExecJoinsASandboxWithoutAPidNamespaceAndEndsWithIt(t *testing.T) {
	c, _ := shell(t, newRoot(t), "sleep 987641")
	c.Hostname = "box"
	p := running(t, c)
	c, out := shell(t, "/", "hostname; (sleep 987642 >/dev/null 2>&1 &)")
	c.Root = nil
	q, err := StartIn(t.Context(), p.Pid(), c)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := q.Wait(); err != nil || st.Code != 0 || out.String() != "box\n" {
		t.Errorf("%+v, %v, %s", st, err, out)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	p.Wait()
	if left := matching("sleep\x0098764"); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s after 10 seconds", what)
		}
	}
}

// matching returns the processes whose command line contains part.
func matching(part string) (list []int) {
	eachProcess(func(pid int) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.Contains(string(b), part) && !strings.Contains(string(b), "-test.") {
			list = append(list, pid)
		}
	})
	return list
}
