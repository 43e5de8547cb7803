package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// joinable are the namespaces that an init enters itself; the pid namespace
// has to be there before it is born.
var joinable = []struct {
	name string
	flag int
}{
	{"mnt", unix.CLONE_NEWNS},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
	{"net", unix.CLONE_NEWNET},
	{"cgroup", unix.CLONE_NEWCGROUP},
}

// StartIn starts c in the sandbox whose first process is pid; see Exec.
func StartIn(ctx context.Context, pid int, c *Config) (*Process, error) {
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, &StartError{Op: "namespace", Path: fmt.Sprintf("process %d", pid), Err: err}
	}
	target := os.NewFile(uintptr(fd), "pidfd")
	exe, err := self()
	if err != nil {
		target.Close()
		return nil, &StartError{Op: "exec", Path: "/proc/self/exe", Err: err}
	}
	files := []*os.File{exe, target}
	defer closeAll(files)
	if s.Join, err = differing(pid); err != nil {
		return nil, &StartError{Op: "namespace", Path: fmt.Sprintf("process %d", pid), Err: err}
	}
	p := &Process{ended: make(chan struct{})}
	l := &launch{config: c, setup: s, files: files, before: func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWPID); err != nil {
			return &StartError{Op: "namespace", Path: fmt.Sprintf("of process %d", pid), Err: err}
		}
		return nil
	}}
	return p, p.start(ctx, l)
}

// differing returns the namespaces of pid that are not the caller's own. Those
// that are, the host's network say, need not be entered and perhaps may not.
func differing(pid int) (int64, error) {
	flags := 0
	for _, ns := range joinable {
		var own, its unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/"+ns.name, &own); err != nil {
			return 0, err
		}
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name), &its); err != nil {
			return 0, err
		}
		if own.Ino != its.Ino || own.Dev != its.Dev {
			flags |= ns.flag
		}
	}
	if flags&unix.CLONE_NEWNS == 0 {
		return 0, errors.New("it is in no sandbox")
	}
	return int64(flags), nil
}
