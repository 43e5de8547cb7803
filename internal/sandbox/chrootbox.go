package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
	"github.com/whittle-build/whittle/internal/sandbox/supervisor"
)

// box is the process between the caller and the command; see Chroot.
type box struct {
	*order
	fit   *fitting
	self  *os.File
	proc  *os.Process // the init
	ended chan struct{}
	once  sync.Once
}

// runBox is the box.
func runBox() {
	// The thread that starts the init lives as long as the process.
	runtime.LockOSThread()
	// Not by signal.Ignore: what a process ignores, the programs that it starts do too
	// (signal(7)).
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	for fd := fdBoxSelf; fd <= fdBoxOrder; fd++ {
		unix.CloseOnExec(fd)
	}
	b := &box{self: os.NewFile(fdBoxSelf, "whittle"), ended: make(chan struct{})}
	w := b.run()
	if err := b.fit.undo(); err != nil {
		w.Err = err.Error()
	}
	say(fdBoxSocket, w, -1)
}

// run runs the command and returns the last word. When it returns, no process
// of the step is left.
func (b *box) run() *word {
	fail := func(err error) *word { return &word{Report: initproc.EncodeError(err)} }
	if err := b.prepare(); err != nil {
		return fail(err)
	}
	b.fit = &fitting{}
	served, err := b.fit.all(b.order)
	if err != nil {
		return fail(err)
	}
	sock, err := b.startInit()
	if err != nil {
		return fail(err)
	}
	defer b.killAll()
	if err := say(fdBoxSocket, &word{Pid: b.proc.Pid}, -1); err != nil {
		return fail(err)
	}
	if w, _, err := hear(fdBoxSocket); err != nil || !w.Go {
		return fail(errors.New("the caller is gone"))
	}
	go b.attend()
	return b.watch(sock, served)
}

// prepare reads the order and makes this process what the rest relies on.
func (b *box) prepare() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return &StartError{Op: "exec", Err: err}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return &StartError{Op: "exec", Err: err}
	}
	unix.Umask(0)
	f := os.NewFile(fdBoxOrder, "order")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	b.order = &order{}
	err := json.NewDecoder(f).Decode(b.order)
	for fd := fdBoxHeld; fd < fdBoxHeld+b.Held; fd++ {
		unix.CloseOnExec(fd)
	}
	return err
}

// startInit starts the init, which waits for its Setup.
func (b *box) startInit() (*os.File, error) {
	sock, peer, err := socketPair()
	if err != nil {
		return nil, &StartError{Op: "exec", Err: err}
	}
	defer peer.Close()
	std := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if b.TTY {
		slave, err := b.terminal()
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		std = []*os.File{slave, slave, slave}
	}
	p, err := os.StartProcess("/proc/self/fd/3", []string{initproc.Argv}, &os.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"},
		Files: append(std, b.self, peer, b.fit.root.Dir()),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, &StartError{Op: "exec", Err: unwrapPath(err)}
	}
	b.proc = p
	return sock, nil
}

// terminal makes a terminal of the machine, and gives the caller its side.
func (b *box) terminal() (*os.File, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &StartError{Op: "tty", Path: "/dev/ptmx", Err: err}
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, &StartError{Op: "tty", Err: err}
	}
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return nil, &StartError{Op: "tty", Err: e}
	}
	return os.NewFile(fd, "terminal"), say(fdBoxSocket, &word{}, master)
}

// attend hears the caller until it is gone, and then kills the step.
func (b *box) attend() {
	for {
		w, _, err := hear(fdBoxSocket)
		if err != nil {
			break
		}
		if w.Signal != 0 {
			b.proc.Signal(w.Signal) // through its pidfd: never another process
		}
	}
	b.kill()
}

// kill kills all processes of the step until none is left. It may be called
// more than once.
func (b *box) kill() {
	b.once.Do(func() {
		go func() {
			for {
				for _, pid := range supervisor.Descendants(os.Getpid()) {
					unix.Kill(pid, unix.SIGKILL)
				}
				select {
				case <-b.ended:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
	})
}

// killAll is kill, and returns when it is done.
func (b *box) killAll() {
	b.kill()
	b.reap(nil)
}

// reap waits for all children, which includes whom they left. It tells how the
// init ended.
func (b *box) reap(told func(unix.WaitStatus)) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // ECHILD
			break
		}
		if pid == b.proc.Pid && told != nil {
			told(ws)
		}
	}
	select {
	case <-b.ended:
	default:
		close(b.ended)
	}
}

// watch sees to it that the init becomes the command, answers its calls, and
// returns when it and all that it started are dead.
func (b *box) watch(sock *os.File, served *supervisor.Config) *word {
	report := make(chan []byte, 1)
	go func() { report <- b.talk(sock, served) }()
	var status *Status
	b.reap(func(ws unix.WaitStatus) {
		status = &Status{Code: ws.ExitStatus()}
		if ws.Signaled() {
			status = &Status{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
		}
		b.kill()
	})
	if all := <-report; all != nil {
		return &word{Report: all}
	}
	return &word{Status: status}
}

// talk gives the init its Setup and serves what its filter notifies. It
// returns nil when the init has become the command, and else what it said.
func (b *box) talk(sock *os.File, served *supervisor.Config) []byte {
	fail := func(err error) []byte {
		b.kill()
		return initproc.EncodeError(&StartError{Op: "exec", Path: string(b.Command), Err: err})
	}
	server, err := supervisor.New(*served)
	if err != nil {
		return fail(err)
	}
	if _, err := sock.Write(b.Setup); err != nil {
		return fail(err)
	}
	var all []byte
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(int(sock.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail(err)
		}
		if n == 0 {
			break
		}
		all = append(all, buf[:n]...)
		if fd := passedFD(oob[:oobn]); fd >= 0 {
			go server.Serve(fd)
		}
	}
	r, err := initproc.DecodeReport(all)
	switch {
	case err != nil:
		return fail(err)
	case r.Err != nil:
		return all
	case !strings.HasPrefix(string(all), string(initproc.Listening())):
		return fail(errors.New("the init ended before it was the command"))
	}
	say(fdBoxSocket, &word{Ran: true}, -1)
	return nil
}
