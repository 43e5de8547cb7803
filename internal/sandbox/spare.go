package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// Spares keeps an init ready that nobody has told yet what it is to be: a third
// of what a short process costs is the start of its init, and goes on while the
// process before it runs. The zero value is ready; nil keeps none.
//
// There is at most one. It is started when the second process of those with
// this Spares begins, and ends with Close, or with the caller however that ends.
type Spares struct {
	mu     sync.Mutex
	begun  int // processes
	spare  *spare
	closed bool
	all    sync.WaitGroup
}

// A spare is an init with its thread, which nothing but its first words sets
// apart from one that is started for a process.
type spare struct {
	kind     kind
	cmd      *exec.Cmd
	sock     *os.File
	out, err *relay
	cancel   context.CancelFunc
	claims   chan *claim // closed when it is not needed
}

// A kind of init is what cannot be changed once it runs.
type kind struct {
	flags uintptr
	shm   int64 // bytes
	one   bool  // stdout and stderr are one pipe
}

// A claim is a process that is to be made of a spare.
type claim struct {
	p       *Process
	ctx     context.Context
	l       *launch
	started chan<- error
}

// kind is l's, if a spare will do for it.
func (l *launch) kind() (k kind, ok bool) {
	c := l.config
	if l.before != nil || l.argv != "" || l.ids.uids != nil || l.setup.SharedPIDs || l.setup.TTY || l.setup.Insecure || c.Stdin != nil || len(l.files) > initproc.MaxPassed {
		return k, false
	}
	if group := l.group(); group != nil && group.v2 != nil {
		return k, false // of which a process is a member from birth
	}
	for _, w := range []io.Writer{c.Stdout, c.Stderr} {
		if _, isFile := w.(*os.File); isFile || w == nil {
			return k, false
		}
	}
	return kind{l.cloneflags, l.setup.ShmSize, sameWriter(c.Stdout, c.Stderr)}, true
}

// sameWriter is what package exec asks before it gives both one pipe.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }() // of types that cannot be compared
	return a == b
}

// take makes a process of the spare, if there is one and it will do.
func (s *Spares) take(c *claim) bool {
	if s == nil {
		return false
	}
	k, ok := c.l.kind()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok || s.spare == nil || s.spare.kind != k {
		return false
	}
	s.spare.claims <- c // which has room for it
	s.spare = nil
	return true
}

// prepare starts a spare for one more process like l's, which begins.
func (s *Spares) prepare(l *launch) {
	if s == nil {
		return
	}
	k, ok := l.kind()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun++; s.begun < 2 || s.spare != nil || s.closed || !ok {
		return
	}
	s.spare = &spare{kind: k, claims: make(chan *claim, 1)}
	s.all.Go(s.spare.live)
}

// Close ends the spare, and waits for the processes that were made of one.
func (s *Spares) Close() error {
	s.mu.Lock()
	if s.spare != nil {
		close(s.spare.claims)
		s.spare = nil
	}
	s.closed = true
	s.mu.Unlock()
	s.all.Wait()
	return nil
}

// live is the spare's life, and that of the process that it becomes. Its thread
// is that of one process only, see supervise.
func (sp *spare) live() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := sp.start()
	c := <-sp.claims
	switch {
	case c == nil:
		sp.end()
	case err != nil || sp.ended():
		sp.end()
		c.p.supervise(c.ctx, c.l, nil, c.started)
	default:
		sp.out.to(c.l.config.Stdout)
		sp.err.to(c.l.config.Stderr)
		stop := context.AfterFunc(c.ctx, sp.cancel)
		c.p.supervise(c.ctx, c.l, sp, c.started)
		stop()
		sp.cancel()
	}
}

func (sp *spare) start() error {
	exe, err := self()
	if err != nil {
		return err
	}
	defer exe.Close()
	sock, peer, err := socketPair()
	if err != nil {
		return err
	}
	defer peer.Close()
	var ctx context.Context
	ctx, sp.cancel = context.WithCancel(context.Background())
	sp.cmd = initCommand(ctx, initproc.AheadArgs(sp.kind.shm), []*os.File{exe, peer}, &syscall.SysProcAttr{Cloneflags: sp.kind.flags, Setsid: true})
	sp.out, sp.err = &relay{}, &relay{}
	if sp.kind.one {
		sp.err = sp.out
	}
	sp.cmd.Stdout, sp.cmd.Stderr = sp.out, sp.err
	sp.sock = sock
	if err := sp.cmd.Start(); err != nil {
		sp.cancel()
		sp.cmd = nil
		return errors.Join(err, sock.Close())
	}
	return nil
}

// ended reports whether somebody has ended the spare meanwhile.
func (sp *spare) ended() bool {
	fds := []unix.PollFd{{Fd: int32(sp.sock.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

func (sp *spare) end() {
	if sp.cmd == nil {
		return
	}
	sp.sock.Close()
	sp.cancel()
	_ = sp.cmd.Wait() // says that it was killed
}

// A relay passes on what is written.
type relay struct {
	mu sync.Mutex
	w  io.Writer
}

func (r *relay) to(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.w = w
}

// Write implements io.Writer. Nothing is written before there is a place for it.
func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	w := r.w
	r.mu.Unlock()
	return w.Write(p)
}
