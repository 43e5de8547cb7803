package sandbox

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inChroot makes c run in a chroot where all tests are to.
func inChroot(t *testing.T, c *Config) *Config {
	t.Helper()
	if os.Getenv(isolationVar) == Chroot {
		return isolated(t, c)
	}
	return c
}

// output runs c in a new root and returns what it prints.
func output(t *testing.T, c *Config, script string) string {
	t.Helper()
	root, err := os.Open(newRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out bytes.Buffer
	c.Root, c.Args, c.Stdout, c.Stderr = root, []string{"sh", "-c", script}, &out, &out
	if st, err := Run(t.Context(), inChroot(t, c)); err != nil || st.Code != 0 {
		t.Fatalf("%+v, %v: %s", st, err, &out)
	}
	return strings.TrimSpace(out.String())
}

func TestLimitsHoldForTheCommandAlone(t *testing.T) {
	needSandbox(t)
	files, ok := NewRlimit("nofile", 64, 128)
	none, ok2 := NewRlimit("core", 0, 0)
	if _, ok3 := NewRlimit("x", 0, 0); !ok || !ok2 || ok3 {
		t.Fatal("names of limits")
	}
	c := Config{Rlimits: []Rlimit{files, none}}
	if got := output(t, &c, "ulimit -Sn; ulimit -Hn; ulimit -c"); got != "64\n128\n0" {
		t.Errorf("got %q", got)
	}
	c = Config{Rlimits: []Rlimit{{Resource: unix.RLIMIT_NOFILE, Name: "nofile", Soft: 2, Hard: 1}}}
	root, err := os.Open(newRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	c.Root, c.Args = root, []string{"true"}
	inChroot(t, &c)
	_, err = Run(t.Context(), &c)
	var start *StartError
	if !errors.As(err, &start) || start.Op != "ulimit" || start.Path != "nofile=2:1" {
		t.Errorf("a soft limit above the hard one: %v", err)
	}
}

func TestAFileOfMemoryIsWhereItShallBeAndNowhereElse(t *testing.T) {
	needSandbox(t)
	c := Config{Mounts: []Mount{
		{Target: "/run/a/secret", ReadOnly: true, Content: &Content{Content: []byte("text"), Mode: 0o440, UID: 33, GID: 34}},
		{Target: "/bin/script", Content: &Content{Content: []byte("#!/bin/sh\necho ran\n"), Mode: 0o555}},
	}}
	got := output(t, &c, "cat /run/a/secret; stat -c ' %a %u:%g' /run/a/secret; echo more 2>&1 >>/run/a/secret | grep -o Read-only; script; grep -o 'secret tmpfs ro,nosuid,nodev,noexec' /proc/mounts")
	if want := "text 440 33:34\nRead-only\nran\nsecret tmpfs ro,nosuid,nodev,noexec"; !strings.HasPrefix(got, "text 440 33:34\n") || !strings.Contains(got, "ran\nsecret tmpfs ro,nosuid,nodev,noexec") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSettingsOfControlGroups(t *testing.T) {
	r := Resources{Memory: 100, MemorySwap: 150, CPUShares: 1024, CPUQuota: 50_000, CPUs: "0-1", Mems: "0"}
	for name, c := range map[string]struct {
		got  []setting
		want string
	}{
		"2": {r.v2(), "memory.max=100 memory.swap.max=50 cpu.weight=39 cpu.max=50000 100000 cpuset.cpus=0-1 cpuset.mems=0"},
		"1": {r.v1(), "memory.limit_in_bytes=100 memory.memsw.limit_in_bytes=150 cpu.shares=1024 cpu.cfs_quota_us=50000 cpuset.cpus=0-1 cpuset.mems=0"},
	} {
		var list []string
		for _, s := range c.got {
			list = append(list, s.file+"="+s.value)
		}
		if got := strings.Join(list, " "); got != c.want {
			t.Errorf("version %s: got  %s\nwant %s", name, got, c.want)
		}
	}
	unlimited := Resources{MemorySwap: -1, CPUPeriod: 1000}
	if got := unlimited.v2(); len(got) != 2 || got[0].value != "max" || got[1].value != "max 1000" {
		t.Errorf("without limits: %v", got)
	}
	if got := slicePath("a-b"); got != "a.slice/a-b.slice" {
		t.Errorf("slice a-b is %s", got)
	}
}

func TestAStepRunsInItsControlGroup(t *testing.T) {
	needSandbox(t)
	g, err := NewCgroup("whittle-test/deep", Resources{Memory: 64 << 20})
	if err != nil {
		t.Skipf("needs control groups with memory limits: %v", err)
	}
	dirs := g.dirs
	got := output(t, &Config{Cgroup: g}, "cat /proc/self/cgroup; dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null && echo too much || echo limited")
	if !strings.HasSuffix(got, "limited") {
		t.Errorf("200 MB fit into 64 MiB: %s", got)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			t.Errorf("%s is left", d)
		}
		for _, rest := range []string{"", "/deep"} {
			_ = os.Remove(strings.Split(d, "/whittle-test")[0] + "/whittle-test" + rest)
		}
	}
	for _, d := range dirs {
		_ = os.Remove(strings.Split(d, "/whittle-test")[0] + "/whittle-test")
	}
}

func TestControlGroupsThatCannotBeMadeSayTheWayOut(t *testing.T) {
	needSandbox(t)
	_, err := NewCgroup("x\x00y", Resources{})
	var bad *CgroupError
	if !errors.As(err, &bad) || bad.Hint() == "" {
		t.Errorf("got %v", err)
	}
}
