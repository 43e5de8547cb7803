package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// needSandbox skips a test where no sandbox can be made: root is needed, of
// the machine or of a user namespace.
func needSandbox(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: of the machine, or of a user namespace (TestAllTestsPassInAUserNamespace)")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox, statically linked")
	}
}

// newRoot makes a root file system with busybox and the given further files:
// "name=content", "name->target" or "name/".
func newRoot(t testing.TB, files ...string) string {
	t.Helper()
	needSandbox(t)
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh ls cat id env mount umount mkdir rmdir ln rm touch sleep stat true false hostname kill mknod dd grep head tty echo chmod cp ip nc ps readlink unshare su") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root::0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nweb:x:34:\nmedia:x:44:web,other\nwheel:x:10:root\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	addFiles(t, dir, files...)
	return dir
}

func addFiles(t testing.TB, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		var err error
		if name, target, ok := strings.Cut(f, "->"); ok {
			os.RemoveAll(filepath.Join(dir, name))
			err = os.Symlink(target, filepath.Join(dir, name))
		} else if name, content, ok := strings.Cut(f, "="); ok {
			if err = os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err == nil {
				err = os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755)
			}
		} else {
			err = os.MkdirAll(filepath.Join(dir, f), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func openPath(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// shell returns a Config that runs script in the root dir, and its output.
func shell(t testing.TB, dir, script string) (*Config, *bytes.Buffer) {
	t.Helper()
	out := new(bytes.Buffer)
	return isolated(t, &Config{
		Root: openPath(t, dir), Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"},
		Stdout: out, Stderr: out,
	}), out
}

// isolated makes c run in the way that all tests are to be run in, see
// TestTestsOfTheSandboxPassInAChroot and TestTheSameTestsPassWithOtherRuntimes.
func isolated(t testing.TB, c *Config) *Config {
	t.Helper()
	i, err := ParseIsolation(os.Getenv(isolationVar))
	if err != nil {
		t.Fatal(err)
	}
	if c.Isolation = i; i.Mode == Chroot {
		c.Scratch = t.TempDir()
	}
	return c
}

// run runs c, which must end with status 0.
func run(t testing.TB, c *Config) {
	t.Helper()
	st, err := Run(t.Context(), c)
	if err != nil || st.Code != 0 {
		t.Fatalf("status %+v, error %v, output %v", st, err, c.Stdout)
	}
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestRunPassesOnArgsEnvironmentDirectoryAndOutput(t *testing.T) {
	dir := newRoot(t, "work/")
	var out, errs bytes.Buffer
	st, err := Run(t.Context(), isolated(t, &Config{
		Root: openPath(t, dir), Args: []string{"sh", "-c", `echo "$0 $1 $A"; pwd; cat; echo oops >&2; exit 7`, "a b", "c"},
		Env: []string{"PATH=/bin", "A=1"}, Dir: "/work", Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errs,
	}))
	if err != nil || st.Code != 7 || st.Signal != 0 {
		t.Errorf("status %+v, error %v", st, err)
	}
	expect(t, "stdout", out.String(), "a b c 1\n/work\nin")
	expect(t, "stderr", errs.String(), "oops\n")
}

func TestTheCommandIsTheFirstProcessOfItsOwnNamespaces(t *testing.T) {
	needPIDs(t)
	c, out := shell(t, newRoot(t), `echo $$; hostname; cat /proc/1/comm; ps > /tmp/ps; wc -l < /tmp/ps; readlink /proc/self/fd/0`)
	c.Args[2] = strings.ReplaceAll(c.Args[2], "wc -l", "busybox wc -l")
	run(t, c)
	expect(t, "output", out.String(), "1\nbuildkitsandbox\nsh\n3\n/dev/null\n")
}

func TestADetachedOverlayIsARootAndIsNotAttachedAnywhere(t *testing.T) {
	lower := newRoot(t)
	work := t.TempDir()
	mustTmpfs(t, work)
	addFiles(t, work, "upper/", "work/")
	fd := newOverlay(t, lower, work+"/upper", work+"/work")
	root := os.NewFile(uintptr(fd), "overlay")
	defer root.Close()
	before := mounts(t, lower)
	c, out := shell(t, lower, "echo new > /made; ls /; rm /etc/group; grep ' / ' /proc/self/mounts")
	c.Root = root
	run(t, c)
	if got := mounts(t, lower); got != before {
		t.Errorf("mounts of the caller changed from\n%s\nto\n%s", before, got)
	}
	if !strings.Contains(out.String(), "/ overlay rw,nodev") || strings.Count(out.String(), " / ") != 1 {
		t.Errorf("the root is not an overlay without devices: %s", out)
	}
	var names []string
	es, _ := os.ReadDir(work + "/upper")
	for _, e := range es {
		names = append(names, e.Name())
	}
	if want := []string{"etc", "made"}; !slices.Equal(names, want) {
		t.Errorf("upper has %v, want %v", names, want)
	}
}

// Before Linux 6.15 a detached root cannot be cloned: the init gets the
// caller's mount itself, and the caller cleans up in what is left of it.
func TestARootThatIsMovedIsCleanedUpToo(t *testing.T) {
	lower := newRoot(t)
	work := t.TempDir()
	mustTmpfs(t, work)
	addFiles(t, work, "upper/", "work/")
	root := os.NewFile(uintptr(newOverlay(t, lower, work+"/upper", work+"/work")), "overlay")
	defer root.Close()
	c, _ := shell(t, lower, "echo x > /made")
	c.Root, c.ResolvConf = root, true
	c.Mounts = []Mount{{Target: "/t/u"}}
	s, err := newSetup(c)
	if err != nil {
		t.Fatal(err)
	}
	files, err := sources(c, s)
	defer closeAll(files)
	if err != nil {
		t.Fatal(err)
	}
	files[1].Close()
	files[1] = dup(t, root)
	p := &Process{root: dup(t, root), ended: make(chan struct{})}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if procRefused.Load() {
		flags, s.SharedPIDs = flags&^unix.CLONE_NEWPID, true
	}
	if err := p.start(t.Context(), &launch{config: c, setup: s, files: files, cloneflags: uintptr(flags)}); err != nil {
		t.Fatal(err)
	}
	if st, err := p.Wait(); err != nil || st.Code != 0 {
		t.Fatal(st, err)
	}
	var left []string
	filepath.WalkDir(work+"/upper", func(name string, _ os.DirEntry, err error) error {
		left = append(left, strings.TrimPrefix(name, work+"/upper"))
		return err
	})
	if want := []string{"", "/etc", "/made"}; !slices.Equal(left, want) { // /etc was copied up, and is unchanged
		t.Errorf("upper has %v, want %v", left, want)
	}
}

func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func mustTmpfs(t testing.TB, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func newOverlay(t testing.TB, lower, upper, work string) int {
	t.Helper()
	options := []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work, "metacopy=off", "redirect_dir=nofollow", "index=off", "xino=off"}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if InUserNS() {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			t.Fatal(err)
		}
		options = slices.DeleteFunc(options, func(o string) bool { return strings.HasPrefix(o, "metacopy") || strings.HasPrefix(o, "redirect") })
	}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		if err := unix.FsconfigSetString(fs, k, v); err != nil {
			t.Fatal(o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// mounts returns what of dir is mounted anywhere in this mount namespace.
func mounts(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, filepath.Dir(dir)+"/") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

func TestSignalsEndAsStatus(t *testing.T) {
	c, _ := shell(t, newRoot(t), "kill -9 $$; busybox timeout 5 sleep 9")
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// Only the first process of a pid namespace survives the script's own signal.
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	st, err := p.Wait()
	if want := (Status{Code: 137, Signal: syscall.SIGKILL}); st != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", st, err, want)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func TestStartErrorsSayWhatIsMissing(t *testing.T) {
	elf := []byte(nil)
	if b, err := os.ReadFile("/bin/busybox"); err == nil {
		elf = append(b[:18:18], 183, 0) // EM_AARCH64
		elf = append(elf, b[20:64]...)
	}
	dir := newRoot(t, "script=#!/no/interp -x\n", "nested=#!/script\n", "my-server=#!/bin/sh\n", "foreign="+string(elf), "text=hello\n", "bin/noexec=x")
	if err := os.Chmod(dir+"/bin/noexec", 0o644); err != nil {
		t.Fatal(err)
	}
	const dynamic, loader = "/usr/bin/env", "/lib64/ld-linux-x86-64.so.2"
	if runtime.GOARCH != "amd64" {
		t.Skip("needs amd64: its loader's name")
	}
	for _, tt := range []struct {
		args []string
		want StartError
	}{
		{[]string{"nope"}, StartError{Op: "exec", Path: "nope", Err: ErrNotInPath}},
		{[]string{"my-server"}, StartError{Op: "exec", Path: "my-server", Err: ErrNotInPath, Found: "/my-server"}},
		{[]string{"/nope"}, StartError{Op: "exec", Path: "/nope", Err: syscall.ENOENT}},
		{[]string{"/script"}, StartError{Op: "exec", Path: "/script", Err: syscall.ENOENT, Interp: "/no/interp"}},
		{[]string{"/nested"}, StartError{Op: "exec", Path: "/nested", Err: syscall.ENOENT, Interp: "/no/interp"}},
		{[]string{"/dynamic"}, StartError{Op: "exec", Path: "/dynamic", Err: syscall.ENOENT, Interp: loader}},
		{[]string{"/foreign"}, StartError{Op: "exec", Path: "/foreign", Err: syscall.ENOEXEC, Machine: "aarch64"}},
		{[]string{"/text"}, StartError{Op: "exec", Path: "/text", Err: syscall.ENOEXEC}},
		{[]string{"/bin/noexec"}, StartError{Op: "exec", Path: "/bin/noexec", Err: syscall.EACCES}},
		{[]string{"/etc"}, StartError{Op: "exec", Path: "/etc", Err: syscall.EACCES}},
	} {
		b, err := os.ReadFile(dynamic)
		if err == nil {
			err = os.WriteFile(dir+"/dynamic", b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		c, _ := shell(t, dir, "")
		c.Args = tt.args
		_, err = Run(t.Context(), c)
		var se *StartError
		if !errors.As(err, &se) {
			t.Errorf("%v: %v, want a StartError", tt.args, err)
			continue
		}
		if *se != tt.want {
			t.Errorf("%v: got %#v, want %#v", tt.args, *se, tt.want)
		}
	}
}

func TestUsersAreFoundInTheRoot(t *testing.T) {
	dir := newRoot(t)
	for _, tt := range []struct{ user, want, fail string }{
		{user: "", want: "0 0 0 /root"},
		{user: "root", want: "0 0 0 10 /root"},
		{user: "web", want: "33 34 34 44 /var/www"},
		{user: "33", want: "33 34 34 44 /var/www"},
		{user: "web:media", want: "33 44 44 /var/www"},
		{user: "web:7", want: "33 7 7 /var/www"},
		{user: "1000", want: "1000 0 0 /"},
		{user: "1000:1001", want: "1000 1001 1001 /"},
		{user: "nosuch", fail: "unable to find user nosuch: no matching entries in passwd file"},
		{user: "web:nosuch", fail: "unable to find group nosuch: no matching entries in group file"},
	} {
		c, out := shell(t, dir, "echo $(id -u) $(id -g) $(id -G) $HOME")
		c.User = tt.user
		_, err := Run(t.Context(), c)
		if tt.fail != "" {
			if err == nil || err.Error() != tt.fail {
				t.Errorf("%q: error %v, want %s", tt.user, err, tt.fail)
			}
			continue
		}
		if got := strings.TrimSpace(out.String()); got != tt.want || err != nil {
			t.Errorf("%q: got %s, %v, want %s", tt.user, got, err, tt.want)
		}
	}
}

func TestHomeOfTheEnvironmentIsKept(t *testing.T) {
	c, out := shell(t, newRoot(t), "echo $HOME")
	c.Env = append(c.Env, "HOME=/mine")
	run(t, c)
	expect(t, "HOME", out.String(), "/mine\n")
}

func TestAMissingDirectoryIsMadeForTheUser(t *testing.T) {
	dir := newRoot(t, "var->/tmp")
	c, out := shell(t, dir, "pwd; stat -c '%u:%g %a' /tmp/a /tmp/a/b")
	c.User, c.Dir = "33:34", "/var/a/b"
	run(t, c)
	expect(t, "output", out.String(), "/tmp/a/b\n33:34 755\n33:34 755\n")
}

func TestMountsAppearInTheSandboxOnly(t *testing.T) {
	dir, host := newRoot(t), t.TempDir()
	addFiles(t, host, "file=secret", "d/f=deep")
	c, out := shell(t, dir, "cat /run/s /data/f; echo x > /data/new || echo refused; echo y > /t/z; echo z > /rw/z; cat /t/z; grep ' /t ' /proc/mounts")
	c.Mounts = []Mount{
		{Target: "/run/s", Path: host + "/file", ReadOnly: true},
		{Target: "/data", File: openPath(t, host), Sub: "d", ReadOnly: true},
		{Target: "/t", Options: []string{"size=64k", "mode=700"}},
		{Target: "/rw", File: openPath(t, host+"/d")},
	}
	run(t, c)
	got := out.String()
	if !strings.HasPrefix(got, "secretdeepsh: can't create /data/new: Read-only file system\nrefused\ny\ntmpfs /t tmpfs rw,nosuid,nodev") || !strings.Contains(got, "size=64k,mode=700") {
		t.Errorf("output %q", got)
	}
	if b, err := os.ReadFile(host + "/d/z"); string(b) != "z\n" {
		t.Errorf("what was written to the bind: %q, %v", b, err)
	}
	for _, name := range []string{"run", "data", "t", "rw", "proc", "sys", "dev"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("/%s was left in the root", name)
		}
	}
}

func TestUnknownTmpfsOptionsAreRefused(t *testing.T) {
	for _, o := range []string{"source=/etc", "mpol=x", "size", "huge=always"} {
		c, _ := shell(t, newRoot(t), "true")
		c.Mounts = []Mount{{Target: "/t", Options: []string{o}}}
		if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "mount /t: tmpfs option") {
			t.Errorf("%s: %v", o, err)
		}
	}
}

func TestGeneratedEtcFilesAreReadOnlyOrWritableAndNeverStay(t *testing.T) {
	for _, ro := range []bool{true, false} {
		dir := newRoot(t, "etc/resolv.conf->../run/resolve/stub.conf")
		c, out := shell(t, dir, "head -n 3 /etc/hosts; grep -c nameserver /etc/resolv.conf >/dev/null || echo none; echo x >> /etc/hosts && echo writable")
		c.ResolvConf, c.ReadOnlyEtc, c.Hosts = true, ro, []string{"10.1.2.3\tdb"}
		Run(t.Context(), c)
		want := "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n"
		if !ro {
			want += "writable\n"
		} else {
			want += "sh: can't create /etc/hosts: Read-only file system\n"
		}
		expect(t, fmt.Sprint("read-only ", ro), out.String(), want)
		for _, name := range []string{"etc/hosts", "run"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Errorf("/%s was left in the root", name)
			}
		}
	}
}

func TestReadOnlyRootCannotBeWritten(t *testing.T) {
	c, out := shell(t, newRoot(t), "echo x > /y; echo x > /dev/shm/y && echo shm")
	c.ReadOnlyRoot = true
	run(t, c)
	expect(t, "output", out.String(), "sh: can't create /y: Read-only file system\nshm\n")
}

func TestPipesBelongToTheUser(t *testing.T) {
	c, out := shell(t, newRoot(t), "echo via > /dev/stdout")
	c.User = "33:34"
	run(t, c)
	expect(t, "output", out.String(), "via\n")
}

func TestLargeConfigsArrive(t *testing.T) {
	c, out := shell(t, newRoot(t), "echo ${#BIG}")
	for i := range 40 {
		c.Env = append(c.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 20_000)))
	}
	c.Env = append(c.Env, "BIG="+strings.Repeat("y", 100_000))
	run(t, c)
	expect(t, "output", out.String(), "100000\n")
}
