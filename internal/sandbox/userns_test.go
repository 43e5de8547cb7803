package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The environment variable that makes the test binary another program, and its
// values.
const (
	helperVar    = "WHITTLE_SANDBOX_TEST"
	helperUserNS = "userns" // go into a user namespace first
	helperMasked = "masked" // the same, where a part of /proc is hidden as in containers
	helperHold   = "hold"   // run $WHITTLE_SANDBOX_SCRIPT in $WHITTLE_SANDBOX_ROOT
	helperExit   = "exit"   // say who we are in a user namespace, and exit with status 7
)

func TestMain(m *testing.M) {
	MaybeInit()
	switch os.Getenv(helperVar) {
	case helperHold:
		if os.Geteuid() != 0 {
			os.Exit(reexec(ReexecInUserNS(nil)))
		}
		os.Exit(holdMain())
	case helperExit, helperUserNS, helperMasked:
		if os.Geteuid() != 0 {
			signals := make(chan os.Signal, 1)
			signal.Notify(signals, unix.SIGTERM)
			os.Exit(reexec(ReexecInUserNS(signals)))
		}
		if os.Getenv(helperVar) == helperExit {
			os.Exit(exitMain())
		}
	}
	os.Exit(m.Run())
}

func reexec(exit int, err error) int {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 99
	}
	return exit
}

// exitMain shows the maps and what is left of the argument list, waits for a
// signal if told so, and exits with 7.
func exitMain() int {
	b, _ := os.ReadFile("/proc/self/uid_map")
	os.Stdout.WriteString(strings.Join(strings.Fields(string(b)), " ") + "\n" + os.Args[len(os.Args)-1] + "\n")
	if why := OneID(); why != nil {
		os.Stdout.WriteString(why.Msg + "\n" + why.Way + "\n")
	}
	in, _ := io.ReadAll(os.Stdin)
	os.Stdout.Write(in)
	return 7
}

// testUser is the user that .ci/run makes.
const testUser = "whittle-ci"

