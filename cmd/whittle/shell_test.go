package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console is a terminal with whittle in it, and what somebody types.
type console struct {
	t             *testing.T
	cmd           *exec.Cmd
	master, slave *os.File
	before        *unix.Termios

	mu     sync.Mutex
	said   bytes.Buffer
	taken  int // of said, by await
	ending chan struct{}
}

// console starts whittle with args in a terminal of its own.
func (l *lab) console(t *testing.T, args ...string) *console {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, cmd: l.command(args...), master: master, slave: slave, ending: make(chan struct{})}
	if c.before, err = unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	c.cmd.Env = append(c.cmd.Env, "TERM=vt100")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ending)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			c.mu.Lock()
			c.said.Write(b[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill() // it has ended, or the test has failed
		slave.Close()
		master.Close()
	})
	return c
}

// await waits until text has been said, after what was awaited before.
func (c *console) await(text string) {
	c.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		c.mu.Lock()
		i := strings.Index(c.said.String()[c.taken:], text)
		if i >= 0 {
			c.taken += i + len(text)
		}
		c.mu.Unlock()
		if i >= 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Fatalf("%q does not come:\n%s", text, c.all())
}

func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

func (c *console) send(keys string) {
	c.t.Helper()
	if _, err := c.master.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// code waits for whittle's end, and checks that the terminal is as it was.
func (c *console) code() int {
	c.t.Helper()
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	after, err := unix.IoctlGetTermios(int(c.slave.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	if *after != *c.before {
		c.t.Errorf("the terminal is not as it was: %+v, was %+v", after, c.before)
	}
	// What was said last is read when nobody has the terminal any more.
	c.slave.Close()
	select {
	case <-c.ending:
	case <-time.After(30 * time.Second):
		c.t.Error("somebody has the terminal still")
	}
	return c.cmd.ProcessState.ExitCode()
}

const failing = `FROM busybox
ARG CODE=3
ENV A=hidden
WORKDIR /srv
RUN chown 1000:1000 /srv
USER 1000
RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=bind,source=more,target=/bind,rw \
    --mount=type=secret,id=token,uid=1000 --mount=type=tmpfs,target=/fast \
    echo cache: $(cat /cache/x); ls; echo made >/srv/made; [ -f /cache/x ] || echo -n warm >/cache/x; \
    echo bound >/bind/left || true; echo said by the step; exit $CODE
`

func TestAShellOpensWhereAStepFailed(t *testing.T) {
	adopt(t)
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"Dockerfile": strings.Replace(failing, "WORKDIR /srv", "WORKDIR /srv\nCOPY --chown=1000 more /kept", 1),
		"more/file": "", "token": "s3cret"})
	token := "--secret=id=token,src=" + filepath.Join(dir, "token")
	if err := os.Chmod(filepath.Join(dir, "more"), 0o777); err != nil {
		t.Fatal(err)
	}
	c := l.console(t, "build", token, "--on-failure", "shell", "-t", "app", dir)
	c.await("exit code 3")
	c.await("  said by the step\r\n")
	c.await("Leaving it ends the build; what is done in it is thrown away, but not what is done to its cache mounts.")
	c.await("$ ")
	c.send("echo left=$(cat made) in=$(pwd) uid=$(id -u) A=$A cache=$(cat /cache/x) bind=$(cat /bind/left) token=$(cat /run/secrets/token) $(ls -d /fast) $TERM\r")
	c.await("\nleft=made in=/srv uid=1000 A=hidden cache=warm bind=bound token=s3cret /fast vt100\r\n")
	c.send("touch 'new file'; echo -n ' changed' >>/cache/x; sh -c 'echo waiting; exec sleep 1000'\r")
	c.await("\nwaiting\r\n")
	c.send("\x03")
	c.await("$ ")
	c.send("echo still $((40+2))\r")
	c.await("\nstill 42\r\n")
	c.send("exit 9\r")
	c.await("did not complete successfully: exit code: 3")
	if code := c.code(); code != 1 {
		t.Errorf("exit code %d, want that of a build that failed", code)
	}
	alone(t)
	l.clean()
	if _, err := l.try("inspect", "app"); err == nil {
		t.Error("there is an image")
	}
	// What was done in it is in no cache, but for cache mounts.
	out, err := l.command("build", "--progress", "plain", token, "--build-arg", "CODE=0", dir).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("cache: warm changed")) || bytes.Contains(out, []byte("new file")) {
		t.Errorf("the next build: %v\n%s", err, out)
	}
}

