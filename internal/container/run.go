package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// Names in a container's folder, besides its locks.
const (
	upperName  = "upper"
	workName   = "work"
	logName    = "log"
	socketName = "ctl"
)

// Streams are what a container reads and writes. Nil is nothing; but standard
// input that the container wants kept open, and that is nil, never ends.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Sizes tells the size of the terminal at the other end, now and whenever
	// it changes. It may be nil.
	Sizes <-chan Size
	// Signals are passed on; one that nobody hears there ends the container.
	// When they are given, the end of ctx is none of a container that runs.
	Signals <-chan os.Signal
}

// Size is that of a terminal.
type Size struct{ Cols, Rows uint16 }

// monitor is the process that runs a container.
type monitor struct {
	set   *Set
	c     *Container
	dir   string
	root  *os.File
	stdin *os.File // the writing side of a standard input that never ends
	proc  *sandbox.Process
	begun time.Time // proc
	ender ender
	later sync.WaitGroup // signals that the process may lose, looked after until done
	keep  atomic.Bool    // it is started again, and not removed before that
	done  chan struct{}  // closed when proc has ended
}

// ErrRunning is wrapped by the error for a container that runs already.
var ErrRunning = errors.New("the container runs already")

// Run runs c to its end and returns how it ended; this process is its monitor
// meanwhile. started, if not nil, is called once the process runs. When ctx
// ends, the container gets its stop signal and, if it is still there after a
// while, is killed.
func (s *Set) Run(ctx context.Context, c *Container, std Streams, started func()) (st sandbox.Status, err error) {
	m := &monitor{set: s, c: c, done: make(chan struct{})}
	lock, err := m.begin(ctx)
	if err != nil {
		return st, err
	}
	defer func() {
		noteEnd(lock, c.ExitCode) // when all else is done: who waits goes on then
		err = errors.Join(err, lock.Close())
	}()
	st, err = m.run(ctx, std, started)
	m.record(st, err)
	if c.Spec.Remove && !m.keep.Load() {
		return st, errors.Join(err, s.remove(c))
	}
	return st, errors.Join(err, s.put(c))
}

// begin makes this process the container's monitor.
func (m *monitor) begin(ctx context.Context) (lock *os.File, err error) {
	change, err := m.set.change(ctx, m.c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, change.Close()) }()
	if m.dir, err = m.set.folder(m.c); err != nil {
		return nil, err
	}
	lock, ok, err := takeRun(m.dir)
	if err == nil && !ok {
		err = &Error{Msg: fmt.Sprintf("container %s is running already", m.c.Name),
			Way: fmt.Sprintf("logs -f %s shows what it writes, exec %s runs another command in it", m.c.Name, m.c.Name), Err: ErrRunning}
	}
	return lock, err
}

// record notes how the container ended.
func (m *monitor) record(st sandbox.Status, err error) {
	c := m.c
	c.Finished, c.ExitCode, c.Error, c.Running, c.Bound = m.set.Now().UTC(), st.Code, "", false, nil
	if err != nil {
		c.Error, c.ExitCode = err.Error(), StartCode(err)
	}
}

// codeEngine is the exit code for what is no fault of the process, and
// codeNotExecuted the one for what is there and cannot be executed.
const (
	codeEngine      = 125
	codeNotExecuted = 126
)

// StartCode is the exit code of a process that could not be started, as
// shells and docker have it: 127 when it is not there, 126 when it cannot be
// executed, 125 for anything else.
func StartCode(err error) int {
	var start *sandbox.StartError
	if !errors.As(err, &start) || start.Op != "exec" || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return codeEngine
	}
	if errors.Is(err, sandbox.ErrNotInPath) || errors.Is(err, unix.ENOENT) {
		return 127
	}
	return codeNotExecuted
}

// execCode is StartCode for a process in a container that runs, where docker
// has a code of its own for a working directory that is not there.
func execCode(err error) int {
	var start *sandbox.StartError
	if errors.As(err, &start) && start.Op == "dir" {
		return codeNotExecuted
	}
	return StartCode(err)
}