// unprivileged prepares a copy of the test binary to run as a user who is not
// root and has subordinate ids.
func unprivileged(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 || InUserNS() {
		t.Skip("needs root: starts itself as another user")
	}
	u, err := user.Lookup(testUser)
	if err != nil {
		t.Skip("needs a user called " + testUser + " with subordinate ids (useradd -m " + testUser + ")")
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	dir, err := os.MkdirTemp("/tmp", "whittle-sandbox-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(dir+"/sandbox.test", b, 0o755)
	}
	if err = errors.Join(err, os.CopyFS(dir+"/testdata", os.DirFS("testdata")), os.Chmod(dir, 0o755), os.Mkdir(dir+"/tmp", 0o700), os.Chown(dir+"/tmp", uid, gid)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir+"/sandbox.test", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "TMPDIR=" + dir + "/tmp", "HOME=/nowhere", "STANDINS_DIR=" + os.Getenv("STANDINS_DIR")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return cmd
}

func TestAllTestsPassInAUserNamespace(t *testing.T) {
	args := []string{"-test.v"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := unprivileged(t, args...)
	cmd.Env = append(cmd.Env, helperVar+"="+helperUserNS)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestRunPassesOn")) {
		t.Errorf("it seems that nothing was run:\n%s", out)
	}
}

func TestAllTestsPassWhereNoProcCanBeMounted(t *testing.T) {
	cmd := unprivileged(t, "-test.v", "-test.skip", "Emulat|ATrialIsRemembered|EveryArchitecture|AnotherMachine|OCI|OtherRuntimes|Runc") // they need a pid namespace
	who := cmd.SysProcAttr.Credential
	cmd.SysProcAttr = nil
	// What a user namespace finds mounted it cannot undo: that counts as hidden.
	cmd.Args = append([]string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /proc/fs && exec setpriv --clear-groups "$@"`, "sh",
		"--reuid", fmt.Sprint(who.Uid), "--regid", fmt.Sprint(who.Gid), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/usr/bin/unshare"
	cmd.Env = append(cmd.Env, helperVar+"="+helperMasked)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestNothingOutlivesItsSandbox")) {
		t.Errorf("it seems that nothing was run:\n%s", out)
	}
}

func TestTheUserNamespacePassesOnArgumentsInputAndExitCode(t *testing.T) {
	cmd := unprivileged(t, "the argument")
	cmd.Env = append(cmd.Env, helperVar+"="+helperExit)
	cmd.Stdin = strings.NewReader("the input")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("%v, want exit code 7; output %s", err, out)
	}
	lines := strings.SplitN(string(out), "\n", 3)
	if f := strings.Fields(lines[0]); len(f) < 6 || f[0] != "0" || f[2] != "1" || f[3] != "1" {
		t.Errorf("uid map %q: want own id to 0, the range to 1", lines[0])
	}
	if len(lines) != 3 || lines[1] != "the argument" || lines[2] != "the input" {
		t.Errorf("output %q", out)
	}
}

func TestTheUserNamespaceForwardsSignalsAndDiesWithItsCaller(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		cmd := unprivileged(t, "x")
		cmd.Env = append(cmd.Env, helperVar+"="+helperExit)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		r, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); err != nil { // it has started
			t.Fatal(err)
		}
		cmd.Process.Signal(sig)
		done := make(chan struct{})
		go func() {
			io.Copy(io.Discard, r) // ends when all that have the pipe have ended
			cmd.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Errorf("%v: a process is left", sig)
		}
		in.Close()
		want := 143
		if sig == syscall.SIGKILL {
			want = -1
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%v: exit code %d, want %d", sig, got, want)
		}
	}
}

func TestSubordinateRangesAreReadByNameAndNumber(t *testing.T) {
	file := "# comment\nann:100000:65536\nbob:1:2\n1000:300000:10\nann:x:1\nann:5:0\nann:200000:1"
	want := []idRange{{100000, 65536}, {300000, 10}, {200000, 1}}
	if got := rangesOf(file, "ann", "1000"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAUserWithoutSubordinateIDsHasOneAndIsToldWhy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*exec.Cmd)
		want   []string
	}{
		"no newuidmap": {
			func(cmd *exec.Cmd) { cmd.Env[0] = "PATH=/nowhere" },
			[]string{" 1\n", "newuidmap: not found", "apt-get install uidmap"},
		},
		"no ranges": {
			func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 54321, Gid: 54321} },
			[]string{"0 54321 1\n", "/etc/subuid: no range of ids for user 54321", "54321:100000:65536 in /etc/subuid"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := unprivileged(t)
			cmd.Env = append(cmd.Env, helperVar+"="+helperExit)
			tt.change(cmd)
			out, _ := cmd.CombinedOutput() // its exit code is another test's
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is not in:\n%s", want, out)
				}
			}
		})
	}
}

func TestUserNSErrorsNameTheWayOut(t *testing.T) {
	for _, e := range []error{unix.EPERM, unix.ENOSPC} {
		var ue *UserNSError
		if !errors.As(namespaceError(e), &ue) || !strings.Contains(ue.Hint(), "sysctl") {
			t.Errorf("%v: no hint", e)
		}
	}
}

// holdMain runs a script in a sandbox until it is killed.
func holdMain() int {
	root, err := os.OpenFile(os.Getenv("WHITTLE_SANDBOX_ROOT"), unix.O_PATH, 0)
	if err != nil {
		return 1
	}
	var mounts []Mount
	if cache := os.Getenv("WHITTLE_SANDBOX_CACHE"); cache != "" {
		mounts = append(mounts, Mount{Target: "/cache", Path: cache})
	}
	var held []*os.File
	if name := os.Getenv("WHITTLE_SANDBOX_LOCK"); name != "" {
		lock, err := os.Open(name)
		if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX) != nil {
			return 1
		}
		held = append(held, lock)
	}
	st, err := Run(context.Background(), &Config{
		Mounts: mounts, Held: held,
		Isolation: Isolation{Mode: os.Getenv(isolationVar)}, Scratch: os.Getenv("WHITTLE_SANDBOX_SCRATCH"),
		Root: root, Args: []string{"sh", "-c", os.Getenv("WHITTLE_SANDBOX_SCRIPT")}, Env: []string{"PATH=/bin"},
		User: os.Getenv("WHITTLE_SANDBOX_USER"), Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
	return st.Code
}

// hold starts a helper that runs script, and returns when the script has said
// something.
func hold(t *testing.T, dir, user, script string) (*exec.Cmd, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Cleanup(func() { r.Close() })
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVar + "=" + helperHold, "WHITTLE_SANDBOX_ROOT=" + dir, "WHITTLE_SANDBOX_SCRIPT=" + script, "WHITTLE_SANDBOX_USER=" + user}
	cmd.Env = append(cmd.Env, isolationVar+"="+os.Getenv(isolationVar), "WHITTLE_SANDBOX_SCRATCH="+t.TempDir(), "WHITTLE_SANDBOX_CACHE="+os.Getenv("WHITTLE_SANDBOX_CACHE"), "WHITTLE_SANDBOX_LOCK="+os.Getenv("WHITTLE_SANDBOX_LOCK"))
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	b := make([]byte, 100)
	n, err := r.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "ready") {
		t.Fatalf("helper said %q, %v", b[:n], err)
	}
	return cmd, r
}

func TestKillingTheCallerKillsTheSandboxAndLeavesNoMounts(t *testing.T) {
	dir := newRoot(t)
	su := filepath.Join(dir, "bin/setid")
	b, err := os.ReadFile(filepath.Join(dir, "bin/busybox"))
	if err == nil {
		err = errors.Join(os.WriteFile(su, b, 0o755), os.Chmod(su, 0o755|os.ModeSetuid), os.Remove(dir+"/bin/su"), os.Symlink("setid", dir+"/bin/su"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ user, script string }{
		{"", "sleep 1000 & echo ready; sleep 1000"},
		{"web", "sleep 1000 & echo ready; sleep 1000"},
		// These change the user in the first process, which loses its
		// parent-death signal so.
		{"", "exec /bin/su web -c 'echo ready; sleep 1000; true'"},
		{"web", "exec /bin/su root -c 'echo ready; sleep 1000; true'"},
	} {
		if tt.user == "web" && strings.Contains(tt.script, "su root") && os.Getenv(isolationVar) == Chroot {
			continue // set-id bits mean nothing there
		}
		cmd, r := hold(t, dir, tt.user, tt.script)
		time.Sleep(20 * time.Millisecond) // the pid of the last stays the same, but its user changes
		cmd.Process.Kill()
		cmd.Wait()
		r.SetReadDeadline(time.Now().Add(10 * time.Second))
		if out, err := io.ReadAll(r); err != nil { // ends when all that have the pipe have ended
			t.Errorf("%q %q: processes are left: %v, %s", tt.user, tt.script, err, out)
		}
	}
	if got := mounts(t, dir); got != "" {
		t.Errorf("mounts are left:\n%s", got)
	}
}
