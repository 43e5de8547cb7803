package sandbox

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// Where the kernel lets nobody mount a /proc of a new pid namespace, in a user
// namespace whose own /proc is masked as in most containers, a sandbox has the
// caller's pid namespace and a view of its /proc. What the end of a pid
// namespace does is then done by one more process, the reaper, between the
// caller and the init: it is what the sandbox's orphans become children of, it
// waits for them, and when the command ends, or the caller does, it kills what
// is left before it ends itself.
//
// The command may see other processes there, and as their user send them
// signals: so it may kill its reaper. Then the caller is next in line, and kills
// what is left by its mount namespace, which a command cannot leave.

// procRefused remembers that a /proc of a new pid namespace was refused, so
// that only the process's first sandbox pays for the attempt.
var procRefused = new(atomic.Bool)

// isProcRefused reports whether err is that refusal.
func isProcRefused(err error) bool {
	var start *StartError
	return InUserNS() && errors.As(err, &start) && start.Op == "mount" && start.Path == "/proc" && errors.Is(start.Err, unix.EPERM)
}

// throughReaper makes cmd, that starts an init, start a reaper that starts it.
// The status of the command comes out of the file returned.
func throughReaper(cmd *exec.Cmd) (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Args = []string{argvReaper, strconv.Itoa(len(cmd.ExtraFiles)), strconv.FormatUint(uint64(cmd.SysProcAttr.Cloneflags), 10)}
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	cmd.SysProcAttr.Cloneflags = 0
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	return r, nil
}

// runReaper is the reaper: args are the number of descriptors for the init, and
// the namespaces that it gets.
func runReaper(args []string) {
	if len(args) != 2 {
		os.Exit(2)
	}
	n, _ := strconv.Atoi(args[0])
	flags, _ := strconv.ParseUint(args[1], 10, 64)
	// The caller may have ended before its death can be heard of; then the socket
	// is closed, and the wait for it fails.
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	if !awaitCaller() {
		os.Exit(1)
	}
	files := make([]*os.File, n)
	for i := range files {
		unix.CloseOnExec(3 + i)
		files[i] = os.NewFile(uintptr(3+i), "")
	}
	unix.CloseOnExec(3 + n)
	cmd := exec.Command("/proc/self/fd/3")
	cmd.Args = []string{initproc.Argv}
	cmd.Env = os.Environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flags), Setsid: true}
	if err := cmd.Start(); err != nil {
		unix.Write(initproc.FDSocket, initproc.Refused(unwrapPath(err)))
		os.Exit(1)
	}
	closeAll(files)
	closeAll([]*os.File{os.Stdin, os.Stdout, os.Stderr}) // whoever reads them waits for all who can write
	go func() {
		<-stop
		unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	}()
	status := reap(cmd.Process.Pid)
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(status))
	unix.Write(3+n, b[:])
}

// awaitCaller waits until the caller has told the init its work: by then this
// process is in its control group, and so will the init be.
func awaitCaller() bool {
	p := []unix.PollFd{{Fd: initproc.FDSocket, Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, -1)
		if err == nil {
			return p[0].Revents&unix.POLLIN != 0
		}
		if !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// reap waits for all children, kills those that outlive the process pid, and
// returns how that one ended.
func reap(pid int) (end syscall.WaitStatus) {
	ended := false
	for {
		flags := 0
		if ended {
			// Who forks while he is killed has children that come here in turn.
			killChildren()
			flags = syscall.WNOHANG
		}
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, flags, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return end
		case got == pid:
			end, ended = ws, true
		case got == 0:
			time.Sleep(time.Millisecond)
		}
	}
}

// killChildren kills the children of this process.
func killChildren() {
	eachProcess(func(pid int) {
		if parentOf(pid) == os.Getpid() {
			unix.Kill(pid, unix.SIGKILL) // a child of this process until that has waited for it: it is no other
		}
	})
}

// endMountNamespace kills every process of a mount namespace.
func endMountNamespace(id uint64) {
	for found := id != 0; found; {
		found = false
		eachProcess(func(pid int) {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/mnt", &st) != nil || st.Ino != id {
				return
			}
			found = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
		})
	}
}

// eachProcess calls fn for the processes that can be seen.
func eachProcess(fn func(pid int)) {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			fn(pid)
		}
	}
}

// parentOf returns the parent of a process, 0 when there is none to see.
func parentOf(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name, in brackets, may be anything.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}