// Those that run side by side go on, and write nothing over the shell.
func TestOfSeveralStepsThatFailOneGetsAShell(t *testing.T) {
	adopt(t)
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"Dockerfile": `FROM busybox AS one
RUN exit 1
FROM busybox AS two
RUN sleep 0.2; exit 2
FROM busybox AS three
RUN i=0; while true; do echo noise $i; i=$((i+1)); sleep 0.01; done
FROM busybox
COPY --from=one / /a
COPY --from=two / /b
COPY --from=three / /c
`})
	for _, view := range []string{"plain", "tty"} {
		t.Run(view, func(t *testing.T) {
			c := l.console(t, "build", "--progress", view, "--on-failure", "shell", dir)
			c.await("A shell where it failed.")
			c.await("# ")
			c.send("echo begin; sleep 0.7; echo 'end of it'\r")
			c.await("\nbegin\r\n")
			c.await("end of it\r\n")
			c.await("# ")
			c.send("exit\r")
			if code := c.code(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			all := c.all()
			_, after, _ := strings.Cut(all, "\nbegin\r\n")
			if between, _, _ := strings.Cut(after, "end of it\r\n"); between != "" {
				t.Errorf("something wrote to the shell's terminal: %q", between)
			}
			if n := strings.Count(all, "A shell where it failed"); n != 1 {
				t.Errorf("%d shells were opened", n)
			}
			if !strings.Contains(after, "process \"/bin/sh -c exit 1\" did not complete") {
				t.Errorf("the first failure is not told:\n%s", after)
			}
			alone(t)
			l.clean()
		})
	}
}

func TestAShellDiesWithWhittleAndLeavesNothing(t *testing.T) {
	dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nARG CODE=0\nRUN exit $CODE\n"})
	for name, args := range map[string][]string{
		"of a build": {"build", "--on-failure", "shell", "--build-arg", "CODE=1", dir},
		"of a stage": {"shell", dir},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			t.Run(name+", "+sig.String(), func(t *testing.T) {
				adopt(t)
				l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
				c := l.console(t, args...)
				c.await("# ")
				c.send("trap '' HUP TERM; (setsid sleep 1000 &) ; sleep 999 & echo begun; sleep 998\r")
				c.await("\nbegun\r\n")
				if err := c.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if sig == syscall.SIGKILL {
					_ = c.cmd.Wait()
				} else if code := c.code(); code != 128+int(sig) {
					t.Errorf("exit code %d, want that of the signal", code)
				}
				alone(t)
				l.run("prune")
				l.clean()
			})
		}
	}
}

func TestALogIsFollowedUntilItsBuildEnds(t *testing.T) {
	adopt(t)
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"go": "", "Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo begun; until [ -e /c/go ]; do sleep 0.02; done; x=last; echo said $x\n"})
	build := l.command("build", "--progress", "json", dir)
	events, err := build.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(until(t, events, "begun\\n\"}\n"), "\"build\":\"")
	id, _, _ := strings.Cut(after, "\"")
	follow := l.command("logs", "-f", id)
	said, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, said, " begun\n")
	l.run("shell", "-q", "--step", "1", dir, "--", "true") // another process changes nothing
	if out, err := l.command("logs", id).Output(); err != nil || strings.Contains(string(out), "said last") {
		t.Errorf("without -f: %v\n%s", err, out)
	}
	other := folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/go\n"})
	l.run("build", "-q", other)
	until(t, said, " said last\n")
	go io.Copy(io.Discard, events)
	if err := errors.Join(follow.Wait(), build.Wait()); err != nil {
		t.Error(err)
	}
	alone(t)
	l.clean()
}

func TestAShellOnATerminalIsInteractive(t *testing.T) {
	adopt(t)
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo made >/made\n"})
	c := l.console(t, "shell", dir)
	c.await("After stage stage-0. What is done here is thrown away.")
	c.await("# ")
	c.send("echo on $(tty) $TERM $(cat /made); touch /made2\r")
	c.await("\non /dev/pts/0 vt100 made\r\n")
	c.send("sh -c 'echo waiting; exec sleep 1000'\r") // what says so is what the terminal interrupts
	c.await("\nwaiting\r\n")
	c.send("\x03")
	c.await("# ")
	c.send("exit 6\r")
	if code := c.code(); code != 6 {
		t.Errorf("exit code %d, want the shell's", code)
	}
	alone(t)
	l.clean()
	if out := l.run("shell", "-q", dir, "--", "ls", "/"); strings.Contains(out, "made2") {
		t.Error("what was done in the first shell is in the second")
	}
}
