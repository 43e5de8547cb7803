package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// isolationVar makes the tests of this package run their steps in this way.
const isolationVar = "WHITTLE_SANDBOX_ISOLATION"

// What the sandbox promises whatever it is made of.
var everyMode = []string{
	"TestRunPassesOnArgsEnvironmentDirectoryAndOutput", "TestSignalsEndAsStatus", "TestStartErrorsSayWhatIsMissing",
	"TestUsersAreFoundInTheRoot", "TestHomeOfTheEnvironmentIsKept", "TestAMissingDirectoryIsMadeForTheUser",
	"TestUnknownTmpfsOptionsAreRefused", "TestGeneratedEtcFilesAreReadOnlyOrWritableAndNeverStay", "TestPipesBelongToTheUser",
	"TestLargeConfigsArrive", "TestTheEndOfTheContextKillsAllAndIsTheError", "TestAnInputThatNeverEndsDoesNotKeepTheProcess",
	"TestKillingTheCallerKillsTheSandboxAndLeavesNoMounts",
	"TestStubsThatAreInUseStayAndParentsKeepTheirTimes", "TestAttack08PasswdIsReadInTheRootAndWithinBounds",
	"TestAttack09TheDirectoryIsInsideTheRoot", "TestLimitsHoldForTheCommandAlone",
	"TestAttack10LinksInPlaceOfKernelFileSystemsAreRefused", "TestAStepRunsInItsControlGroup",
}

func TestTestsOfTheSandboxPassInAChroot(t *testing.T) {
	needSandbox(t)
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^("+strings.Join(everyMode, "|")+")$")
	cmd.Env = append(os.Environ(), isolationVar+"="+Chroot)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range everyMode {
		if !strings.Contains(string(out), "--- PASS: "+name) && !strings.Contains(string(out), "needs control groups") {
			t.Errorf("%s did not run", name)
		}
	}
}

// boxed returns a Config that runs script in a chroot of the root dir, and its
// output.
func boxed(t testing.TB, dir, script string) (*Config, *bytes.Buffer) {
	t.Helper()
	c, out := shell(t, dir, script)
	c.Isolation = Isolation{Mode: Chroot}
	c.Scratch = t.TempDir()
	return c, out
}

func TestAStepInAChrootSeesItsOwnProcAndDevices(t *testing.T) {
	dir := newRoot(t)
	c, out := boxed(t, dir, `pwd; cat /proc/self/comm; readlink /proc/self/exe; echo x > /dev/null; ls /dev; ls /proc/self/fd; readlink /proc/self/root; head -c 3 /dev/zero | wc -c; [ -e /proc/1 ] || echo no 1`)
	c.Args[2] = "ln -s busybox /bin/wc; " + c.Args[2]
	run(t, c)
	expect(t, "output", out.String(), "/\ncat\n/bin/busybox\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n0\n1\n2\n/\n3\nno 1\n")
	for _, name := range []string{"proc", "sys", "dev"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is left in the root", name)
		}
	}
}

