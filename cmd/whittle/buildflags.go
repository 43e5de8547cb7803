package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// buildWays are docker build's flags that whittle lacks, and what to do
// without them.
var buildWays = [...]way{
	{"squash", "whittle calls it --squash-final"},
	{"compress stream", "leave it out: nothing is sent, the context is read where it is"},
	{"rm force-rm", "leave it out: a build leaves no containers behind"},
	{"security-opt builder debug", "leave it out: there is one builder, which runs every step in the same sandbox"},
}

// addDockerFlags adds what scripts pass to docker build and what makes no
// other image here; whittle's own name refuses it, with the same reasons.
func (p *program) addDockerFlags(fl *pflag.FlagSet) {
	fl.Bool("rm", true, "remove intermediate containers (there are none)")
	fl.Bool("force-rm", false, "remove intermediate containers (there are none)")
	fl.Bool("load", true, "keep the image in the store (always)")
	fl.Bool("compress", false, "compress the context (it is read where it is)")
	fl.String("builder", "", "`NAME` of the builder (there is one)")
}

// checkDockerFlags refuses values that would make another image, and says what
// has no effect.
func (p *program) checkDockerFlags(fl *pflag.FlagSet) error {
	if !p.docker {
		return nil
	}
	for _, only := range []struct{ name, values, way string }{
		{"load", "true", "leave it out: the image is always in the store"},
	} {
		if f := fl.Lookup(only.name); f.Value.String() != only.values {
			return &usageError{fmt.Errorf("--%s=%s: there is %s only", f.Name, f.Value, only.values), only.way}
		}
	}
	for _, idle := range []struct{ name, why string }{
		{"compress", "the context is read where it is"},
		{"builder", "there is one builder"},
	} {
		if fl.Changed(idle.name) {
			fmt.Fprintf(p.stderr, "%s: --%s changes nothing: %s\n", p.name, idle.name, idle.why)
		}
	}
	return nil
}

func buildFlagError(c *cobra.Command, err error) error { return lackedFlag(c, buildWays[:], err) }
