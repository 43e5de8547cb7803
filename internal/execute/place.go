package execute

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// Place is where the process of a RUN runs: the root of its step with all that
// is mounted in it, and with what processes have written there. Processes run
// in it one after the other. What they wrote is thrown away by Close, unless
// it was made a layer or handed over before.
type Place struct {
	Job solve.Job

	local  *Local
	tmp    *store.Temp
	up     *rootfs.Upper
	mounts *mounting // nil before the first process

	planted *rootfs.Planted // in the place of up; nil where roots are mounted
}

// Place makes a fresh place for job's RUN. It must be closed.
func (l *Local) Place(ctx context.Context, job solve.Job) (*Place, error) {
	tmp, err := l.Store.Temp("run")
	if err != nil {
		return nil, err
	}
	p := &Place{Job: job, local: l, tmp: tmp}
	provider, err := l.Roots.Provider()
	switch {
	case err != nil:
	case provider == rootfs.Chroot:
		err = p.plant(ctx)
	default:
		if p.up, err = newUpper(tmp.Path); err == nil {
			p.up.MountPoints = true
		}
	}
	if err != nil {
		return nil, errors.Join(err, tmp.Remove())
	}
	return p, nil
}

// Close lets go of the place. It may be called again.
func (p *Place) Close() error {
	err := p.unmount()
	if p.planted != nil {
		p.local.planted().Drop(p.planted)
		p.planted = nil
	}
	if p.up != nil {
		p.local.Roots.Gone(p.up) // at once where the upper has become a layer and is not there any more
	}
	return errors.Join(err, p.tmp.Remove())
}

// unmount lets go of what is mounted in the root.
func (p *Place) unmount() error {
	if p.mounts == nil {
		return nil
	}
	err := p.mounts.close()
	p.mounts = nil
	return err
}

// step runs the step's own process, and turns a bad end into an error that
// says how it ended. While its root is still there, whoever wants to look into
// it may.
func (p *Place) step(ctx context.Context) error {
	st, err := p.process(ctx, nil)
	var start *sandbox.StartError
	switch {
	case errors.As(err, &start):
		err = p.local.startError(p.Job, err)
	case err != nil:
		return err
	case st.Code != 0 || st.Signal != 0:
		err = p.local.exitError(p.Job, st)
	}
	if err == nil {
		return nil
	}
	err = &ended{err, p.local.Now()}
	if p.local.OnFailure == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, p.local.OnFailure(ctx, &Failed{Place: p, Err: err}))
}

// ended is how a step failed, and when: what is done with its root afterwards
// does not count.
type ended struct {
	error
	at time.Time
}

func (e *ended) Unwrap() error    { return e.error }
func (e *ended) Ended() time.Time { return e.at }

// process runs one process here: the step's, or another that s describes.
func (p *Place) process(ctx context.Context, s *Session) (st sandbox.Status, err error) {
	if err := p.mount(ctx); err != nil {
		return st, err
	}
	root, err := p.root(ctx)
	if err != nil {
		return st, err
	}
	defer p.letGo(root)
	r := p.Job.Step.Run
	list, err := scripts(r, p.tmp.Path)
	if err != nil {
		return st, err
	}
	group, err := p.local.cgroup(r)
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, group.Close()) }()
	c := &sandbox.Config{
		Root: root, Args: r.Args, Env: environment(r, p.mounts.env), Dir: r.Dir, User: r.User,
		Hostname: r.Hostname, Hosts: hosts(r.Hosts), Network: network(r.Network),
		ResolvConf: true, ReadOnlyEtc: true, Mounts: append(list, p.mounts.list...), ShmSize: r.Limits.ShmSize,
		Insecure: r.Insecure, Rlimits: p.mounts.noDumps(rlimits(r)), Cgroup: group, Emulator: p.local.Emulators[p.Job.Step.Stage],
		Stdout: stream{p.local, p.Job.Vertex, 1}, Stderr: stream{p.local, p.Job.Vertex, 2}, Spares: &p.local.spares,
	}
	if err := p.apart(c); err != nil {
		return st, err
	}
	if s == nil {
		return sandbox.Run(ctx, c)
	}
	if err := s.configure(c); err != nil {
		return st, err
	}
	return s.run(ctx, c)
}

