package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// InUserNS reports whether the process is in a user namespace that is not the
// machine's first.
func InUserNS() bool { return userns.RunningInUserNS() }

// UserNSError is why an unprivileged user cannot run sandboxes, and what to do.
type UserNSError struct {
	Msg string
	Way string // out
}

func (e *UserNSError) Error() string { return e.Msg }

// Hint returns the way out.
func (e *UserNSError) Hint() string { return e.Way }

// NeedsUserNS reports whether this process lacks the rights to mount, which it
// would have in a user namespace of its own: it is not root, or root of a
// container.
func NeedsUserNS() bool { return os.Geteuid() != 0 || !mayMount() }

// mayMount reports whether this process has CAP_SYS_ADMIN.
func mayMount() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// ReexecInUserNS runs this command line again, in a new user namespace in
// which the user is root, and in a new mount namespace. Root of a container
// keeps all ids; another user has the subordinate ids that /etc/subuid and
// /etc/subgid give, and where there are none or newuidmap cannot give them a
// single one: OneID says so in there. It returns the exit code; 128 + n when
// signal n ended it. The new process gets the caller's descriptors, terminal
// and the signals that come from the channel, and dies when the caller does.
//
// An error means that nothing was run. It is a *UserNSError when the user's
// system is not set up for it.
func ReexecInUserNS(signals <-chan os.Signal) (exit int, err error) {
	if os.Geteuid() == 0 {
		m, err := allIDs()
		if err != nil {
			return 0, err
		}
		return startInUserNS(m, nil, signals)
	}
	if uids, gids, mapper, why := subordinateIDs(os.Getuid()); why == nil {
		exit, err := startInUserNS(nil, func(pid int) error {
			err := mapper.run("newuidmap", pid, os.Getuid(), uids)
			if err == nil {
				err = mapper.run("newgidmap", pid, os.Getgid(), gids)
			}
			return err
		}, signals)
		var refused *mapError
		if !errors.As(err, &refused) {
			return exit, err
		}
	}
	return startInUserNS(oneID(), nil, signals)
}

// startInUserNS starts the namespace's first process with a map that this process may
// write, or if that is nil with what mapper writes.
func startInUserNS(m *ownMap, mapper func(pid int) error, signals <-chan os.Signal) (exit int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{argvUserNS, userNSWait, strconv.Itoa(os.Getpid())}, os.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if m != nil {
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = m.uids, m.gids
		cmd.SysProcAttr.GidMappingsEnableSetgroups = m.groups
	}
	return runForwarding(cmd, func() error {
		r.Close()
		if mapper != nil {
			if err := mapper(cmd.Process.Pid); err != nil {
				return err
			}
		}
		_, err := w.Write([]byte{1})
		return errors.Join(err, w.Close())
	}, signals)
}

// runForwarding starts cmd, runs ready, passes signals on to cmd and returns
// its exit code. The thread that started cmd is kept for its parent-death
// signal.
func runForwarding(cmd *exec.Cmd, ready func() error, signals <-chan os.Signal) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, namespaceError(unwrapPath(err))
	}
	if err := ready(); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, err
	}
	done := make(chan struct{})
	go forward(cmd.Process, signals, done)
	err := cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// forward passes signals on. What the terminal sends on a key it sends to the
// whole foreground group, so the new process has it already.
func forward(p *os.Process, sigs <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case s := <-sigs:
			if (s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGWINCH) && inForeground() {
				continue
			}
			p.Signal(s)
		}
	}
}

// inForeground reports whether this process's group has the terminal.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// namespaceError says what keeps the kernel from making a user namespace.
func namespaceError(err error) error {
	switch err {
	case unix.ENOSPC:
		return &UserNSError{Msg: "user namespace: the limit on their number is reached", Way: "as root: sysctl user.max_user_namespaces=15000"}
	case unix.EPERM, unix.EACCES:
		return &UserNSError{
			Msg: "user namespace: the kernel does not let this user make one",
			Way: "on a host, as root: sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); " +
				"in a container, its seccomp profile forbids it: --security-opt seccomp=unconfined (Docker), " +
				"securityContext.seccompProfile.type: Unconfined (Kubernetes)",
		}
	}
	return fmt.Errorf("user namespace: %w", err)
}

// The stages of the first process of a user namespace, as its second argument.
const (
	userNSWait  = "wait"  // until the maps are written
	userNSEnter = "enter" // again, as root: only an exec as root gives root's capabilities
)

const fdMapped = 3

// enterUserNS is the child of ReexecInUserNS. What it is told is a stage, the
// caller's pid, and the program's own arguments.
func enterUserNS(told []string) {
	if len(told) < 3 {
		os.Exit(2)
	}
	stage, caller, args := told[0], told[1], told[2:]
	if stage == userNSWait {
		if n, err := unix.Read(fdMapped, make([]byte, 1)); n != 1 || err != nil {
			os.Exit(1) // the caller has said why
		}
		unix.Close(fdMapped)
		err := syscall.Exec("/proc/self/exe", append([]string{argvUserNS, userNSEnter, caller}, args...), os.Environ())
		fmt.Fprintln(os.Stderr, "whittle: user namespace:", err)
		os.Exit(1)
	}
	// Gaining capabilities has undone both. The thread is the process's first,
	// which Go never ends.
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	if strconv.Itoa(os.Getppid()) != caller {
		os.Exit(1) // it died before its death could be heard of
	}
	os.Args = args
}
