// Command whittle builds container images from multi-stage Dockerfiles.
//
// This package holds flags, spelling and exit codes: one file a family
// of commands. What a command does is in the package whittle.
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/internal/sandbox"
)

// version is set by the linker.
var version = "dev"

func main() {
	sandbox.MaybeInit() // never returns in a step's init
	os.Exit(Main())
}

// Main is the program; it returns the exit code. Tests run it in their own
// binary.
func Main() int {
	log.SetOutput(io.Discard) // what libraries write there, of what a step asks an agent for, is no part of the story
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	p := &program{
		name: "whittle", version: version,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, environ: os.Environ,
	}
	if filepath.Base(os.Args[0]) == "docker" {
		p.name, p.docker = "docker", true
	}
	stop := onSignal(cancel, &p.passesOn)
	defer stop()
	return p.run(ctx, os.Args[1:])
}

// errInterrupted is what each interruption is.
var errInterrupted = errors.New("interrupted")

// An interruption is the cause of a cancel by a signal.
type interruption struct{ signal syscall.Signal }

func (e *interruption) Error() string        { return errInterrupted.Error() }
func (e *interruption) Is(target error) bool { return target == errInterrupted }

// code is what a shell has for the end of a process by the signal.
func (e *interruption) code() int { return 128 + int(e.signal) }

// interruptCode is the exit code for the cancel of ctx by a signal; ok is false
// when there was none.
func interruptCode(ctx context.Context) (code int, ok bool) {
	var by *interruption
	if !errors.As(context.Cause(ctx), &by) {
		return 0, false
	}
	return by.code(), true
}

// sameSignal is how long after the first signal another one is its echo: a
// terminal and timeout(1) both signal the process and then its whole group.
const sameSignal = 300 * time.Millisecond

// onSignal cancels at the first SIGINT, SIGTERM or SIGHUP, so that everything
// that runs is ended in order; a second one ends the program at once, which
// the store's design makes safe; but not while signals are passed on.
func onSignal(cancel context.CancelCauseFunc, passesOn *atomic.Bool) (stop func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		sig, ok := <-c
		if !ok {
			return
		}
		by := &interruption{sig.(syscall.Signal)}
		cancel(by)
		for first := time.Now(); ; {
			if _, ok := <-c; !ok {
				return
			}
			if time.Since(first) > sameSignal && !passesOn.Load() {
				os.Exit(by.code())
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