// mount makes ready what is mounted in the root. For another process than the
// first it is the same, with what was written to it.
func (p *Place) mount(ctx context.Context) (err error) {
	if p.mounts != nil {
		return p.mounts.reopen()
	}
	p.mounts, err = p.local.mounts(ctx, p.Job)
	return err
}

// root mounts the root. A mount serves one process, see sandbox.Config, and
// overlayfs wants a fresh work directory each time.
func (p *Place) root(ctx context.Context) (*os.File, error) {
	if p.planted != nil {
		return p.planted.Open()
	}
	root, err := p.local.Roots.Mount(ctx, p.Job.Below, p.up)
	if err != nil {
		return nil, p.local.mountError(p.Job, err)
	}
	return root, nil
}

// letGo lets go of the root of a process that has ended. To unmount it takes as long as
// reading the upper: both go on at once, and what comes after them too.
func (p *Place) letGo(root *os.File) {
	if p.planted != nil {
		_ = root.Close()
		return
	}
	p.local.Roots.LetGo(root, p.up)
}

// again readies an upper whose first mount is gone for another one.
func again(up *rootfs.Upper) error {
	if up == nil {
		return nil
	}
	up.Work += "-again"
	return os.Mkdir(up.Work, 0o755)
}

// Session is a process that is run in a place for a person or a script.
type Session struct {
	Args []string // nil: a shell that is there
	TTY  bool
	Term string // of the terminal; "" leaves TERM as the step has it
	container.Streams
}

// NoShellError says that a root has no shell.
type NoShellError struct {
	failed bool // it is that of a step that failed
}

func (e *NoShellError) Error() string { return "no shell: this file system has none" }

// Hint says what can be done about it.
func (e *NoShellError) Hint() string {
	if !e.failed {
		return "name a program that it has, as whittle shell . -- /PROGRAM; or COPY a static shell in, such as busybox. Without running anything --output DIR of build writes the files to a folder"
	}
	return "--on-failure keep keeps it, and whittle cp FAILED:/path . takes files out; or COPY a static shell in, such as busybox, and build again"
}

// Run runs s here. Its status is that of the process.
func (p *Place) Run(ctx context.Context, s Session) (sandbox.Status, error) {
	if p.mounts != nil && p.planted == nil {
		if err := again(p.up); err != nil {
			return sandbox.Status{}, err
		}
	}
	return p.process(ctx, &s)
}

// configure makes c, which describes the step's process, describe s.
func (s *Session) configure(c *sandbox.Config) error {
	step := c.Args
	c.Args = s.Args
	if len(c.Args) == 0 {
		shell := findShell(c.Root, step)
		if shell == "" {
			return &NoShellError{}
		}
		c.Args = []string{shell}
	}
	c.Stdin, c.Stdout, c.Stderr, c.TTY = s.In, s.Out, s.Err, s.TTY
	if c.Isolation.Mode == sandbox.OCI {
		c.Isolation = sandbox.Isolation{} // a runtime is given no input and no terminal
	}
	if s.TTY && s.Term != "" {
		c.Env = container.Setenv(c.Env, "TERM="+s.Term)
	}
	return nil
}

// run runs what c describes, with a terminal of the size that s tells.
func (s *Session) run(ctx context.Context, c *sandbox.Config) (sandbox.Status, error) {
	p, err := sandbox.Start(ctx, c)
	if err != nil {
		return sandbox.Status{}, err
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { container.Resize(p, s.Sizes, done) })
	st, err := p.Wait()
	close(done)
	wg.Wait()
	return st, err
}
