// Package initproc owns the first process of a sandbox, from its start to the
// moment when it becomes the command: it reads from a socket what it is to be,
// makes mounts and rights so, and executes the command. What goes wrong it
// says on the socket.
//
// It is linked into the caller's program, which is started again to be the
// init. A process of that kind never gets to main. So that it does not have to
// initialize the whole program first, this package imports as little as it can;
// that is 2 ms a step.
package initproc

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Argv is argv[0] of an init.
const Argv = "whittle-init"

// Descriptors of an init besides stdio. The sources of mounts follow.
const (
	FDSelf   = 3 // the program
	FDSocket = 4 // to and from the caller
	FDRoot   = 5 // the root; of a join the target's pidfd
	FDMounts = 6
)

// init becomes the init of a sandbox if that is what the process was started
// for, and then never returns. It is the one init function of the program, and
// here to run before the packages that this one does not import are
// initialized, which takes longer than all the rest that an init does.
func init() {
	if len(os.Args) == 0 || os.Args[0] != Argv {
		return
	}
	runtime.LockOSThread()
	run()
	os.Exit(1)
}

// initProc is the init of a sandbox at work. What it sets of itself (user,
// capabilities, filter) is set for its one locked thread only: execve(2) ends
// all others and keeps that thread's.
type initProc struct {
	*Setup
	kernel *kernelFS // nil until it is made
	root   root
	dev    int // the mount, by its top directory
}

func run() {
	// Not by SysProcAttr.Pdeathsig: for it package syscall compares the parent's
	// pid, which is 0 as seen from another pid namespace. If the caller has
	// ended before this, the socket has too.
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	unix.Umask(0) // before anything is made: the caller's is nobody's in here
	kernel, failed := kernelAhead(os.Args)
	s, err := readSetup()
	if err != nil { // the caller is gone, and hears nothing
		tell(encodeStartError(&StartError{Op: "exec", Err: fmt.Errorf("init: %w", err)}))
		return
	}
	p := &initProc{Setup: s, kernel: kernel}
	if err = failed; err == nil {
		err = p.run()
	}
	if err != nil {
		var se *StartError
		if !errors.As(err, &se) {
			se = &StartError{Op: "exec", Path: s.Args[0], Err: err}
		}
		tell(encodeStartError(se))
	}
}

// readSetup reads what the caller sends first: the length of the Setup, and
// the Setup. An init that was started before they were known gets the root and
// what is mounted with it.
func readSetup() (*Setup, error) {
	head := make([]byte, binary.MaxVarintLen64)
	oob := make([]byte, unix.CmsgSpace(MaxPassed*4))
	n, oobn, _, _, err := unix.Recvmsg(FDSocket, head, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	size, used := binary.Varint(head[:n])
	if used <= 0 || size < 0 || size > 1<<28 || int64(n-used) > size {
		return nil, errShort
	}
	b := make([]byte, size)
	sock := os.NewFile(FDSocket, "caller")
	runtime.SetFinalizer(sock, nil)
	if _, err := io.ReadFull(sock, b[copy(b, head[used:n]):]); err != nil {
		return nil, err
	}
	s, err := decodeSetup(b)
	if err != nil {
		return nil, err
	}
	return s, s.found(oob[:oobn])
}

// MaxPassed is how many descriptors a message may have: SCM_MAX_FD of unix(7).
const MaxPassed = 253

// found puts the numbers of the descriptors that came with a Setup in the place
// of those that they would have had from the start.
func (s *Setup) found(oob []byte) error {
	s.rootFD = FDRoot
	if len(oob) == 0 {
		return nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(list) != 1 {
		return cmp.Or(err, errShort)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil {
		return err
	}
	for i := range s.Mounts {
		if fd := &s.Mounts[i].FD; *fd >= FDMounts && *fd-FDRoot < len(fds) {
			*fd = fds[*fd-FDRoot]
		}
	}
	s.rootFD = fds[0]
	return nil
}

// tell sends a report to the caller. If the caller is gone, so is this process.
func tell(b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(FDSocket, b)
		if err != nil && err != unix.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}

func (p *initProc) run() error {
	for fd := FDSelf; fd < FDMounts+len(p.Mounts); fd++ {
		unix.CloseOnExec(fd)
	}
	enter := p.makeRoot
	switch {
	case p.Join != 0:
		enter = p.joinNamespaces
	case p.Chroot:
		enter = p.enterRoot
	}
	if err := enter(); err != nil {
		return err
	}
	if err := p.ownNull(); err != nil {
		return startError("mount", "/dev/null", err)
	}
	who, err := p.identity()
	if err != nil {
		return startError("user", p.User, err)
	}
	p.Env = withHome(p.Env, who.home)
	op := "tty"
	if p.TTY {
		err = p.terminal(who)
	} else {
		op = "pipe"
		err = ownPipes(who)
	}
	if err != nil {
		return who.explain(op, err)
	}
	if err := p.chdir(who); err != nil {
		return startError("dir", p.Dir, err)
	}
	unix.Umask(0o022)
	// Nothing but the socket may be open while the process has the rights of
	// the command but not yet its program.
	if err := closeFrom(FDSocket + 1); err != nil {
		return err
	}
	unix.Close(FDSelf)
	if err := p.limit(); err != nil {
		return err
	}
	if err := p.confine(who); err != nil {
		return who.explain("user", err)
	}
	return p.exec()
}

func closeFrom(fd uint) error {
	return unix.CloseRange(fd, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
}

// chdir enters the working directory, and makes it if it does not exist, but
// not for a process that joins a sandbox. The way there is not taken by the kernel's rules but by the root's, so that it
// cannot lead out through a descriptor in /proc (CVE-2024-21626).
func (p *initProc) chdir(who identity) error {
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	place := func() (int, error) { return p.root.open(dir, unix.O_PATH) }
	if p.Join == 0 {
		place = func() (int, error) { return p.workDir(dir, who) }
	}
	fd, err := place()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchdir(fd); err != nil {
		return err
	}
	wd, err := unix.Getwd()
	if err != nil || !strings.HasPrefix(wd, "/") {
		return errors.New("it is outside the root")
	}
	if p.Chroot && strings.HasPrefix(wd, "/proc/") {
		return unix.ENOENT // what lies there stands for something else
	}
	return nil
}

// workDir opens dir, which it makes, who's, where it does not exist.
func (p *initProc) workDir(dir string, who identity) (int, error) {
	m := maker{root: p.root, mode: 0o755, made: func(parent int, physical string, _ bool, _ int64) error {
		return unix.Fchownat(parent, path.Base(physical), who.uid, who.gid, unix.AT_SYMLINK_NOFOLLOW)
	}}
	return m.place(dir, true)
}

// exec becomes the command. The order of what can go wrong is that of a shell.
func (p *initProc) exec() error {
	name := p.Args[0]
	file, err := lookPath(name, p.Env)
	if err != nil {
		return &StartError{Op: "exec", Path: name, Err: err, Found: elsewhere(name)}
	}
	// Changing the user has cleared it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if callerGone() {
		os.Exit(1)
	}
	err = syscall.Exec(file, p.Args, p.Env)
	e := &StartError{Op: "exec", Path: file, Err: err}
	explainExec(e)
	return e
}

// callerGone reports whether the other end of the socket is closed: the caller
// may have ended before its death could be heard of.
func callerGone() bool {
	fds := []unix.PollFd{{Fd: FDSocket, Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
