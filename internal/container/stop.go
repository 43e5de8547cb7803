package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox"
)

// DefaultStopWait is how long a container may take to end after its stop
// signal before it is killed.
const DefaultStopWait = 10 * time.Second

// StopWait is how long this container may take; below 0 it is never killed.
func (c *Container) StopWait() time.Duration {
	if c.Spec.StopWait == nil {
		return DefaultStopWait
	}
	return time.Duration(*c.Spec.StopWait) * time.Second
}

func (c *Container) stopSignal() unix.Signal {
	if sig := ParseSignal(c.Spec.Stop); sig != 0 {
		return sig
	}
	return unix.SIGTERM
}

// ender remembers the signal for which the container was killed.
type ender struct{ unheard atomic.Int32 }

// status is how the container ended, as it would have outside a container.
func (e *ender) status(st sandbox.Status) sandbox.Status {
	if sig := unix.Signal(e.unheard.Load()); sig != 0 && st.Signal == unix.SIGKILL {
		st.Signal, st.Code = sig, 128+int(sig)
	}
	return st
}

// endPoll is how often a process that blocks a signal is looked at.
const endPoll = 50 * time.Millisecond

// end sends sig to the container's process so that it ends. As the first of
// its pid namespace the process does not get a signal that it has no handler
// for, pid_namespaces(7); such a one would just have ended it, so it is killed
// at once instead of after a long wait for nothing.
func (m *monitor) end(sig unix.Signal) error {
	heard := m.hears(sig)
	if heard == no {
		return m.endDeaf(sig)
	}
	// At first the handlers may still be those of the init, which execve(2) forgets
	// after it has closed the descriptor by whose end a start is known.
	if heard == perhaps || time.Since(m.begun) < endPoll {
		m.later.Go(func() { m.endLater(sig) })
	}
	return m.proc.Signal(sig)
}

func (m *monitor) endDeaf(sig unix.Signal) error {
	m.ender.unheard.CompareAndSwap(0, int32(sig))
	return m.proc.Signal(unix.SIGKILL)
}

// endLater waits for a process to make up its mind about a signal that it
// blocks, or seemed to have a handler for: if it was for a moment only, the
// signal is lost.
func (m *monitor) endLater(sig unix.Signal) {
	for {
		select {
		case <-time.After(endPoll):
		case <-m.done:
			return
		}
		switch m.hears(sig) {
		case yes:
			return
		case no:
			_ = m.endDeaf(sig) // fails when it has ended
			return
		}
	}
}

// hearing is whether a process hears a signal.
type hearing int

const (
	no      hearing = iota
	perhaps         // it blocks the signal, for a moment or for sigwait(3) or signalfd(2)
	yes             // it has a handler, or ignores the signal on purpose
)

func (m *monitor) hears(sig unix.Signal) hearing {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.proc.Pid()))
	if err != nil {
		return yes // it is gone
	}
	return hears(b, sig)
}

// hears tells it from a process's /proc/PID/status.
func hears(status []byte, sig unix.Signal) hearing {
	out := no
	for line := range bytes.Lines(status) {
		name, mask, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		bits, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
		if err != nil || bits>>(uint(sig)-1)&1 == 0 {
			continue
		}
		switch string(name) {
		case "SigCgt", "SigIgn":
			return yes
		case "SigBlk":
			out = perhaps
		}
	}
	return out
}

// Ending says how to end a container.
type Ending struct {
	Signal unix.Signal   // 0 is its stop signal
	Wait   time.Duration // until it gets SIGKILL; below 0 it never does
	Keep   bool          // it is started again, and stays even if it was to go at its end
}

// Stop ends a running container. One that does not run is left as it is.
func (s *Set) Stop(ctx context.Context, c *Container, how Ending) error {
	if !c.Running {
		return nil
	}
	if how.Signal == 0 {
		how.Signal = c.stopSignal()
	}
	w, err := s.Watch(c)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := s.ended(c, s.signal(ctx, c, request{Op: "stop", Signal: int(how.Signal), Keep: how.Keep})); err != nil {
		return err
	}
	if how.Wait == 0 {
		return s.Kill(ctx, c)
	}
	err = w.Wait(ctx, max(how.Wait, 0))
	if errors.Is(err, errStillThere) {
		return s.Kill(ctx, c)
	}
	c.Running = c.Running && err != nil
	return err
}

// killWait is how long the kernel may take to end a container that was killed.
const killWait = 10 * time.Second

// Kill ends a container at once, if it runs.
func (s *Set) Kill(ctx context.Context, c *Container) error {
	w, err := s.Watch(c)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := s.ended(c, s.signal(ctx, c, request{Op: "signal", Signal: int(unix.SIGKILL)})); err != nil {
		return err
	}
	err = w.Wait(ctx, killWait)
	c.Running = c.Running && err != nil
	return err
}

// Signal sends sig to the container's process.
func (s *Set) Signal(ctx context.Context, c *Container, sig unix.Signal) error {
	return s.signal(ctx, c, request{Op: "signal", Signal: int(sig)})
}

func (s *Set) signal(ctx context.Context, c *Container, req request) error {
	r, err := s.ask(ctx, c, req)
	if err == nil && r.Error != "" {
		err = fmt.Errorf("container %s: %s: %s", c.Name, signalName(unix.Signal(req.Signal)), r.Error)
	}
	return err
}

// ended drops an error of sending a signal to what has ended by itself.
func (s *Set) ended(c *Container, err error) error {
	dir, derr := s.folder(c)
	if err == nil || errors.Is(err, errEnded) || errors.Is(err, errNotRunning) || derr == nil && !locked(dir) {
		return nil
	}
	return err
}

var errStillThere = errors.New("it has not ended")
