package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// The mode Chroot is for a container with the rights that Docker gives by
// default: it may not make namespaces or mount anything, but it may chroot and
// supervise system calls. Between the caller and the command stands one more
// process, the box: it fits the root, starts the init and answers its calls,
// reaps and kills what the step leaves, and puts all back. When the caller
// ends, however that was, the box does so at once.
//
// In this mode, of Config:
//
//   - Root is a directory that nobody else uses while the process runs. What is
//     put into it (/proc, /sys, /dev, mount points, /etc/hosts) is gone
//     afterwards, and what lay there is back, with the times of the folders.
//   - Scratch must be given.
//   - A Mount with Path that is not ReadOnly is moved to its place and back: it
//     must be on the root's file system and the process's alone. Were the box
//     killed, or the machine, it would stay in the root.
//   - A Mount with Path that is ReadOnly is copied, and what the process does
//     to the copy is lost; only of a single file is it refused. Who has a folder
//     to give away gives it without ReadOnly, and saves the copy.
//   - A tmpfs is a folder on the disk: its mode and owner hold, its size does
//     not. The same goes for ShmSize.
//   - A Mount with Content is in memory as ever. Only calls that name it see it;
//     who looks into its folder sees an empty file.
//   - Mount.File, Insecure, ReadOnlyRoot, Emulator and every Network but the
//     caller's are a StartError with Op "isolation". Hostname is in /etc/hosts
//     only.
//   - NoNewPrivs is always set.

// argvBox is argv[0] of a box.
const argvBox = "whittle-box"

// Descriptors of a box.
const (
	fdBoxSelf = iota + 3
	fdBoxSocket
	fdBoxRoot
	fdBoxScratch
	fdBoxOrder
	fdBoxHeld // and those that follow
)

// order is what a box is told. What may be no UTF-8 is in bytes, or JSON would
// change it.
type order struct {
	Setup             []byte // for the init
	Command           []byte
	TTY               bool
	Mounts            []boxMount
	Hosts, ResolvConf []byte
	Etc, EtcRO        bool
	Held              int
}

// boxMount is a Mount without what a box does not take.
type boxMount struct {
	Target, Path, Sub []byte
	ReadOnly          bool
	Options           []string
	Content           *Content
}

// word is what a box tells its caller, and, of Go and Signal, is told.
type word struct {
	Pid    int     `json:",omitempty"` // the process is born
	Report []byte  `json:",omitempty"` // how the init fared
	Ran    bool    `json:",omitempty"` // it became the command
	Status *Status `json:",omitempty"` // how it ended
	Err    string  `json:",omitempty"` // what could not be put back

	Go     bool           `json:",omitempty"`
	Signal syscall.Signal `json:",omitempty"`
}

// startChroot is Start for the mode Chroot.
func startChroot(ctx context.Context, c *Config) (*Process, error) {
	if err := chrootable(c); err != nil {
		return nil, err
	}
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	o := &order{Held: len(c.Held), Command: []byte(c.Args[0]), TTY: c.TTY, Hosts: []byte(s.Hosts), ResolvConf: []byte(s.ResolvConf), Etc: s.Etc, EtcRO: s.EtcRO}
	s.Chroot, s.NoNewPrivs, s.Etc = true, true, false
	s.Hosts, s.ResolvConf = "", ""
	if s.Filter, err = chrootFilter(); err != nil {
		return nil, &StartError{Op: "seccomp", Err: err}
	}
	o.Setup = s.Message()
	for _, m := range c.Mounts {
		o.Mounts = append(o.Mounts, boxMount{[]byte(m.Target), []byte(m.Path), []byte(m.Sub), m.ReadOnly, m.Options, m.Content})
	}
	files, err := boxFiles(c, o)
	defer closeAll(files)
	if err != nil {
		return nil, err
	}
	p := &Process{ended: make(chan struct{})}
	started := make(chan error, 1)
	go p.inBox(ctx, c, files, started)
	return p, <-started
}

// refusal is the error of what a chroot cannot give.
func refusal(what, why string) error {
	return &StartError{Op: "isolation", Path: what, Err: errors.New(why)}
}

// chrootable refuses what would be left undone.
func chrootable(c *Config) error {
	switch {
	case c.Insecure:
		return refusal("security=insecure", "a chroot gives no more rights than the container around it has")
	case c.Network != "" && c.Network != NetworkHost:
		return refusal("network="+c.Network, "a chroot has the network of the container around it")
	case c.ReadOnlyRoot:
		return refusal("read-only root", "a chroot can be written to")
	case slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.File != nil }):
		return refusal("mount", "a chroot has no mounts: give a path")
	case c.Emulator != nil:
		return refusal("emulator", "a chroot has no emulator of its own: register one for the whole machine")
	case c.Root == nil:
		return &StartError{Op: "root", Err: errors.New("none given")}
	case c.Scratch == "":
		return &StartError{Op: "root", Err: errors.New("no scratch folder given")}
	}
	return nil
}

