package sandbox

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// argv[0] of the other processes that are this program.
const (
	argvUserNS = "whittle-userns"
	argvKeeper = "whittle-keeper"
	argvReaper = "whittle-reaper"
	argvProbe  = "whittle-probe"
	argvPasta  = "whittle-pasta"
)

// Start starts c's process. When it returns without an error, the process
// runs c.Args. When ctx ends, all processes of the sandbox are killed.
func Start(ctx context.Context, c *Config) (*Process, error) {
	if c.Isolation.Mode == Chroot {
		return startChroot(ctx, c)
	}
	if c.Isolation.Mode == OCI {
		return startOCI(ctx, c)
	}
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	files, err := sources(c, s)
	defer closeAll(files)
	if err != nil {
		return nil, err
	}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if s.OwnNet {
		flags |= unix.CLONE_NEWNET
	}
	l := &launch{config: c, setup: s, files: files, cloneflags: uintptr(flags | unix.CLONE_NEWPID)}
	if !procRefused.Load() {
		p, err := startInRoot(ctx, l)
		if !isProcRefused(err) {
			return p, err
		}
		procRefused.Store(true)
	}
	if s.Emulator != nil {
		return nil, &StartError{Op: "emulator", Err: errors.New("it needs a pid namespace, which this container does not allow")}
	}
	l.cloneflags = uintptr(flags)
	s.SharedPIDs = true
	return startInRoot(ctx, l)
}

// startInRoot starts l's init, in the root that the configuration names.
func startInRoot(ctx context.Context, l *launch) (*Process, error) {
	rootFD, err := unix.FcntlInt(l.config.Root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &StartError{Op: "root", Err: err}
	}
	p := &Process{root: os.NewFile(uintptr(rootFD), "root"), ended: make(chan struct{})}
	if l.setup.Emulator != nil {
		if err := l.ownUserNS(); err != nil {
			return nil, &StartError{Op: "namespace", Path: "user", Err: err}
		}
	}
	if err := p.start(ctx, l); err != nil {
		p.root.Close()
		return nil, err
	}
	return p, nil
}

// newSetup is what an init has to know of c, all but descriptors.
func newSetup(c *Config) (*initproc.Setup, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return nil, &StartError{Op: "exec", Err: errors.New("no command")}
	}
	for _, list := range [][]string{c.Args, c.Env, {c.Dir, c.User, c.Hostname}} {
		for _, v := range list {
			if strings.IndexByte(v, 0) >= 0 {
				return nil, &StartError{Op: "exec", Path: c.Args[0], Err: fmt.Errorf("%q: a zero byte", v)}
			}
		}
	}
	s := &initproc.Setup{
		Args: c.Args, Env: c.Env, Dir: c.Dir, User: c.User, Hostname: c.Hostname,
		Etc: c.ResolvConf, EtcRO: c.ReadOnlyEtc, ShmSize: c.ShmSize,
		ReadOnly: c.ReadOnlyRoot, NoNewPrivs: c.NoNewPrivs, TTY: c.TTY,
		Insecure: c.Insecure, Rlimits: c.Rlimits,
	}
	if s.Hostname == "" {
		s.Hostname = DefaultHostname
	}
	switch c.Network {
	case "", NetworkHost:
	case NetworkNone, NetworkPrivate, NetworkPasta:
		s.OwnNet = true
	default:
		return nil, &StartError{Op: "namespace", Path: "network", Err: fmt.Errorf("%q: unknown mode", c.Network)}
	}
	if s.Etc {
		s.Hosts = hostsFile(s.Hostname, c.Hosts)
		s.ResolvConf = hostResolvConf()
		if c.Network == NetworkPasta {
			s.ResolvConf = pastaResolvConf(s.ResolvConf)
		}
	}
	return s, nil
}

// sources opens what an init inherits: the program, its root and what it
// binds, in the order of the descriptors, the socket left out.
func sources(c *Config, s *initproc.Setup) ([]*os.File, error) {
	exe, err := self()
	if err != nil {
		return nil, &StartError{Op: "exec", Path: "/proc/self/exe", Err: err}
	}
	files := []*os.File{exe}
	if c.Root == nil {
		return files, &StartError{Op: "root", Err: errors.New("none given")}
	}
	f, err := cloneMount(c.Root)
	if err != nil {
		return files, &StartError{Op: "root", Err: err}
	}
	files = append(files, f)
	for _, m := range c.Mounts {
		sm := initproc.Mount{Target: m.Target, FD: -1, Sub: m.Sub, ReadOnly: m.ReadOnly, Options: m.Options, File: m.Content}
		if m.File != nil || m.Path != "" {
			f, err := mountSource(m)
			if err != nil {
				return files, &StartError{Op: "mount", Path: m.Target, Err: err}
			}
			sm.FD = initproc.FDMounts + len(files) - 2
			files = append(files, f)
		}
		s.Mounts = append(s.Mounts, sm)
	}
	if c.Emulator != nil {
		if files, err = c.Emulator.bring(files, s); err != nil {
			return files, &StartError{Op: "emulator", Err: err}
		}
	}
	return files, nil
}

