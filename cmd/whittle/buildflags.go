package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// buildWays are docker build's flags that whittle lacks, and what to do
// without them.
var buildWays = [...]way{
	{"load", "leave it out: the image is always in the store, where run, save and push find it"},
	{"push", "build with -t NAME, then whittle push NAME"},
	{"output o", "build with -t NAME, then whittle save NAME, or whittle create and whittle cp for its files"},
	{"cache-from cache-to no-cache-filter", "leave it out: steps are kept in the store; keep that folder (WHITTLE_ROOT) between machines' runs"},
	{"provenance sbom attest annotation", "images have no attestations; leave it out, or write what is to be known with --label"},
	{"squash", "leave it out: a last stage that copies what is needed has no more than that"},
	{"compress stream", "leave it out: nothing is sent, the context is read where it is"},
	{"isolation security-opt cgroup-parent allow builder call check debug", "leave it out: there is one builder, which runs every step in the same sandbox"},
	{"secret ssh", "a RUN has no secrets: fetch what needs them before the build and COPY it into a stage that is not the last"},
	{"build-context", "copy or bind the folder into the build context, or build it as an image and name it in COPY --from"},
	{"memory m memory-swap cpu-period cpu-quota cpu-shares c cpuset-cpus cpuset-mems ulimit shm-size",
		"limits are those of the shell that calls: ulimit, or systemd-run --scope -p MemoryMax=…"},
}

func buildFlagError(c *cobra.Command, err error) error { return lackedFlag(c, buildWays[:], err) }

// checkPlatform takes the machine's own platform and no other: steps run here.
func checkPlatform(s string) error {
	own := runtime.GOOS + "/" + runtime.GOARCH
	if s == "" || s == own || s == own+"/v8" && runtime.GOARCH == "arm64" {
		return nil
	}
	return &usageError{fmt.Errorf("--platform %s: this machine is %s", s, own),
		"run the build on such a machine; FROM --platform=" + s + " takes a base image of it, to copy from"}
}
