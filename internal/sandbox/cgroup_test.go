package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// every is a limit of each kind.
func every() Resources {
	return Resources{Memory: 64 << 20, MemorySwap: 96 << 20, CPUShares: 512, CPUPeriod: 50_000, CPUQuota: 25_000, CPUs: "0", Mems: "0", Pids: 40}
}

// controlTree makes a tree of control files as a machine was seen to have it:
// of each folder the files that are there, "name=content". Those of the group
// that is to be made are there already, as the kernel would make them.
func controlTree(t *testing.T, folders map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for dir, files := range folders {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Split(files, ";") {
			name, content, _ := strings.Cut(f, "=")
			if err := os.WriteFile(filepath.Join(root, dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// written are the files of the tree that have a content, but for those that had
// it before.
func written(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "cgroup.controllers" {
			return err
		}
		b, err := os.ReadFile(p)
		if len(b) > 0 {
			out = append(out, strings.TrimPrefix(p, root+"/")+"="+string(b))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Debian 12's, with systemd: all is of version 2.
const (
	v2Top   = "cgroup.controllers=cpuset cpu io memory hugetlb pids rdma misc\n;cgroup.procs;cgroup.subtree_control"
	v2Inner = "cgroup.controllers=cpuset cpu io memory hugetlb pids rdma misc\n;cgroup.procs;cgroup.subtree_control;cgroup.type"
	v2Leaf  = "cgroup.procs;cgroup.type;cpu.max;cpu.weight;cpuset.cpus;cpuset.mems;memory.max;memory.swap.max;pids.max"
)

func TestLimitsInVersion2(t *testing.T) {
	root := controlTree(t, map[string]string{"": v2Top, "whittle": v2Inner, "whittle/whittle-1-A": v2Leaf})
	g, err := makeCgroup(root, "/whittle/whittle-1-A", every())
	if err != nil {
		t.Fatal(err)
	}
	defer g.v2.Close()
	want := []string{
		"cgroup.subtree_control=+memory +cpu +cpuset +pids",
		"whittle/cgroup.subtree_control=+memory +cpu +cpuset +pids",
		"whittle/whittle-1-A/cpu.max=25000 50000", "whittle/whittle-1-A/cpu.weight=20",
		"whittle/whittle-1-A/cpuset.cpus=0", "whittle/whittle-1-A/cpuset.mems=0",
		"whittle/whittle-1-A/memory.max=67108864", "whittle/whittle-1-A/memory.swap.max=33554432", "whittle/whittle-1-A/pids.max=40",
	}
	if got := written(t, root); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if g.v2 == nil || g.v1 != nil {
		t.Error("a process is not born in it")
	}
}

func TestAControllerThatIsNotThereOrNotDelegatedIsNamed(t *testing.T) {
	few := strings.Replace(v2Inner, "cpuset cpu io memory hugetlb pids rdma misc", "memory pids", 1)
	root := controlTree(t, map[string]string{"": v2Top, "user": few, "user/whittle-1-A": v2Leaf})
	_, err := makeCgroup(root, "/user/whittle-1-A", Resources{CPUs: "0"})
	var bad *CgroupError
	if !errors.As(err, &bad) || !errors.Is(err, errNotDelegated) || !strings.Contains(err.Error(), "cpuset") || !strings.Contains(bad.Hint(), "Delegate=") {
		t.Errorf("not delegated: %v", err)
	}
	root = controlTree(t, map[string]string{"": strings.Replace(v2Top, "cpuset ", "", 1), "whittle-1-A": v2Leaf})
	if _, err = makeCgroup(root, "/whittle-1-A", Resources{CPUs: "0"}); !errors.As(err, &bad) || !errors.Is(err, errNoController) || !strings.Contains(bad.Hint(), "/proc/cgroups") {
		t.Errorf("not there: %v", err)
	}
	// Without swap accounting the limit that nobody asked for is left out.
	root = controlTree(t, map[string]string{"": v2Top, "whittle-1-A": strings.Replace(v2Leaf, "memory.swap.max;", "", 1)})
	g, err := makeCgroup(root, "/whittle-1-A", Resources{Memory: 1 << 20})
	if err != nil {
		t.Fatalf("no swap accounting: %v", err)
	}
	g.v2.Close()
	if _, err = makeCgroup(root, "/whittle-1-A", Resources{Memory: 1 << 20, MemorySwap: 2 << 20}); err == nil {
		t.Error("a limit of swap that cannot be set is no mistake")
	}
}

// As on CentOS 7 and on Debian 10 with systemd's hybrid hierarchy.
func v1Tree(group string) map[string]string {
	return map[string]string{
		"memory/" + group: "cgroup.procs;memory.limit_in_bytes;memory.memsw.limit_in_bytes", "cpu/" + group: "cgroup.procs;cpu.shares;cpu.cfs_period_us;cpu.cfs_quota_us",
		"cpuset": "cpuset.cpus=1-3;cpuset.mems=1-2", "cpuset/whittle": "cgroup.procs;cpuset.cpus;cpuset.mems", "cpuset/" + group: "cgroup.procs;cpuset.cpus;cpuset.mems",
		"pids/" + group: "cgroup.procs;pids.max",
	}
}

func TestLimitsInVersion1AndHybrid(t *testing.T) {
	const group = "whittle/whittle-1-A"
	tree := v1Tree(group)
	root := controlTree(t, tree)
	g, err := makeCgroup(root, "/"+group, every())
	if err != nil {
		t.Fatal(err)
	}
	// Those of cpuset first have what their parent has, and the group's own "0" is
	// written over the beginning of that: these files do not forget what they had.
	want := []string{
		"cpu/" + group + "/cpu.cfs_period_us=50000", "cpu/" + group + "/cpu.cfs_quota_us=25000", "cpu/" + group + "/cpu.shares=512",
		"cpuset/cpuset.cpus=1-3", "cpuset/cpuset.mems=1-2", "cpuset/whittle/cpuset.cpus=1-3", "cpuset/whittle/cpuset.mems=1-2",
		"cpuset/" + group + "/cpuset.cpus=0-3", "cpuset/" + group + "/cpuset.mems=0-2",
		"memory/" + group + "/memory.limit_in_bytes=67108864", "memory/" + group + "/memory.memsw.limit_in_bytes=100663296", "pids/" + group + "/pids.max=40",
	}
	got := written(t, root)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if err := g.add(77); err != nil || len(g.v1) != 4 || g.v2 != nil {
		t.Errorf("%+v: %v", g, err)
	}
	if b, _ := os.ReadFile(root + "/pids/" + group + "/cgroup.procs"); string(b) != "77" {
		t.Errorf("its processes are %q", b)
	}

	// A controller that only version 2 has, beside version 1.
	delete(tree, "pids/"+group)
	tree["unified"], tree["unified/whittle"], tree["unified/"+group] = "cgroup.controllers=pids\n;cgroup.subtree_control", "cgroup.controllers=pids\n;cgroup.subtree_control;cgroup.type", "pids.max;cgroup.procs"
	root = controlTree(t, tree)
	if g, err = makeCgroup(root, "/"+group, every()); err != nil {
		t.Fatal(err)
	}
	defer g.v2.Close()
	if b, _ := os.ReadFile(root + "/unified/" + group + "/pids.max"); string(b) != "40" || len(g.v1) != 3 || g.beside() == nil {
		t.Errorf("pids.max of version 2 is %q; %+v", b, g)
	}
	if _, err = makeCgroup(controlTree(t, v1Tree(group)), "/other", Resources{Pids: 3}); err == nil {
		t.Error("files that are not there were written")
	}
}

func TestEachLimitIsInTheKernel(t *testing.T) {
	needSandbox(t)
	g, err := NewCgroup("", every())
	if err != nil {
		t.Skipf("needs control groups with memory limits: %v", err)
	}
	defer g.Close()
	found := map[string]string{}
	for _, dir := range g.dirs {
		for _, name := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swap.max", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.cpus", "cpuset.mems", "pids.max", "memory.max", "cpu.weight", "cpu.max"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				found[name] = strings.TrimSpace(string(b))
			}
		}
	}
	want := map[string]string{"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "100663296", "cpu.shares": "512", "cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "25000", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "40"}
	if isV2(cgroupRoot) {
		want = map[string]string{"memory.max": "67108864", "memory.swap.max": "33554432", "cpu.weight": "20", "cpu.max": "25000 50000", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "40"}
	}
	for name, w := range want {
		if found[name] != w {
			t.Errorf("%s is %q, want %q", name, found[name], w)
		}
	}
}

func TestAParentThatTheCallerNamedStays(t *testing.T) {
	needSandbox(t)
	parent := ownParent + "-" + randomName() // as if it were one of whittle's
	one, err := NewCgroup(parent, every())
	if err != nil {
		t.Skipf("needs control groups with memory limits: %v", err)
	}
	above := filepath.Dir(one.dirs[0])
	t.Cleanup(func() {
		for _, dir := range one.dirs {
			if err := removeGroup(filepath.Dir(dir)); err != nil {
				t.Error(err)
			}
		}
	})
	other, err := NewCgroup(parent, every())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Errorf("one of two in %s: %v", above, err)
	}
	kept := *one
	if err := kept.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(above); err != nil {
		t.Error(err)
	}
}

// Each removes the parent of all when it finds it empty, which the others may be
// about to use.
func TestGroupsThatComeAndGoAtOnce(t *testing.T) {
	needSandbox(t)
	one := func() error {
		c, err := makeCgroup(cgroupRoot, groupName(ownParent), every())
		if err != nil {
			return err
		}
		return c.Close()
	}
	if err := one(); err != nil {
		t.Skipf("needs control groups with memory limits: %v", err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if err := one(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestACallersOwnGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cgroup")
	for text, want := range map[string][2]string{
		"5:pids:/x\n0::/user.slice/a.scope\n":   {"/user.slice/a.scope", ""},
		"0::/\n":                                {"/", ""},
		"4:cpu,memory:/b:c\n1:name=memory:/d\n": {"", "/b:c"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for i, controller := range []string{"", "memory"} {
			if got, err := groupOf(file, controller); got != want[i] || want[i] == "" != (err != nil) {
				t.Errorf("%q of %q: %q, %v", controller, text, got, err)
			}
		}
	}
}
