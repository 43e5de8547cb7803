// Command bench measures whittle on the machine it runs on and prints one
// table: each row with each root-file-system provider, beside the machine's
// own floor for the same work (or a peer), measured in turns with it in the
// same run.
//
// A row is pairs of runs, floor and whittle, in alternating order; the table
// shows medians. What a run needs (a fresh store, a cold cache, dirty pages
// written back) is prepared outside the time that counts. All files are
// below one folder on disk, which is removed at the end; a dockerd that the
// suite starts listens on a socket in there and ends with it. Peak memory is
// whittle's own process, what a step runs apart.
//
// The suite judges nothing but its own figures against the targets: with
// -strict it ends with 1 when one is missed. It is run by `make bench` from
// the top of the checkout, needs the stand-ins (standins/make), and as a user
// who is not root it measures what that user can do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// settings are the flags.
type settings struct {
	whittle string
	tempDir string
	only    string
	pairs   int
	quick   bool
	strict  bool
}

func main() {
	var s settings
	flag.StringVar(&s.whittle, "whittle", "bin/whittle", "the `binary` to measure")
	flag.StringVar(&s.tempDir, "tmp", "/var/tmp", "`folder` on the disk to measure on")
	flag.StringVar(&s.only, "row", "", "measure only rows whose name matches `regexp`")
	flag.IntVar(&s.pairs, "pairs", 0, "pairs of runs (default: what the row says)")
	flag.BoolVar(&s.quick, "quick", false, "a tenth of the files and few pairs: to see that the suite works")
	flag.BoolVar(&s.strict, "strict", false, "end with 1 when a target is missed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := run(ctx, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if missed > 0 && s.strict {
		os.Exit(1)
	}
}

// run measures all rows and prints them; it returns how many miss a target.
func run(ctx context.Context, s settings) (missed int, err error) {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return 0, err
	}
	b, err := newBench(s)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var lines []line
	for _, r := range rows() {
		if !only.MatchString(r.name) {
			continue
		}
		for _, provider := range r.providers() {
			l := b.measure(ctx, r, provider)
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			fmt.Fprintf(os.Stderr, "%s, %s: %s\n", r.name, provider, l.short())
			lines = append(lines, l)
			if l.missed() {
				missed++
			}
		}
	}
	fmt.Print(machine(b.dir), "\n")
	return missed, table(os.Stdout, lines)
}