func TestTheProbeOfAChrootRefusesAFolderWhereNothingCanBeExecuted(t *testing.T) {
	needSandbox(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Skipf("needs root that mounts: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := ProbeChroot(dir); err == nil || !strings.Contains(err.Error(), "noexec") {
		t.Errorf("got %v", err)
	}
}

// What lists /proc asks about all that is in it, as ls -l and find do.
func TestAllThatAListOfProcHasCanBeAskedAbout(t *testing.T) {
	c, out := boxed(t, newRoot(t), `ls -la /proc >/dev/null && ls -lL /proc/. >/dev/null && ls -la /proc/.d /sys >/dev/null; echo $?`)
	run(t, c)
	expect(t, "output", out.String(), "0\n")
}

func TestTheProbeOfAChrootStartsOneAndLeavesNothing(t *testing.T) {
	needSandbox(t)
	dir := t.TempDir()
	if err := ProbeChroot(dir); err != nil {
		t.Error(err)
	}
	if es, _ := os.ReadDir(dir); len(es) > 0 {
		t.Errorf("left in the folder: %v", es)
	}
}

// TestAHostileStepStaysInItsChroot tries the ways out that others have had.
func TestAHostileStepStaysInItsChroot(t *testing.T) {
	host, check := canary(t)
	dir := newRoot(t, "out->"+host, "rootlink->/proc/1/root", "tmp/deep/")
	me := fmt.Sprint(os.Getpid())
	for script, want := range map[string]string{
		// The files of others, by /proc.
		"cat /proc/1/root" + host + "/file":                                         "cat: can't open '/proc/1/root" + host + "/file': No such file or directory\n",
		"cat /rootlink" + host + "/file":                                            "cat: can't open '/rootlink" + host + "/file': No such file or directory\n",
		"cat /proc/" + me + "/environ":                                              "cat: can't open '/proc/" + me + "/environ': No such file or directory\n",
		"cat /proc/$PPID/environ":                                                   "cat: can't open '/proc/PPID/environ': No such file or directory\n",
		"readlink /proc/" + me + "/exe || echo no":                                  "no\n",
		"ls /proc/self/root/../../../..":                                            "bin\ndev\netc\nout\nproc\nrootlink\nsys\ntmp\n",
		"cat /proc/self/root" + host + "/file":                                      "cat: can't open '/proc/self/root" + host + "/file': No such file or directory\n",
		"cat /proc/self/cwd/../../.." + host + "/file":                              "cat: can't open '/proc/self/cwd/../../.." + host + "/file': No such file or directory\n",
		"cat /out/file":                                                             "cat: can't open '/out/file': No such file or directory\n",
		"exec 5</proc/self/fd; cat /proc/self/fd/5/../../../../.." + host + "/file": "cat: can't open '/proc/self/fd/5/../../../../.." + host + "/file': No such file or directory\n",
		"mkdir /tmp/.h; echo a > /tmp/.h/.f; cat /tmp/.h/.f //tmp/./.h/../.h/.f; cd /tmp/.h; cat .f ./.f; rm -r /tmp/.h":               "a\na\na\na\n",
		"echo new > /proc/self/cwd/tmp/new; cat /tmp/new; readlink /proc/self/root/bin/sh; stat -c %F /proc/self/cwd/tmp; rm /tmp/new": "new\nbusybox\ndirectory\n",
		"echo > /tmp/m; exec 8</tmp/m; chmod 640 /proc/self/fd/8; stat -c %a /tmp/m; chmod 600 /proc/self/fd/1; rm /tmp/m":             "640\nchmod: /proc/self/fd/1: Operation not permitted\n",
		"exec 5</proc/self/fd; cat /proc/self/fd/5/../comm":                                                                            "cat\n",
		// The rights of the machine.
		"echo 1 > /proc/sys/kernel/core_uses_pid": "sh: can't create /proc/sys/kernel/core_uses_pid: Read-only file system\n",
		"echo x > /sys/power/state":               "sh: can't create /sys/power/state: Read-only file system\n",
		"mount -t tmpfs x /tmp":                   "mount: permission denied (are you root?)\n",
		"mknod /tmp/mem c 1 1":                    "mknod: /tmp/mem: Operation not permitted\n",
		"busybox chroot /tmp/deep /bin/sh":        "chroot: can't change root directory to '/tmp/deep': Operation not permitted\n",
		"unshare -U true":                         "unshare: unshare(0x10000000): Operation not permitted\n",
		"ls /sys/firmware /sys/kernel/debug":      "/sys/firmware:\n\n/sys/kernel/debug:\n",
		// The processes of others.
		"kill -9 " + me:  "sh: can't kill pid " + me + ": No such process\n",
		"kill -9 $PPID":  "sh: can't kill pid PPID: No such process\n",
		"kill -9 -1":     "sh: can't kill pid -1: No such process\n",
		"kill -9 -" + me: "sh: can't kill pid -" + me + ": No such process\n",
	} {
		c, out := boxed(t, dir, script)
		var box int
		p, err := Start(t.Context(), c)
		if err == nil {
			box = p.proc.Pid
			_, err = p.Wait()
		}
		if err != nil {
			t.Errorf("%s: %v", script, err)
		}
		expect(t, script, regexp.MustCompile(fmt.Sprintf(`\b%d\b`, box)).ReplaceAllString(out.String(), "PPID"), want)
		check()
	}
}

func TestAStepInAChrootHasNoDescriptorsButItsOwn(t *testing.T) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0) // as a careless library would leave it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c, out := boxed(t, newRoot(t), "ls -l /proc/$$/fd > /tmp/l; busybox sed 's/.* //' /tmp/l; readlink /proc/$$/fd/0")
	run(t, c)
	if got := out.String(); strings.Count(got, "\n") > 6 || strings.Contains(got, "(unreachable)") {
		t.Errorf("descriptors: %s", got)
	}
}

