package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// canary makes a folder of the host with one file that no sandbox may change.
func canary(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	addFiles(t, dir, "file=canary")
	return dir, func() {
		t.Helper()
		b, err := os.ReadFile(dir + "/file")
		es, _ := os.ReadDir(dir)
		if string(b) != "canary" || err != nil || len(es) != 1 {
			t.Errorf("the host's folder was changed: %v, %q, %v", es, b, err)
		}
	}
}

func TestAttack01To04ASourceNeverLeavesWhatItIsIn(t *testing.T) {
	host, check := canary(t)
	src := t.TempDir()
	addFiles(t, src, "rootdir->/", "out->"+host, "up->../../../../../../../.."+host, "magic->/proc/self/root"+host, "etc/f=inside")
	dir := newRoot(t)
	for sub, want := range map[string]string{
		"rootdir":         "etc magic out rootdir up ",
		"rootdir/../../":  "etc magic out rootdir up ",
		"etc/../rootdir/": "etc magic out rootdir up ",
		"out":             "error", "up": "error", "magic": "error", "/proc": "error",
	} {
		c, out := shell(t, dir, "ls /m | while read n; do echo -n \"$n \"; done; echo x > /m/new")
		c.Mounts = []Mount{{Target: "/m", File: openPath(t, src), Sub: sub}}
		_, err := Run(t.Context(), c)
		if got := out.String(); got != want && (want != "error" || err == nil) {
			t.Errorf("%s: got %q, %v, want %q", sub, got, err, want)
		}
		check()
		os.Remove(src + "/new")
	}
}

// Two defences: the way to a stub has no links in it (root.openPlain), and what
// is removed is the very file that was made (Stub.is). The canary is both: in a
// folder that the stub's has become a link to, and a hard link of the stub.
func TestAttack07AStubThatIsAFileOfTheHostIsNotReachedByALink(t *testing.T) {
	host := t.TempDir()
	dir := newRoot(t, "dir/")
	c, _ := shell(t, dir, "read line")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stdin, c.Mounts = r, []Mount{{Target: "/dir/file", Path: "/etc/hostname", ReadOnly: true}}
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// Who shares the root does this while the step runs.
	err = errors.Join(os.Link(dir+"/dir/file", host+"/file"), os.Rename(dir+"/dir", dir+"/was"), os.Symlink(host, dir+"/dir"), w.Close())
	if _, werr := p.Wait(); errors.Join(err, werr) != nil {
		t.Fatal(err, werr)
	}
	if _, err := os.Stat(host + "/file"); err != nil {
		t.Errorf("the file of the host: %v", err)
	}
}

