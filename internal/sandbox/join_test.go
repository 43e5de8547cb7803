package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// await waits until cond holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after ten seconds", what)
		}
	}
}

// running starts script and kills it at the test's end.
func running(t *testing.T, c *Config) *Process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := Start(ctx, c)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); p.Wait() })
	return p
}

// execIn runs c in the sandbox of the process pid and waits for its end.
func execIn(ctx context.Context, pid int, c *Config) (Status, error) {
	p, err := StartIn(ctx, pid, c)
	if err != nil {
		return Status{}, err
	}
	return p.Wait()
}

func TestExecJoinsARunningSandbox(t *testing.T) {
	needPIDs(t)
	dir := newRoot(t, "work/")
	c, _ := shell(t, dir, "sleep 1000")
	c.Hostname, c.Network = "box", NetworkPrivate
	c.Mounts = []Mount{{Target: "/t"}}
	p := running(t, c)
	for _, user := range []string{"", "web"} {
		e, out := shell(t, dir, "hostname; cat /proc/1/cmdline; echo; pwd; echo $HOME; grep -c ' /t ' /proc/mounts; grep -E '^(Cap|Groups|Seccomp:)' /proc/self/status; umask; cat; wc -l < /proc/net/dev; exit 5")
		e.Args[2] = strings.ReplaceAll(e.Args[2], "wc", "busybox wc")
		e.Root, e.User, e.Dir, e.Stdin = nil, user, "/work", strings.NewReader("in\n")
		st, err := execIn(t.Context(), p.Pid(), e)
		if err != nil || st.Code != 5 {
			t.Fatalf("status %+v, error %v, output %s", st, err, out)
		}
		want := "box\nsleep\x001000\x00\n/work\n/root\n1\nGroups:\t0 \nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n0022\nin\n3\n"
		if user != "" {
			want = strings.NewReplacer("/root", "/var/www", "Groups:\t0", "Groups:\t34 44", "CapPrm:\t00000000a80425fb", "CapPrm:\t0000000000000000", "CapEff:\t00000000a80425fb", "CapEff:\t0000000000000000").Replace(want)
		}
		expect(t, "output", out.String(), want)
	}
}