// boxFiles opens what a box inherits besides its socket, in the order of the
// descriptors.
func boxFiles(c *Config, o *order) ([]*os.File, error) {
	var files []*os.File
	// What a step could reach of its init's program, to write to it, it cannot
	// in a chroot without a /proc: a mount that nobody can write to is not needed.
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return files, &StartError{Op: "exec", Path: "/proc/self/exe", Err: unwrapPath(err)}
	}
	files = append(files, exe)
	scratch, err := os.OpenFile(c.Scratch, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return files, &StartError{Op: "root", Path: c.Scratch, Err: unwrapPath(err)}
	}
	files = append(files, scratch)
	b, err := json.Marshal(o)
	if err != nil {
		return files, err
	}
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return files, &StartError{Op: "exec", Err: err}
	}
	f := os.NewFile(uintptr(fd), "order")
	files = append(files, f)
	if _, err := f.WriteAt(b, 0); err != nil {
		return files, &StartError{Op: "exec", Err: err}
	}
	return files, nil
}

// inBox is the life of a process in a box, seen from the caller.
func (p *Process) inBox(ctx context.Context, c *Config, files []*os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	oom := newKillings(c.Cgroup)
	cmd, err := p.startBox(ctx, c, files)
	if err != nil {
		p.err = err
		started <- err
		return
	}
	defer p.box.Close()
	ran := false
	for {
		w, fd, err := hear(int(p.box.Fd()))
		if fd >= 0 {
			p.tty.close()
			p.tty = newTerminal(fd)
		}
		if err != nil {
			break
		}
		switch {
		case w.Pid != 0:
			p.boxed.Store(int64(w.Pid))
			if err := c.Cgroup.add(w.Pid); err != nil && c.Cgroup != nil {
				p.err = err
				p.box.Close()
				break
			}
			say(int(p.box.Fd()), &word{Go: true}, -1)
		case w.Ran:
			ran = true
			p.tty = p.tty.begin(c)
			started <- nil
		case w.Report != nil:
			r, derr := initproc.DecodeReport(w.Report)
			p.err = derr
			if r.Err != nil {
				p.err = r.Err
			}
		case w.Status != nil:
			p.status = *w.Status
		}
		if w.Err != "" {
			p.err = errors.Join(p.err, errors.New(w.Err))
		}
	}
	p.endBox(ctx, cmd, ran, oom)
	if !ran {
		started <- p.err
	}
}

// endBox waits for the box, which ends after all else.
func (p *Process) endBox(ctx context.Context, cmd *exec.Cmd, ran bool, oom *killings) {
	err := cmd.Wait()
	p.tty.finish()
	oom.judge(&p.status)
	var exit *exec.ExitError
	switch {
	case context.Cause(ctx) != nil && (!ran || p.status.Signal == syscall.SIGKILL):
		p.err = context.Cause(ctx)
	case errors.As(err, &exit) && oom.more():
		p.err = errors.Join(p.err, ErrMemory)
	case errors.As(err, &exit):
		p.err = errors.Join(p.err, fmt.Errorf("the step's supervisor: %w", exit))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		p.err = errors.Join(p.err, err)
	case !ran && p.err == nil:
		p.err = &StartError{Op: "exec", Err: errors.New("it ended before it was the command")}
	}
}

func (p *Process) startBox(ctx context.Context, c *Config, files []*os.File) (*exec.Cmd, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &StartError{Op: "exec", Err: err}
	}
	p.box = os.NewFile(uintptr(fds[0]), "box")
	its := os.NewFile(uintptr(fds[1]), "caller")
	defer its.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3")
	cmd.Args = []string{argvBox}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{files[0], its, c.Root, files[1], files[2]}, c.Held...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Never killed: it has all to put back. It kills the step when it hears no
	// more from here.
	cmd.Cancel = func() error { return unix.Shutdown(int(fds[0]), unix.SHUT_WR) }
	feed := func(bool) {}
	if !c.TTY {
		cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
		if feed, err = stdin(cmd, c.Stdin); err != nil {
			p.box.Close()
			return nil, &StartError{Op: "exec", Err: err}
		}
	}
	err = cmd.Start()
	feed(err == nil)
	if err != nil {
		p.box.Close()
		return nil, &StartError{Op: "exec", Err: unwrapPath(err)}
	}
	p.proc = cmd.Process
	return cmd, nil
}

// say sends w, and the descriptor fd if it is not negative.
func say(sock int, w *word, fd int) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	return unix.Sendmsg(sock, b, oob, nil, unix.MSG_NOSIGNAL)
}

// maxWord is larger than all that is said.
const maxWord = 128 << 10

// hear waits for a word and the descriptor that came with it, or -1. When the
// other side has closed, the error is io.EOF or one of the socket's.
func hear(sock int) (*word, int, error) {
	buf, oob := make([]byte, maxWord), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, -1, err
		}
		if n == 0 {
			return nil, -1, unix.EPIPE
		}
		w := &word{}
		return w, passedFD(oob[:oobn]), json.Unmarshal(buf[:n], w)
	}
}
