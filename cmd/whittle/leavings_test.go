package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// groupsBelow lists the control groups in parent.
func groupsBelow(parent string) (list []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(name, parent+"/") {
			list = append(list, name)
		}
		return nil // what goes away meanwhile is another's
	})
	return list
}

// Programs that build, are refused, fail, and are killed while a step runs in
// a control group: what they leave is taken away by the keeper of each.
func TestManyProgramsLeaveNoProcessGroupMountOrTemporaryFile(t *testing.T) {
	adopt(t)
	n := 100
	if testing.Short() {
		n = 20
	}
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	tmp := t.TempDir()
	l.env = append(l.env, "TMPDIR="+tmp)
	dir := folder(t, map[string]string{
		"Dockerfile": "FROM busybox\nARG N\nRUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c echo $N >/c/n; test \"x$N\" != xbad\n",
		"long":       "FROM busybox\nRUN echo begun; sleep 60 & sleep 60\n",
	})
	parent := "whittle-test-" + filepath.Base(filepath.Dir(tmp))
	limits := []string{}
	if ok, _ := condition("cgroups"); ok {
		limits = []string{"--cgroup-parent", parent, "--memory", "512m"}
	}
	t.Cleanup(func() {
		for _, g := range parents(parent) {
			_ = os.Remove(g) // the parent, which the build was told and which stays
		}
	})
	for i := range n {
		args := append([]string{"build", "-q", "--no-cache"}, limits...)
		switch i % 5 {
		case 0:
			if _, err := l.try(append(args, "--build-arg", "N=bad", dir)...); err == nil {
				t.Fatal("a failing step is no error")
			}
		case 1:
			if _, err := l.try(append(args, "--target", "nosuch", dir)...); err == nil {
				t.Fatal("there is no such stage")
			}
		case 2:
			l.killed(append(args, "--progress", "plain", "-f", filepath.Join(dir, "long"), dir)...)
		default:
			l.run(append(args, dir)...)
		}
	}
	alone(t)
	for end := time.Now().Add(10 * time.Second); len(groupsBelow(parent)) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if left := groupsBelow(parent); len(left) > 0 {
		t.Errorf("control groups are left: %v", left)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	l.clean()
}

// killed starts a build and kills it with SIGKILL when its step runs.
func (l *lab) killed(args ...string) {
	l.t.Helper()
	cmd := l.command(slices.DeleteFunc(args, func(a string) bool { return a == "-q" })...)
	said, err := cmd.StderrPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	until(l.t, said, " begun\n")
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		l.t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

// parents lists the control groups of that name themselves.
func parents(name string) (list []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		found, _ := filepath.Glob(pattern)
		list = append(list, found...)
	}
	return list
}
