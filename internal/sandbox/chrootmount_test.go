package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree is what a folder holds: names, types, contents and times of folders.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if err != nil {
			return err
		}
		b.WriteString(strings.TrimPrefix(name, dir) + " " + i.Mode().String())
		if e.Type().IsRegular() && i.Size() < 100 {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			b.WriteString(" " + string(content))
		}
		if e.IsDir() {
			b.WriteString(" " + i.ModTime().String())
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAllThatIsPutIntoAChrootIsGoneAfterwardsAndWhatLayThereIsBack(t *testing.T) {
	dir := newRoot(t, "proc/keep=proc", "dev/keep=dev", "etc/hosts=mine", "etc/resolv.conf->../run/stub", "cache/own=hidden", "run/secret=old")
	cache, ro, file := t.TempDir(), t.TempDir(), t.TempDir()
	addFiles(t, cache, "a=1")
	addFiles(t, ro, "r=2", "sub/deep=3")
	addFiles(t, file, "f=4")
	past := time.Unix(1_000_000_000, 0)
	for _, d := range []string{"", "proc", "dev", "etc", "cache", "run"} {
		if err := os.Chtimes(filepath.Join(dir, d), past, past); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, dir)
	c, out := boxed(t, dir, `cat /cache/a /ro/r /ro/sub/deep /file /etc/hosts /run/secret; echo; ls /cache /dev/keep 2>&1; echo new > /cache/b
		echo lost > /ro/r; echo x > /t/x; stat -c '%a %u' /t; stat -c '%a' /t2; cat /proc/keep; echo x > /file; ls -a /cache`)
	c.ResolvConf, c.ReadOnlyEtc = true, true
	c.Mounts = []Mount{
		{Target: "/cache", Path: cache}, {Target: "/ro", Path: ro, ReadOnly: true}, {Target: "/file", Path: file + "/f", ReadOnly: true},
		{Target: "/t", Options: []string{"mode=750", "uid=7", "size=1m"}}, {Target: "/t2/x/y"},
		{Target: "/run/secret", Content: &Content{Content: []byte("S3"), Mode: 0o400}, ReadOnly: true},
	}
	run(t, c)
	expect(t, "output", out.String(), "1234127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\nS3\nls: /dev/keep: No such file or directory\n/cache:\na\n750 7\n755\ncat: can't open '/proc/keep': No such file or directory\nsh: can't create /file: Read-only file system\n.\n..\na\nb\n")
	if after := tree(t, dir); after != before {
		t.Errorf("the root was\n%s\nand is\n%s", before, after)
	}
	if got := read(t, cache+"/a") + read(t, cache+"/b") + read(t, ro+"/r") + read(t, file+"/f"); got != "1new\n24" {
		t.Errorf("what was mounted holds %q", got)
	}
	if es, _ := os.ReadDir(c.Scratch); len(es) > 0 {
		t.Errorf("left aside: %v", es)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// A file system gives the number of a removed file to a new one, after those
// that were free before.
func TestAFileMadeAfterASecretWasRemovedIsItself(t *testing.T) {
	c, out := boxed(t, newRoot(t, "run/"), `stat -c %i /run/secret; rm /run/secret; i=0
		while [ $i -lt 4000 ]; do echo own > /run/f$i; i=$((i+1)); done; grep -L own -r /run; ls -i /run`)
	c.Mounts = []Mount{{Target: "/run/secret", Content: &Content{Content: []byte("S3"), Mode: 0o400}, ReadOnly: true}}
	run(t, c)
	number, list, _ := strings.Cut(out.String(), "\n")
	if strings.HasPrefix(list, "/run/") {
		t.Errorf("is the secret: %.40s", list)
	}
	if strings.Contains(" "+strings.ReplaceAll(list, "\n", " "), " "+number+" ") {
		t.Error("the number of what is served is another file's")
	}
}

// With a mount these would be EBUSY; here they succeed, and what was mounted
// must not suffer more than what was in it.
func TestWhatAStepDoesToAMovedFolderDoesNotLoseIt(t *testing.T) {
	for script, want := range map[string]string{
		"mv cache elsewhere; echo x > elsewhere/n":      "kept n",
		"mkdir -p d/e; mv cache d/e/f":                  "kept",
		"rm -r cache":                                   "",
		"rm -r cache; ln -s /etc cache":                 "",
		"mv cache old; mkdir cache; echo x > cache/new": "kept",
	} {
		dir, cache := newRoot(t), filepath.Join(t.TempDir(), "cache")
		addFiles(t, cache, "kept=1")
		c, _ := boxed(t, dir, script)
		c.Mounts = []Mount{{Target: "/cache", Path: cache}}
		run(t, c)
		es, err := os.ReadDir(cache)
		var names []string
		for _, e := range es {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want || err != nil {
			t.Errorf("%s: the cache holds %q, %v, want %q", script, got, err, want)
		}
		for _, left := range []string{"cache", "elsewhere", "old"} {
			if _, err := os.Lstat(filepath.Join(dir, left)); err == nil {
				t.Errorf("%s: /%s is left in the root", script, left)
			}
		}
	}
}

func TestAPartOfAFolderIsMovedAndNoLinkInItLeadsElsewhere(t *testing.T) {
	host, check := canary(t)
	cache := t.TempDir()
	addFiles(t, cache, "in/f=part", "out->"+host)
	c, out := boxed(t, newRoot(t), "cat /m/f; echo x > /m/new")
	c.Mounts = []Mount{{Target: "/m", Path: cache, Sub: "in"}}
	run(t, c)
	expect(t, "output", out.String(), "part")
	expect(t, "new file", read(t, cache+"/in/new"), "x\n")
	c, _ = boxed(t, newRoot(t), "echo x > /m/file")
	c.Mounts = []Mount{{Target: "/m", Path: cache, Sub: "out"}}
	if _, err := Run(t.Context(), c); err == nil || !strings.HasPrefix(errors.Unwrap(err).Error(), "source out") {
		t.Errorf("a source behind a link: %v", err)
	}
	check()
}

func TestASecretInAChrootIsInNoFileAndKeepsItsMode(t *testing.T) {
	const canary = "canary-7c1e"
	dir := newRoot(t)
	c, out := boxed(t, dir, `exec 3</run/secrets/s; cat <&3; cat /run/secrets/s; stat -c '%a %u %s' /run/secrets/s; readlink -f /run/../run/secrets/s
		ls -l /run/secrets >/dev/null; grep -r canary- / 2>/dev/null --exclude-dir=proc | head -n 3; su web -c 'cat /run/secrets/s' ; echo x > /run/secrets/s`)
	c.Args[2] = strings.ReplaceAll(c.Args[2], " --exclude-dir=proc", "")
	c.Args[2] = strings.ReplaceAll(c.Args[2], "grep -r canary- /", "grep -r canary- /bin /etc /tmp /dev/shm")
	c.Mounts = []Mount{{Target: "/run/secrets/s", ReadOnly: true, Content: &Content{Content: []byte(canary), Mode: 0o400}}}
	runAnyhow(t, c)
	expect(t, "output", out.String(), canary+canary+"400 0 11\n/run/secrets/s\ncat: can't open '/run/secrets/s': Permission denied\nsh: can't create /run/secrets/s: Read-only file system\n")
}

// runAnyhow runs c whatever its exit code.
func runAnyhow(t *testing.T, c *Config) {
	t.Helper()
	if _, err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAChrootCannotGiveIsRefusedBeforeAnythingRuns(t *testing.T) {
	dir := newRoot(t)
	other, err := os.MkdirTemp("/dev/shm", "elsewhere")
	if err != nil {
		t.Skip("needs /dev/shm")
	}
	defer os.RemoveAll(other)
	same := t.TempDir()
	addFiles(t, other, "d/")
	addFiles(t, same, "a/b/f=1")
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"network":   {func(c *Config) { c.Network = NetworkNone }, "isolation network=none: a chroot has the network of the container around it"},
		"insecure":  {func(c *Config) { c.Insecure = true }, "isolation security=insecure: a chroot gives no more rights than the container around it has"},
		"read-only": {func(c *Config) { c.ReadOnlyRoot = true }, "isolation read-only root: a chroot can be written to"},
		"detached":  {func(c *Config) { c.Mounts = []Mount{{Target: "/m", File: c.Root}} }, "isolation mount: a chroot has no mounts: give a path"},
		"elsewhere": {func(c *Config) { c.Mounts = []Mount{{Target: "/m", Path: other + "/d"}} }, "mount /m: it is not on the file system of the store"},
		"twice":     {func(c *Config) { c.Mounts = []Mount{{Target: "/m", Path: other}, {Target: "/m/n", Path: other}} }, ""},
		"same":      {func(c *Config) { c.Mounts = []Mount{{Target: "/m", Path: same}, {Target: "/n", Path: same}} }, "mount /n: it, or a part of it, is at /m already, and can be in one place only in a chroot"},
		"copy": {func(c *Config) {
			c.Mounts = []Mount{{Target: "/m", Path: same}, {Target: "/n", Path: same, Sub: "a", ReadOnly: true}}
		}, "mount /n: it, or a part of it, is at /m already, and can be in one place only in a chroot"},
		"part": {func(c *Config) { c.Mounts = []Mount{{Target: "/m", Path: same, Sub: "a"}, {Target: "/n", Path: same}} }, "mount /n: it, or a part of it, is at /m already, and can be in one place only in a chroot"},
		"in part": {func(c *Config) {
			c.Mounts = []Mount{{Target: "/m", Path: same, Sub: "a"}, {Target: "/n", Path: same, Sub: "a/b"}}
		}, "mount /n: it, or a part of it, is at /m already, and can be in one place only in a chroot"},
		"proc": {func(c *Config) { c.Mounts = []Mount{{Target: "/proc/x"}} }, "mount /proc/x: nothing can be mounted in /proc"},
		"link": {func(c *Config) { c.Mounts = []Mount{{Target: "/etc/passwd"}} }, "mount /etc/passwd: a folder cannot be mounted on the file that is there"},
	} {
		before := tree(t, dir)
		c, _ := boxed(t, dir, "touch /ran")
		tt.change(c)
		_, err := Run(t.Context(), c)
		if err == nil || tt.want != "" && err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
		if after := tree(t, dir); strings.Contains(after, "/ran") || after != before {
			t.Errorf("%s: the root is not as it was:\n%s", name, after)
		}
	}
}

func TestWhatAStepLeavesRunningInAChrootDiesWithIt(t *testing.T) {
	dir := newRoot(t)
	c, out := boxed(t, dir, `(trap '' TERM HUP; exec busybox setsid sh -c 'echo $$ > /pid; exec sleep 1000') & while [ ! -s /pid ]; do :; done; cat /pid`)
	start := time.Now()
	run(t, c)
	if took := time.Since(start); took > 60*time.Second {
		t.Errorf("it took %v", took)
	}
	b, err := os.ReadFile("/proc/" + strings.TrimSpace(out.String()) + "/cmdline")
	if err == nil && strings.Contains(string(b), "sleep\x001000") {
		t.Errorf("it runs: %q", b)
	}
}

// Whoever is killed puts nothing back, but the box is another process.
func TestKillingTheCallerBringsMovedFoldersBack(t *testing.T) {
	dir := newRoot(t)
	cache := filepath.Join(t.TempDir(), "cache")
	addFiles(t, cache, "kept=1")
	t.Setenv(isolationVar, Chroot)
	t.Setenv("WHITTLE_SANDBOX_CACHE", cache)
	lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	t.Setenv("WHITTLE_SANDBOX_LOCK", lock.Name())
	cmd, r := hold(t, dir, "", "touch /cache/new; ls /proc/self/fd | grep '[3-9]'; sleep 1000 & echo ready; sleep 1000")
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		t.Error("the lock is not held")
	}
	if _, err := os.Stat(cache); err == nil {
		t.Error("the folder is not in the root")
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	// Whoever gets the lock now finds all in its place.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", "new"} {
		if _, err := os.Stat(filepath.Join(cache, name)); err != nil {
			t.Error(err)
		}
	}
	r.SetReadDeadline(time.Now().Add(30 * time.Second))
	for b := make([]byte, 100); ; {
		if _, err := r.Read(b); err != nil {
			break // the last process has ended
		}
	}
	for _, name := range []string{"cache", "proc", "dev"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("/%s is left in the root", name)
		}
	}
}
