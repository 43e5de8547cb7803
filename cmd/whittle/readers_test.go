package main

import (
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whittle-build/whittle/test/dockerd"
)

// startEngine is the script command "engine VAR": it starts a dockerd and sets VAR
// to its address.
func startEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: engine VAR")
	}
	dir := ts.MkAbs("." + args[0])
	ts.Check(os.Mkdir(dir, 0o755))
	d, err := dockerd.Start(dir)
	ts.Check(err)
	ts.Defer(func() {
		if err := d.Stop(); err != nil {
			ts.Logf("%v", err)
		}
	})
	for _, kv := range d.Env {
		if host, ok := strings.CutPrefix(kv, "DOCKER_HOST="); ok {
			ts.Setenv(args[0], host)
		}
	}
}

// validateLayout is the script command "validate FOLDER": every document and blob of
// an OCI layout is what the one above says of it, by go-containerregistry's account.
func validateLayout(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: validate FOLDER")
	}
	x, err := layout.ImageIndexFromPath(ts.MkAbs(args[0]))
	ts.Check(err)
	switch err := validate.Index(x); {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("%s is valid", args[0])
	}
}