func TestAttack07StubRemovalFollowsNoLink(t *testing.T) {
	host, check := canary(t)
	if err := os.WriteFile(host+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := newRoot(t, "dir/")
	c, _ := shell(t, dir, "true")
	c.Mounts = []Mount{{Target: "/dir/file", Path: host + "/file"}, {Target: "/new/a/b"}}
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	<-p.ended // the sandbox's own view cannot replace what is mounted on; whoever shares the root can
	stubs := p.stubs
	if len(stubs) < 3 {
		t.Fatalf("stubs %v", stubs)
	}
	// Once more, with links in the stubs' places.
	addFiles(t, dir, "dir->"+host, "new->"+host)
	if err := initproc.RemoveStubs(int(openPath(t, dir).Fd()), stubs); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(host+"/file", []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestStubsThatAreInUseStayAndParentsKeepTheirTimes(t *testing.T) {
	dir := newRoot(t, "proc/", "sys/", "dev/", "quiet/", "busy/")
	old := syscall.Timespec{Sec: 1_000_000_000, Nsec: 123}
	for _, name := range []string{"quiet", "busy"} {
		if err := syscall.UtimesNano(dir+"/"+name, []syscall.Timespec{old, old}); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := shell(t, dir, "touch /busy/new; touch /kept/file")
	c.Mounts = []Mount{{Target: "/quiet/a/b"}, {Target: "/quiet/c"}, {Target: "/busy/a"}, {Target: "/kept/x"}}
	run(t, c)
	for name, want := range map[string]bool{"quiet/a": false, "quiet/c": false, "busy/a": false, "busy/new": true, "kept/file": true, "kept/x": false} {
		if _, err := os.Lstat(dir + "/" + name); (err == nil) != want {
			t.Errorf("%s: exists %v, want %v", name, err == nil, want)
		}
	}
	for name, want := range map[string]bool{"quiet": true, "busy": false} {
		fi, err := os.Stat(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.ModTime().UnixNano() == old.Nano(); got != want {
			t.Errorf("%s: mtime %v, kept should be %v", name, fi.ModTime(), want)
		}
	}
}

// Each trap has the user, or the group, that is asked for: only that it is
// refused by what it is (initproc's root.database) keeps it from being found.
func TestAttack08PasswdIsReadInTheRootAndWithinBounds(t *testing.T) {
	host := t.TempDir()
	const line = "evil:x:7:7::/:/bin/sh\n"
	addFiles(t, host, "passwd="+line)
	for name, make := range map[string]func(file string) error{
		"link out": func(f string) error { return os.Symlink(host+"/passwd", f) },
		"fifo":     func(f string) error { return unix.Mkfifo(f, 0o644) },
		"dir":      func(f string) error { return os.Mkdir(f, 0o755) },
		"device": func(f string) error {
			if InUserNS() {
				return unix.Mkfifo(f, 0o644)
			}
			return unix.Mknod(f, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))
		},
		"huge": func(f string) error { return errors.Join(os.WriteFile(f, []byte(line), 0o644), os.Truncate(f, 1<<30)) },
	} {
		dir := newRoot(t)
		for table, user := range map[string]string{"/etc/group": "0:evil", "/etc/passwd": "evil"} {
			file := dir + table
			if err := errors.Join(os.Remove(file), make(file)); err != nil {
				t.Fatal(err)
			}
			c, out := shell(t, dir, "true")
			c.User = user
			_, err := Run(t.Context(), c)
			if err == nil || name == "fifo" && !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("%s in the place of %s: %s: %v, output %s", name, table, user, err, out)
			}
		}
		c, out := shell(t, dir, "while read l; do case $l in Uid*) echo $l;; esac; done < /proc/self/status; echo $HOME") // numbers need no file
		c.User = "5:6"
		run(t, c)
		expect(t, name, out.String(), "Uid: 5 5 5 5\n/\n")
	}
}

func TestAttack09TheDirectoryIsInsideTheRoot(t *testing.T) {
	host, check := canary(t)
	dir := newRoot(t, "out->"+host, "up->../../../../../.."+host, "fd->/proc/self/fd/5")
	for fd := range 12 {
		c, out := shell(t, dir, "pwd; ls ..")
		c.Dir = fmt.Sprintf("/proc/self/fd/%d", fd)
		// The way goes by what the link says, so it may end in the sandbox's own
		// /proc, whose folder the walk itself has open.
		if st, err := Run(t.Context(), c); err == nil && !regexp.MustCompile(`^/proc/[0-9]+/`).MatchString(out.String()) {
			t.Errorf("%s: %+v, %s", c.Dir, st, out)
		}
	}
	for _, wd := range []string{"/fd", "/fd/..", "/proc/1/root", "/proc/self/cwd"} {
		c, out := shell(t, dir, "pwd")
		c.Dir = wd
		if st, err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: %+v, %s", wd, st, out)
		}
	}
	for _, wd := range []string{"/out/sub", "/up/sub", "../../.." + host + "/sub"} {
		c, _ := shell(t, dir, "touch made")
		c.Dir = wd
		run(t, c)
		check()
		if _, err := os.Stat(filepath.Join(dir, host, "sub/made")); err != nil {
			t.Errorf("%s was not made inside the root: %v", wd, err)
		}
		os.RemoveAll(filepath.Join(dir, strings.Split(host, "/")[1]))
		addFiles(t, dir, "tmp/")
	}
}

func TestAttack09NoDescriptorIsInherited(t *testing.T) {
	// One that is not close-on-exec, as a careless library would leave it.
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c, out := shell(t, newRoot(t), "ls /proc/$$/fd; true")
	run(t, c)
	expect(t, "descriptors", out.String(), "0\n1\n2\n")
}

func TestAttack10LinksInPlaceOfKernelFileSystemsAreRefused(t *testing.T) {
	host, check := canary(t)
	for _, name := range []string{"dev", "proc", "sys"} {
		for _, target := range []string{host, "/tmp", "../../../../../../.." + host} {
			dir := newRoot(t, name+"->"+target)
			c, _ := shell(t, dir, "true")
			_, err := Run(t.Context(), c)
			var se *StartError
			if !errors.As(err, &se) || se.Op != "mount" || se.Path != "/"+name {
				t.Errorf("%s -> %s: %v", name, target, err)
			}
			check()
			if es, _ := os.ReadDir(dir + "/tmp"); len(es) != 0 {
				t.Errorf("%s -> %s: made %v", name, target, es)
			}
		}
		if _, err := Run(t.Context(), must(shell(t, newRoot(t, name+"=file"), "true"))); err == nil {
			t.Errorf("/%s is a file, and was mounted on", name)
		}
	}
	dir := newRoot(t, "etc->"+host)
	c, out := shell(t, dir, "cat /etc/hosts | head -n 1")
	c.ResolvConf = true
	run(t, c)
	expect(t, "hosts through a link", out.String(), "127.0.0.1\tlocalhost buildkitsandbox\n")
	check()
}

// While steps start, whoever shares their root swaps its /dev, /proc and the
// null device in it for links to the machine's files. What is mounted on is
// opened once, without links (initProc.top), and the devices are the sandbox's
// own, taken by number (openDevice): a step starts as always, or not at all.
func TestAttack10WhatIsSwappedWhileAStepStartsLeadsNowhere(t *testing.T) {
	host, check := canary(t)
	dir := newRoot(t, "dev/null=fake", "proc/", "away/", "away/dev->"+host, "away/proc->"+host, "away/null->"+host+"/file")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Microsecond):
				for _, pair := range [][2]string{{"/dev/null", "/away/null"}, {"/dev", "/away/dev"}, {"/proc", "/away/proc"}} {
					_ = unix.Renameat2(unix.AT_FDCWD, dir+pair[0], unix.AT_FDCWD, dir+pair[1], unix.RENAME_EXCHANGE)
				}
			}
		}
	}()
	ran := 0
	for range 60 {
		c, out := shell(t, dir, "echo x >/dev/null; echo x >/proc/self/comm; stat -c %t:%T /dev/null; cat /proc/sys/kernel/ostype; ls /dev/file /proc/file 2>/dev/null; true")
		_, err := Run(t.Context(), c)
		var se *StartError
		switch {
		case err == nil:
			ran++
			// That the swap goes on may hide its devices from it, and no more.
			for l := range strings.Lines(out.String()) {
				if l != "1:3\n" && l != "Linux\n" && !regexp.MustCompile(`^(sh|stat|cat): can't`).MatchString(l) {
					t.Errorf("the step saw %q", l)
				}
			}
		case !errors.As(err, &se) || se.Op != "mount":
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	check()
	if ran == 0 || ran == 60 {
		t.Logf("the swap was never in time: %d of 60 ran", ran)
	}
}

func must(c *Config, _ any) *Config { return c }

func TestAttack10MasksAreTheRealNullDeviceAndProcCannotBeCovered(t *testing.T) {
	dir := newRoot(t, "dev/null=fake", "dev/pts->/etc")
	c, out := shell(t, dir, `for f in kcore keys timer_list interrupts sched_debug; do test -e /proc/$f && cat /proc/$f; done; ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v :
		echo x > /proc/sys/kernel/hostname; echo x > /proc/sysrq-trigger; echo x > /sys/kernel/x; stat -c %t:%T /dev/null`)
	run(t, c)
	for _, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if l != "" && l != "1:3" && !strings.Contains(l, "Read-only file system") && !strings.Contains(l, "nonexistent directory") {
			t.Errorf("line %q", l)
		}
	}
	for _, target := range []string{"/proc", "/proc/sys", "/proc/self/attr", "/lnk/1"} {
		c, _ := shell(t, newRoot(t, "lnk->/proc"), "true")
		c.Mounts = []Mount{{Target: target}}
		if _, err := Run(t.Context(), c); err == nil {
			t.Errorf("%s could be mounted on", target)
		}
	}
}

