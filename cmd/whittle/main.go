// Command whittle builds container images from multi-stage Dockerfiles.
//
// This package holds flags, spelling and exit codes: one file a family
// of commands. What a command does is in the package whittle.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"path/filepath"

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
	boundGarbage()
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
	defer p.signals.hear(cancel)()
	return p.run(ctx, os.Args[1:])
}