func TestExecReportsWhatItCannotStart(t *testing.T) {
	dir := newRoot(t)
	c, _ := shell(t, dir, "sleep 1000")
	p := running(t, c)
	e, _ := shell(t, dir, "")
	e.Args = []string{"nope"}
	if _, err := execIn(t.Context(), p.Pid(), e); !errors.Is(err, ErrNotInPath) {
		t.Errorf("missing command: %v", err)
	}
	e, _ = shell(t, dir, "true")
	if _, err := execIn(t.Context(), os.Getpid(), e); err == nil {
		t.Error("joined a process that is in no sandbox")
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if _, err := execIn(t.Context(), p.Pid(), e); !errors.Is(err, ErrGone) {
		t.Errorf("joined a process that has ended: %v", err)
	}
}

func TestAJoinThatMeetsTheEndOfTheSandboxSaysSo(t *testing.T) {
	dir := newRoot(t)
	for i := range 20 {
		c, _ := shell(t, dir, "sleep 1000")
		p := running(t, c)
		e, _ := shell(t, dir, "true")
		e.Root = nil
		time.AfterFunc(time.Duration(i)*300*time.Microsecond, func() { p.Signal(syscall.SIGKILL) })
		if _, err := execIn(t.Context(), p.Pid(), e); err != nil && !errors.Is(err, ErrGone) {
			t.Errorf("after %d × 300 µs: %v", i, err)
		}
		p.Wait() // it empties the root that the next one is to have
	}
}

func TestWhatExecStartedDiesWithTheSandbox(t *testing.T) {
	dir := newRoot(t)
	c, _ := shell(t, dir, "sleep 1000")
	p := running(t, c)
	e, _ := shell(t, dir, "sleep 1000")
	joined, err := StartIn(t.Context(), p.Pid(), e)
	if err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGKILL)
	if st, err := joined.Wait(); st.Signal != syscall.SIGKILL || err != nil {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestTheEndOfTheContextKillsAllAndIsTheError(t *testing.T) {
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, _ := shell(t, newRoot(t), "sleep 1000 & sleep 1000 & echo ready; wait")
	c.Stdout = w
	p, err := Start(ctx, c)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	if st, err := p.Wait(); !errors.Is(err, cause) || st.Signal != syscall.SIGKILL {
		t.Errorf("got %+v, %v", st, err)
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("a process is left: %v", err)
	}
	if _, err := Run(ctx, c); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("started after the end: %v", err)
	}
}

func TestAnInputThatNeverEndsDoesNotKeepTheProcess(t *testing.T) {
	in, feed := io.Pipe()
	defer feed.Close()
	c, out := shell(t, newRoot(t), "read x; echo $x")
	c.Stdin = in
	go io.WriteString(feed, "line\n")
	run(t, c)
	expect(t, "output", out.String(), "line\n")
}

func TestNetworkModes(t *testing.T) {
	host, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	dir := newRoot(t)
	for mode, own := range map[string]bool{"": false, NetworkHost: false, NetworkNone: true, NetworkPrivate: true} {
		c, out := shell(t, dir, "busybox wc -l < /proc/net/dev; ip addr show lo | grep -c 'LOOPBACK,UP'")
		c.Network = mode
		want := fmt.Sprintf("%d\n1\n", bytes.Count(host, []byte("\n")))
		if own {
			want = "3\n1\n"
		}
		run(t, c)
		expect(t, "network "+mode, out.String(), want)
	}
	c, _ := shell(t, dir, "true")
	c.Network = "bridge"
	if _, err := Run(t.Context(), c); err == nil {
		t.Error("unknown network mode was taken")
	}
}

func TestDialInReachesAPrivateNetwork(t *testing.T) {
	c, _ := shell(t, newRoot(t), "echo hello | nc -l -p 8099; sleep 1000")
	c.Network = NetworkPrivate
	p := running(t, c)
	var conn net.Conn
	await(t, "connection", func() (ok bool) {
		var err error
		conn, err = DialIn(t.Context(), p.Pid(), "tcp", "127.0.0.1:8099")
		return err == nil
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 6)
	if _, err := io.ReadFull(conn, b); string(b) != "hello\n" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := DialIn(t.Context(), p.Pid(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was taken, and would be looked up outside")
	}
}

func TestATerminalIsTheSandboxsOwn(t *testing.T) {
	var out safeBuffer
	in, feed := io.Pipe()
	defer feed.Close()
	dir := newRoot(t)
	c := &Config{
		Root: openPath(t, dir), User: "web", Env: []string{"PATH=/bin"}, TTY: true, Stdin: in, Stdout: &out,
		Args: []string{"sh", "-c", "tty; stat -c '%t %u' /dev/console /dev/pts/0; read x; busybox stty size; echo got $x; read y < /dev/tty; echo $y; exit 3"},
	}
	p := running(t, c)
	await(t, "console", func() bool { return strings.Contains(out.String(), "88 33\r\n88 33\r\n") })
	if err := p.Resize(100, 40); err != nil {
		t.Fatal(err)
	}
	io.WriteString(feed, "line\n")
	await(t, "size", func() bool { return strings.Contains(out.String(), "40 100\r\ngot line\r\n") })
	io.WriteString(feed, "other\n")
	st, err := p.Wait()
	if st.Code != 3 || err != nil {
		t.Errorf("status %+v, %v", st, err)
	}
	if got := out.String(); !strings.HasPrefix(got, "/dev/pts/0\r\n") || !strings.HasSuffix(got, "other\r\n") {
		t.Errorf("output %q", got)
	}
}

func TestExecWithATerminal(t *testing.T) {
	dir := newRoot(t)
	c, _ := shell(t, dir, "sleep 1000")
	p := running(t, c)
	e, out := shell(t, dir, "tty; test -t 0 && test -t 1 && echo yes")
	e.TTY = true
	if st, err := execIn(t.Context(), p.Pid(), e); st.Code != 0 || err != nil {
		t.Fatalf("%+v, %v, %s", st, err, out)
	}
	expect(t, "output", out.String(), "/dev/pts/0\r\nyes\r\n")
}