func TestMaskedFoldersAreEmptyAndReadOnlyWhateverElseIsMounted(t *testing.T) {
	host := t.TempDir()
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("canary"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, out := shell(t, newRoot(t, "t/"), `for d in /sys/firmware /proc/acpi /proc/scsi; do test -d $d && ls -A $d; echo x 2>/dev/null >$d/hosts && echo wrote $d; done; grep -c ' /sys/firmware ' /proc/self/mounts; true`)
	c.ResolvConf = true
	c.Mounts = []Mount{{Target: "/t", Path: host, Sub: "sub", ReadOnly: true}}
	run(t, c)
	if got := out.String(); got != "1\n" && got != "0\n" {
		t.Errorf("output %q", got)
	}
}

func TestTheHostsDevicesAreNotTheStepsToChange(t *testing.T) {
	before := map[string]unix.Stat_t{}
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	for _, d := range devices {
		var st unix.Stat_t
		if err := unix.Stat("/dev/"+d, &st); err != nil {
			t.Fatal(err)
		}
		before[d] = st
	}
	// Modes and times that the devices have already: were this to fail, it would
	// show in their ctime and harm nobody.
	c, _ := shell(t, newRoot(t), "for d in null zero full random urandom tty; do chmod 666 /dev/$d; done; chmod 666 /proc/self/fd/0; true")
	c.Stdin = nil
	run(t, c)
	for _, d := range devices {
		var st unix.Stat_t
		if err := unix.Stat("/dev/"+d, &st); err != nil {
			t.Fatal(err)
		}
		if st.Ctim != before[d].Ctim || st.Mode != before[d].Mode {
			t.Errorf("/dev/%s of the host was changed", d)
		}
	}
}

func TestDeviceFilesOfTheRootAndOfTheStepAreDead(t *testing.T) {
	dir := newRoot(t)
	if InUserNS() {
		t.Skip("needs root: a user namespace makes no device files")
	}
	if err := unix.Mknod(dir+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	c, out := shell(t, dir, "for d in / /tmp/ /dev/ /dev/shm/ /t/; do mknod ${d}z c 1 5 && chmod 666 ${d}z && head -c 1 ${d}z >/dev/null 2>&1 && echo $d opened; done; head -c 1 /zero && echo old opened; head -c 1 /dev/zero >/dev/null && echo ok")
	c.Mounts = []Mount{{Target: "/t"}}
	run(t, c)
	if got := out.String(); strings.Contains(got, "opened") || !strings.HasSuffix(got, "ok\n") {
		t.Errorf("output %q", got)
	}
}

func TestNothingOfTheCallersRootIsLeftAbove(t *testing.T) {
	c, out := shell(t, newRoot(t, "mark="), "cd /..; test -e mark && cd /../../.. && test -e mark && echo inside; busybox chroot / /bin/sh -c 'cd ../..; ls -d mark'; grep -c ' / / ' /proc/self/mountinfo; grep -c ' / ' /proc/self/mounts")
	run(t, c)
	if got := out.String(); !strings.HasPrefix(got, "inside\nmark\n") || !strings.HasSuffix(got, "\n1\n") {
		t.Errorf("output %q", got)
	}
}

func TestTheProgramCannotBeWrittenThroughItsHandle(t *testing.T) {
	needSandbox(t)
	f, err := self()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("chmod: %v, want EROFS", err)
	}
}

// statusScript prints what must be equal to what runc gives.
const statusScript = `grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status; umask; env | grep -v -E '^(PWD|SHLVL|OLDPWD)='; echo -n dev:; cd /dev; for f in *; do test $f != core && echo -n " $f"; done; echo`

const goldenStatus = `Uid:	0	0	0	0
Gid:	0	0	0	0
Groups:	0 
CapInh:	0000000000000000
CapPrm:	00000000a80425fb
CapEff:	00000000a80425fb
CapBnd:	00000000a80425fb
CapAmb:	0000000000000000
NoNewPrivs:	0
Seccomp:	2
0022
HOME=/root
PATH=/bin
dev: fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
`

func TestAttack30RightsEnvironmentAndGroupsAreTheGoldenOnes(t *testing.T) {
	t.Setenv("SECRET", "canary")
	t.Setenv("OTEL_EXPORTER", "canary")
	user := strings.NewReplacer("\t0\t0\t0\t0", "\t33\t33\t33\t33", "Groups:\t0", "Groups:\t34 44",
		"CapPrm:\t00000000a80425fb", "CapPrm:\t0000000000000000", "CapEff:\t00000000a80425fb", "CapEff:\t0000000000000000", "/root", "/var/www").Replace(goldenStatus)
	user = strings.Replace(user, "Gid:\t33\t33\t33\t33", "Gid:\t34\t34\t34\t34", 1)
	dir := newRoot(t)
	for name, want := range map[string]string{"": goldenStatus, "web": user} {
		c, out := shell(t, dir, statusScript)
		c.User = name
		run(t, c)
		expect(t, "user "+name, out.String(), want)
	}
	c, out := shell(t, dir, "grep NoNewPrivs /proc/self/status")
	c.NoNewPrivs = true
	run(t, c)
	expect(t, "no_new_privs", out.String(), "NoNewPrivs:\t1\n")
}

func TestAttack30InheritableAndAmbientCapabilitiesOfTheCallerAreGone(t *testing.T) {
	needSandbox(t)
	// Capabilities belong to threads; so they are set on that which starts the
	// init.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	c, out := shell(t, newRoot(t), "grep -E 'Cap(Inh|Amb)' /proc/self/status")
	s, err := newSetup(c)
	if err != nil {
		t.Fatal(err)
	}
	files, err := sources(c, s)
	defer closeAll(files)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{ended: make(chan struct{})}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if procRefused.Load() {
		flags, s.SharedPIDs = flags&^unix.CLONE_NEWPID, true
	}
	err = p.start(t.Context(), &launch{config: c, setup: s, files: files, cloneflags: uintptr(flags), before: func() error {
		for i := range data {
			data[i].Inheritable = data[i].Permitted
		}
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			return err
		}
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_PTRACE, 0, 0)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	expect(t, "sets", out.String(), "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n")
}

// What a mount hands to the kernel is a closed list: see also the script
// attack_06, about what a Dockerfile may say.
func TestAttack06OptionsOfATmpfsAreAClosedList(t *testing.T) {
	dir := newRoot(t)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, option := range []string{"rshared", "bind-propagation=rshared", "huge=always", "size", "mpol=bind:0", "size=1m,uid=0"} {
		_, err := Run(t.Context(), &Config{Root: root, Args: []string{"true"}, Mounts: []Mount{{Target: "/m", Options: []string{option}}}})
		if err == nil || !strings.Contains(err.Error(), "tmpfs option") && !strings.Contains(err.Error(), "size=1m,uid=0") {
			t.Errorf("%s: %v", option, err)
		}
	}
	if _, err := Run(t.Context(), &Config{Root: root, Args: []string{"true"}, Mounts: []Mount{{Target: "/m", Options: []string{"size=1m", "mode=700"}}}}); err != nil {
		t.Errorf("those that are known: %v", err)
	}
}