func TestRightsInAChrootAreTheGoldenOnesWithoutAWayOut(t *testing.T) {
	t.Setenv("SECRET", "canary")
	want := strings.NewReplacer("00000000a80425fb", "00000000a00025fb", "NoNewPrivs:\t0", "NoNewPrivs:\t1").Replace(goldenStatus)
	want, _, _ = strings.Cut(want, "dev: ")
	c, out := boxed(t, newRoot(t), statusScript)
	run(t, c)
	got, _, _ := strings.Cut(out.String(), "dev: ")
	expect(t, "status", got, want)
}

// TestALinkThatIsSwappedIsNeverAWayOut races a step that changes a link between
// a served place and one outside against what is opened for it.
func TestALinkThatIsSwappedIsNeverAWayOut(t *testing.T) {
	host, check := canary(t)
	dir := newRoot(t)
	c, out := boxed(t, dir, `cd /tmp
(while :; do ln -sfn /proc/self/status l; ln -sfn /proc/1/root`+host+`/file l; ln -sfn /proc/self/root`+host+`/file l; ln -sfn `+host+`/file l; done) & swap=$!
i=0; while [ $i -lt 400 ]; do cat l 2>/dev/null; i=$((i+1)); done | grep -c canary
kill $swap`)
	run(t, c)
	expect(t, "canaries", out.String(), "0\n")
	check()
}

func TestATerminalInAChrootIsOneOfTheMachineAndNoOtherCanBeOpened(t *testing.T) {
	// Somebody else's terminal on this machine.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("needs /dev/ptmx")
	}
	defer master.Close()
	other, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out safeBuffer
	in, feed := io.Pipe()
	defer feed.Close()
	c, _ := boxed(t, newRoot(t), fmt.Sprintf("stat -L -c %%u /dev/stdin; read x; busybox stty size; echo got $x; read y < /dev/tty; echo $y; (echo x > /dev/pts/%d) 2>&1 | grep -o 'nonexistent\\|No such'; exit 3", other))
	c.User, c.TTY, c.Stdin, c.Stdout, c.Stderr = "web", true, in, &out, nil
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "owner", func() bool { return strings.Contains(out.String(), "33\r\n") })
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
	if got := out.String(); !strings.Contains(got, "other\r\n") || !strings.HasSuffix(got, "nonexistent\r\n") {
		t.Errorf("output %q", got)
	}
}

func TestAStepInAChrootExecutesItself(t *testing.T) {
	// Busybox says what it was called as, and nobody else would.
	c, out := boxed(t, newRoot(t), `cp /bin/busybox /tmp/other
/proc/self/exe; exec 7</tmp/other; /proc/self/fd/7; /dev/fd/7; sh -c '/proc/self/exe'`)
	runAnyhow(t, c)
	expect(t, "output", out.String(), "exe: applet not found\n7: applet not found\n7: applet not found\nexe: applet not found\n")
}

// The init is this program until it is the command, and the command must not
// become it again (CVE-2019-5736).
func TestThisProgramCannotBeTheCommandOfAChroot(t *testing.T) {
	dir := newRoot(t, "script=#!/proc/self/exe\n", "link->/proc/self/exe")
	for _, name := range []string{"/proc/self/exe", "/link", "/script", "/proc/thread-self/exe"} {
		c, _ := boxed(t, dir, "")
		c.Args = []string{name}
		_, err := Run(t.Context(), c)
		var se *StartError
		if !errors.As(err, &se) || se.Op != "exec" || se.Path != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}