func mountSource(m Mount) (*os.File, error) {
	if m.File != nil {
		return cloneMount(m.File)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path, err)
	}
	return os.NewFile(uintptr(fd), m.Path), nil
}

// cloneMount makes a detached mount of what f is. Only a mount namespace's own
// process may do so, hence not the init.
func cloneMount(f *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err == unix.EINVAL {
		// Detached mounts can be cloned since Linux 6.15; before, the init
		// gets the mount itself.
		fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// launch is one start of an init.
type launch struct {
	config     *Config
	setup      *initproc.Setup
	files      []*os.File // as sources returns them
	cloneflags uintptr
	ids        ownMap       // of a user namespace of the init's own
	before     func() error // runs on the thread that starts the init

	argv  string   // argv[0], where it is not an init
	order []byte   // what that one is told besides setup
	dirs  []string // control groups that the keeper removes
}

// group is what the process is a member of itself: an OCI runtime makes what it
// starts a member of the rest.
func (l *launch) group() *Cgroup {
	if l.argv != "" {
		return l.config.Cgroup.beside()
	}
	return l.config.Cgroup
}

// start starts the init and returns when it has become the command.
func (p *Process) start(ctx context.Context, l *launch) error {
	started := make(chan error, 1)
	spares := l.config.Spares
	if !spares.take(&claim{p, ctx, l, started}) {
		go p.supervise(ctx, l, nil, started)
	}
	spares.prepare(l)
	return <-started
}

// supervise is the process's life. The kernel kills the process when the
// thread that started it ends (prctl(2), PR_SET_PDEATHSIG), and Go ends a
// thread whose goroutine was locked to it, so this thread is kept for as long
// as the process runs.
//
// With a spare the init is there already, of this thread.
func (p *Process) supervise(ctx context.Context, l *launch, sp *spare, started chan<- error) {
	runtime.LockOSThread()
	defer close(p.ended)
	if l.before == nil {
		defer runtime.UnlockOSThread()
	} else if err := l.before(); err != nil {
		started <- err
		return
	}
	oom := l.killings()
	cmd, err := p.launch(ctx, l, sp, oom)
	started <- err
	if err != nil {
		p.err = err
		return
	}
	p.wait(ctx, cmd, oom)
}

// prepared is the init that is to be started, with its end of the socket.
func (p *Process) prepared(ctx context.Context, l *launch, peer *os.File) (*exec.Cmd, error) {
	cmd := initCommand(ctx, []string{cmp.Or(l.argv, initproc.Argv)}, append([]*os.File{l.files[0], peer}, l.files[1:]...),
		&syscall.SysProcAttr{Cloneflags: l.cloneflags, Setsid: true, UidMappings: l.ids.uids, GidMappings: l.ids.gids, GidMappingsEnableSetgroups: l.ids.groups})
	l.group().born(cmd.SysProcAttr)
	if l.setup.SharedPIDs {
		var err error
		if p.reaped, err = throughReaper(cmd); err != nil {
			return nil, &StartError{Op: "namespace", Err: err}
		}
	}
	return cmd, nil
}

// initCommand is the start of an init: files are the program, the init's end of
// the socket, and what else it inherits.
func initCommand(ctx context.Context, args []string, files []*os.File, attr *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3")
	cmd.Args = args
	cmd.Env = []string{"GOMAXPROCS=1"} // the init's own; the command never sees it
	cmd.ExtraFiles, cmd.SysProcAttr = files, attr
	return cmd
}

// begin starts the init, which waits for what it is told through the socket.
func (p *Process) begin(ctx context.Context, l *launch) (cmd *exec.Cmd, sock *os.File, err error) {
	sock, peer, err := socketPair()
	if err != nil {
		return nil, nil, &StartError{Op: "exec", Err: err}
	}
	defer peer.Close()
	defer func() {
		if err != nil {
			sock.Close()
		}
	}()
	if cmd, err = p.prepared(ctx, l, peer); err != nil {
		return nil, nil, err
	}
	feed := func(bool) {}
	if !l.config.TTY {
		cmd.Stdout, cmd.Stderr = l.config.Stdout, l.config.Stderr
		if feed, err = stdin(cmd, l.config.Stdin); err != nil {
			return nil, nil, &StartError{Op: "exec", Err: err}
		}
	}
	err = cmd.Start()
	feed(err == nil)
	if p.reaped != nil {
		cmd.ExtraFiles[len(cmd.ExtraFiles)-1].Close()
	}
	if err != nil {
		p.reaped.Close() // nil.Close is an error and no more
		return nil, nil, &StartError{Op: "namespace", Err: unwrapPath(err)}
	}
	return cmd, sock, nil
}

func (p *Process) launch(ctx context.Context, l *launch, sp *spare, oom *killings) (cmd *exec.Cmd, err error) {
	var sock *os.File
	var passed []*os.File
	if sp != nil {
		cmd, sock, passed = sp.cmd, sp.sock, l.files[1:]
	} else if cmd, sock, err = p.begin(ctx, l); err != nil {
		return nil, err
	}
	defer sock.Close()
	p.proc = cmd.Process
	var r initproc.Report
	var tty *terminal
	if err = l.group().add(p.proc.Pid); err == nil {
		r, tty, err = p.talk(ctx, sock, l, passed)
	}
	if err == nil && r.Err != nil {
		err = r.Err
	}
	p.stubs = r.Stubs
	if p.reaped != nil {
		err = errors.Join(err, p.listen(&r))
	}
	if err != nil {
		sock.Close()
		p.kill() // if it does not end by itself
		werr := cmd.Wait()
		p.reap(cmd)
		tty.close()
		var net *NetworkError
		if r.Err == nil && !errors.As(err, &net) {
			err = notBegun(l.config.Args[0], err, werr, oom)
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, errors.Join(err, p.clean())
	}
	p.tty = tty.begin(l.config)
	return cmd, nil
}

// stdin gives in to cmd, through a pipe if it is no file. Package exec would
// wait for the end of in when the process has ended long ago. What it returns
// must be called when cmd has been started, or has not: the copying ends with
// in, or with the first byte after the process's end.
func stdin(cmd *exec.Cmd, in io.Reader) (feed func(started bool), err error) {
	if f, ok := in.(*os.File); ok || in == nil {
		if f != nil {
			cmd.Stdin = f
		}
		return func(bool) {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin = r
	return func(started bool) {
		r.Close()
		if !started {
			w.Close()
			return
		}
		go func() {
			io.Copy(w, in)
			w.Close()
		}()
	}, nil
}

func (p *Process) wait(ctx context.Context, cmd *exec.Cmd, oom *killings) {
	err := cmd.Wait()
	p.tty.finish()
	ws := p.ending(p.reap(cmd))
	switch {
	case ws.Signaled():
		p.status = Status{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	default:
		p.status.Code = ws.ExitStatus()
	}
	oom.judge(&p.status)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	if cause := context.Cause(ctx); cause != nil && p.status.Signal == syscall.SIGKILL {
		err = cause
	}
	p.err = errors.Join(err, p.clean(), p.group.remove())
}

// kill ends the process and, with it or soon after it, all that it started.
func (p *Process) kill() {
	if p.reaped != nil {
		p.proc.Signal(unix.SIGTERM)
		return
	}
	p.proc.Kill()
}

// reap returns how the command ended, when cmd has been waited for.
func (p *Process) reap(cmd *exec.Cmd) syscall.WaitStatus {
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if p.reaped == nil {
		return ws
	}
	if said, ok := <-p.said; ok {
		return said
	}
	return ws
}

// listen hears from the reaper how the command ended, whose process it takes
// from the init's report. What others started in the sandbox is ended here, and
// all that is left of it when the reaper says nothing because it was killed: the
// command's output ends only when all who can write to it have.
func (p *Process) listen(r *initproc.Report) (err error) {
	if r.Pid != 0 {
		p.command, err = os.FindProcess(r.Pid)
	}
	p.said = make(chan syscall.WaitStatus, 1)
	go func() {
		defer close(p.said)
		defer p.reaped.Close()
		var b [4]byte
		_, err := io.ReadFull(p.reaped, b[:])
		endMountNamespace(r.MountNS)
		if err == nil {
			p.said <- syscall.WaitStatus(binary.NativeEndian.Uint32(b[:]))
		}
	}()
	return err
}

// clean leaves the root as it was but for what the process did.
func (p *Process) clean() error {
	if p.root == nil {
		return nil
	}
	defer p.root.Close()
	p.pasta.stop()
	return initproc.RemoveStubs(int(p.root.Fd()), p.stubs)
}

func unwrapPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
