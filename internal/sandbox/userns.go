package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"runtime"
	"strconv"
	"strings"
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

// ReexecInUserNS runs this command line again, in a new user namespace in
// which the user is root and has the subordinate ids that /etc/subuid and
// /etc/subgid give, and in a new mount namespace. It returns the exit code;
// 128 + n when signal n ended it. The new process gets the caller's
// descriptors, terminal and signals, and dies when the caller does.
//
// An error means that nothing was run. It is a *UserNSError when the user's
// system is not set up for it.
func ReexecInUserNS() (exit int, err error) {
	uids, gids, err := subordinate()
	if err != nil {
		return 0, err
	}
	mapper, err := mappers()
	if err != nil {
		return 0, err
	}
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
	return runForwarding(cmd, func() error {
		r.Close()
		pid := cmd.Process.Pid
		if err := mapper.run("newuidmap", pid, os.Getuid(), uids); err != nil {
			return err
		}
		if err := mapper.run("newgidmap", pid, os.Getgid(), gids); err != nil {
			return err
		}
		_, err := w.Write([]byte{1})
		return errors.Join(err, w.Close())
	})
}

// runForwarding starts cmd, runs ready, passes signals on to cmd and returns
// its exit code. The thread that started cmd is kept for its parent-death
// signal.
func runForwarding(cmd *exec.Cmd, ready func() error) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sigs := make(chan os.Signal, 64)
	signal.Notify(sigs, forwarded...)
	defer signal.Stop(sigs)
	if err := cmd.Start(); err != nil {
		return 0, namespaceError(unwrapPath(err))
	}
	if err := ready(); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, err
	}
	done := make(chan struct{})
	go forward(cmd.Process, sigs, done)
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

var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGALRM,
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

// idRange is a run of subordinate ids.
type idRange struct{ start, count int64 }

// subordinate returns the user's ranges.
func subordinate() (uids, gids []idRange, err error) {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	for _, f := range []struct {
		file string
		to   *[]idRange
	}{{"/etc/subuid", &uids}, {"/etc/subgid", &gids}} {
		b, err := os.ReadFile(f.file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		*f.to = rangesOf(string(b), name, strconv.Itoa(os.Getuid()))
		if len(*f.to) == 0 {
			return nil, nil, &UserNSError{
				Msg: fmt.Sprintf("%s: no range of ids for user %s", f.file, name),
				Way: fmt.Sprintf("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", name),
			}
		}
	}
	return uids, gids, nil
}

// rangesOf reads a file as subuid(5) describes it, and returns the ranges of a
// user, who may be in it by name or by number. Lines that are no ranges are
// passed over, as newuidmap does.
func rangesOf(file, name, uid string) []idRange {
	var list []idRange
	for line := range strings.Lines(file) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != uid {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			list = append(list, idRange{int64(start), int64(count)})
		}
	}
	return list
}

// idMappers are the paths of the set-id programs that may write id maps.
type idMappers map[string]string

func mappers() (idMappers, error) {
	m := idMappers{}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, &UserNSError{
				Msg: name + ": not found; without it an unprivileged user has a single id, and images need more",
				Way: "as root: apt-get install uidmap   (Fedora: shadow-utils, Alpine: shadow-uidmap)",
			}
		}
		m[name] = path
	}
	return m, nil
}

// run maps id to 0 and the ranges to 1 and up, for the process pid.
func (m idMappers) run(name string, pid, id int, ranges []idRange) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(id), "1"}
	next := int64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatInt(next, 10), strconv.FormatInt(r.start, 10), strconv.FormatInt(r.count, 10))
		next += r.count
	}
	out, err := exec.Command(m[name], args...).CombinedOutput()
	if err == nil {
		return nil
	}
	return &UserNSError{
		Msg: fmt.Sprintf("%s %s: %v: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out)),
		Way: fmt.Sprintf("%s must be set-uid root or have the capability for it: reinstall the package uidmap; inside a container, its options may forbid it", m[name]),
	}
}

// namespaceError says what keeps the kernel from making a user namespace.
func namespaceError(err error) error {
	switch err {
	case unix.ENOSPC:
		return &UserNSError{Msg: "user namespace: the limit on their number is reached", Way: "as root: sysctl user.max_user_namespaces=15000"}
	case unix.EPERM, unix.EACCES:
		return &UserNSError{
			Msg: "user namespace: the kernel does not let this user make one",
			Way: "as root: sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); " +
				"inside a container, allow it there",
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
