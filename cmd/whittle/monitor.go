package main

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
)

// monitorVerb is the hidden verb of a container's monitor: whittle, in a
// session of its own, which runs the container and stays.
const monitorVerb = "container-monitor"

// readyFD is where the monitor says how it went.
const readyFD = 3

// ready is what a monitor says.
type ready struct {
	Running bool   `json:"running"` // already, in another monitor
	Error   string `json:"error,omitempty"`
	Way     string `json:"way,omitempty"`
	Code    int    `json:"code,omitempty"`
}

// startError is the failure that a monitor told of.
type startError struct{ ready }

func (e *startError) Error() string { return e.ready.Error }
func (e *startError) Hint() string  { return e.Way }

// Is makes the error of a container that runs already known as that.
func (e *startError) Is(target error) bool { return target == container.ErrRunning && e.Running }

// unlessRuns drops the error of starting what somebody else has just started.
func unlessRuns(err error) error {
	if errors.Is(err, container.ErrRunning) {
		return nil
	}
	return err
}

// detached starts a monitor and waits until the container runs.
func (p *program) detached(w *whittle.Whittle, ct *container.Container) error {
	r, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", "--root", w.Dir(), monitorVerb, ct.ID)
	cmd.Args[0] = "whittle"
	cmd.Env, cmd.Dir = p.environ(), "/"
	cmd.ExtraFiles = []*os.File{pw}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What our caller has open, a lock perhaps, is not the monitor's to keep.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return err
	}
	err = cmd.Start()
	pw.Close()
	if err != nil {
		return err
	}
	var said ready
	if err := json.NewDecoder(r).Decode(&said); err != nil {
		_ = cmd.Wait() // it is gone, and how it ended says less than this
		return errors.New("container " + ct.Name + ": its monitor died before it ran")
	}
	if said.Error == "" {
		return cmd.Process.Release()
	}
	_ = cmd.Wait()
	return &startError{said}
}

func (p *program) monitorCommand() *cobra.Command {
	return &cobra.Command{
		Use: monitorVerb + " ID", Hidden: true, Args: args(1, 1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			syscall.CloseOnExec(readyFD)
			out := os.NewFile(readyFD, "ready")
			if _, err := out.Stat(); err != nil {
				return &usageError{errors.New(monitorVerb + ": is started by run -d"), "use run -d or start"}
			}
			return p.withContainer(a[0], func(w *whittle.Whittle, ct *container.Container) error {
				return p.monitor(c.Context(), w, ct, out)
			})
		},
	}
}

func (p *program) monitor(ctx context.Context, w *whittle.Whittle, ct *container.Container, out *os.File) error {
	say := func(r ready) {
		_ = json.NewEncoder(out).Encode(r) // whoever asked may be gone
		out.Close()
	}
	_, err := w.Containers().Run(ctx, ct, container.Streams{}, func() { say(ready{}) })
	if err == nil {
		return nil
	}
	told := container.Explain(err, ct.ImageName)
	r := ready{Running: errors.Is(err, container.ErrRunning), Error: told.Error(), Way: whittle.Hint(told), Code: container.StartCode(err)}
	say(r) // goes nowhere once it ran
	return codeError(r.Code)
}
