package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

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

// ErrGone is the error of joining a sandbox whose first process has ended, or
// ends meanwhile: how the kernel says so depends on how far it is.
var ErrGone = errors.New("the sandbox has ended")

// goneWait is how long the end of a sandbox may take that has begun: its first
// process ends after all others were killed and waited for.
const goneWait = time.Second

// gone says whether the process target ends. The errors that its end has are
// known; after another it is not waited for.
func gone(target int, err error) bool {
	wait := 0
	var start *StartError
	var exit *exec.ExitError
	if errors.As(err, &start) && start.Op == "namespace" || errors.As(err, &exit) {
		wait = int(goneWait.Milliseconds())
	}
	for until := time.Now().Add(goneWait); ; {
		p := []unix.PollFd{{Fd: int32(target), Events: unix.POLLIN}}
		n, err := unix.Poll(p, wait)
		if !errors.Is(err, unix.EINTR) || time.Now().After(until) {
			return err == nil && n > 0
		}
	}
}

// StartIn starts c in the sandbox whose first process is pid. Its error is
// ErrGone when that sandbox has ended.
func StartIn(ctx context.Context, pid int, c *Config) (*Process, error) {
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
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
	s.Join, err = differing(pid)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil, ErrGone // it has no namespaces any more
	}
	if err != nil {
		return nil, &StartError{Op: "namespace", Path: fmt.Sprintf("process %d", pid), Err: err}
	}
	p := &Process{ended: make(chan struct{})}
	l := &launch{config: c, setup: s, files: files, before: func() error {
		if shared, err := samePIDs(pid); shared || err != nil {
			return err
		}
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWPID); err != nil {
			return &StartError{Op: "namespace", Path: fmt.Sprintf("of process %d", pid), Err: err}
		}
		return nil
	}}
	if err := p.start(ctx, l); err != nil {
		if ctx.Err() == nil && gone(int(target.Fd()), err) {
			err = ErrGone
		}
		return nil, err
	}
	return p, nil
}

// samePIDs reports whether the process pid is in the caller's pid namespace.
func samePIDs(pid int) (bool, error) {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return false, err
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return false, ErrGone
	}
	return own == its, err
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