func (m *monitor) run(ctx context.Context, std Streams, started func()) (st sandbox.Status, err error) {
	if m.root, err = m.set.mount(ctx, m.c, m.dir); err != nil {
		return st, err
	}
	defer m.root.Close()
	log, err := openLog(filepath.Join(m.dir, logName), m.set.Now)
	if err != nil {
		return st, err
	}
	defer log.close()
	fwd, err := listen(m.c.Spec.Ports)
	if err != nil {
		return st, err
	}
	defer fwd.close()
	// A signal from before std.Signals was listened to is in ctx alone.
	if ctx.Err() != nil {
		return st, context.Cause(ctx)
	}
	if err := m.start(ctx, std, log); err != nil {
		return st, err
	}
	fwd.serve(patient(into(m.proc.Pid()), time.Now().Add(grace)))
	m.c.Started, m.c.Running, m.c.ExitCode, m.c.Error, m.c.Bound = m.set.Now().UTC(), true, 0, "", fwd.ports
	if err := m.set.put(m.c); err != nil {
		return st, errors.Join(err, m.kill())
	}
	ctl, err := m.control()
	if err != nil {
		return st, errors.Join(err, m.kill())
	}
	if started != nil {
		started()
	}
	st, err = m.attend(ctx, std)
	err = errors.Join(err, ctl.close())
	m.later.Wait()
	return st, err
}

func (m *monitor) start(ctx context.Context, std Streams, log *logFile) error {
	cfg, err := m.config(std, log)
	if err != nil {
		return err
	}
	if in, ok := cfg.Stdin.(*os.File); ok && m.stdin != nil {
		defer in.Close()
	}
	// What ends the container is a signal, not ctx: it may want to clean up.
	m.proc, err = sandbox.Start(context.WithoutCancel(ctx), cfg)
	m.begun = time.Now()
	return err
}

func (m *monitor) kill() error {
	_ = m.proc.Signal(unix.SIGKILL) // fails when it has ended
	_, err := m.proc.Wait()
	return err
}

// attend passes signals and sizes on until the process ends.
func (m *monitor) attend(ctx context.Context, std Streams) (sandbox.Status, error) {
	defer m.stdin.Close() // nil is fine
	var wg sync.WaitGroup
	wg.Go(func() { Resize(m.proc, std.Sizes, m.done) })
	wg.Go(func() { m.signals(ctx, std.Signals) })
	st, err := m.proc.Wait()
	close(m.done)
	wg.Wait()
	if errors.Is(err, unix.EPIPE) {
		err = nil // nobody reads its output any more, which is not its fault
	}
	return m.ender.status(st), err
}

// signals passes signals on. When ctx ends the container has to end too.
func (m *monitor) signals(ctx context.Context, list <-chan os.Signal) {
	ending := ctx.Done()
	if list != nil {
		ending = nil // what ended ctx is a signal too, and passed on
	}
	var late <-chan time.Time
	for {
		select {
		case sig := <-list:
			if s, ok := sig.(unix.Signal); ok {
				_ = m.end(s) // fails when it has ended
			}
		case <-ending:
			ending = nil
			_ = m.end(m.c.stopSignal())
			if wait := m.c.StopWait(); wait >= 0 {
				late = time.After(wait)
			}
		case <-late:
			_ = m.proc.Signal(unix.SIGKILL)
		case <-m.done:
			return
		}
	}
}

// Resize gives the process's terminal the sizes that come, until done is
// closed.
func Resize(p *sandbox.Process, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s := <-sizes:
			if s != (Size{}) {
				_ = p.Resize(s.Cols, s.Rows) // a terminal that is gone needs none
			}
		case <-done:
			return
		}
	}
}

// mount makes the container's root: the image's layers and what it wrote.
func (s *Set) mount(ctx context.Context, c *Container, dir string) (*os.File, error) {
	up := rootfs.Upper{Dir: filepath.Join(dir, upperName), Work: filepath.Join(dir, workName), MountPoints: true}
	for _, d := range []string{up.Dir, up.Work} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	return s.Roots.Mount(ctx, c.Chain, &up)
}

func (m *monitor) config(std Streams, log *logFile) (*sandbox.Config, error) {
	sp := &m.c.Spec
	mounts, err := sandboxMounts(sp.Mounts)
	if err != nil {
		return nil, err
	}
	cfg := &sandbox.Config{
		Root: m.root, Args: sp.Args, Env: withHostname(sp.Env, sp.Hostname), Dir: sp.Dir, User: sp.User,
		Hostname: sp.Hostname, Hosts: sp.Hosts, Network: sp.Network, ResolvConf: true,
		Mounts: mounts, ReadOnlyRoot: sp.ReadOnly, ShmSize: sp.ShmSize,
		Stdout: tee(std.Out, log.stream(1)), Stderr: tee(std.Err, log.stream(2)), TTY: sp.TTY,
	}
	switch {
	case !sp.Stdin:
	case std.In != nil:
		cfg.Stdin = std.In
	case !sp.TTY: // a terminal that nobody types at is open too
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		cfg.Stdin, m.stdin = r, w
	}
	return cfg, nil
}

func tee(w io.Writer, log io.Writer) io.Writer {
	if w == nil {
		return log
	}
	return io.MultiWriter(w, log)
}
