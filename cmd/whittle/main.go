// Command whittle builds container images from multi-stage Dockerfiles.
//
// This package holds flags, spelling and exit codes: one file a family
// of commands. What a command does is in the package whittle.
package main

import (
	"context"
	"errors"
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

// errInterrupted is the cause of a cancel by a signal.
var errInterrupted = errors.New("interrupted")

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
		if _, ok := <-c; !ok {
			return
		}
		cancel(errInterrupted)
		for first := time.Now(); ; {
			if _, ok := <-c; !ok {
				return
			}
			if time.Since(first) > sameSignal && !passesOn.Load() {
				os.Exit(exitInterrupted)
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
