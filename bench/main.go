// Command bench measures whittle beside its peers on the machine it runs on:
// whole commands, all builders in turn, each with the same base images from one
// registry on the loopback, beside what the machine itself takes for the work.
// `make bench` runs all of it and writes docs/benchmarks.md with its plot and
// docs/benchmarks.json; `make bench-quick` is a tenth of the files and one peer,
// and compares with what docs/benchmarks-quick.json has.
//
// Each figure is the median of at least five runs. What a run needs (a fresh
// store, an emptied cache, an edited file, dirty pages written back) is prepared
// outside the time that counts. Peak memory is what the builder's own programs
// have at once, a daemon's and its helpers' too, without what steps run; bytes
// are those of all read and write calls of all processes involved.
//
// A run that is interrupted tells what it has, and -resume goes on from there.
//
// Everything lies below one folder on disk, which is removed at the end, and
// the daemons are the suite's own and end with it. It needs the stand-ins
// (standins/make), runs from the top of the checkout, and as a user who is not
// root it measures what that user can do. It sends nothing to any other machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	whittle  string
	tempDir  string
	only     string
	runs     int
	quick    bool
	strict   bool
	peers    string
	patience time.Duration
	json     string
	docs     string
	against  string
	resume   bool
}

// wants says whether a peer is asked for.
func (s *settings) wants(peer string) bool {
	return slices.Contains(strings.Split(s.peers, ","), peer)
}

// check reports what cannot be measured as it is asked for, before anything is.
func (s *settings) check(operands []string) error {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return fmt.Errorf("-row: %w", err)
	}
	if len(operands) > 0 {
		return fmt.Errorf("%q: it takes flags only (-row measures some rows)", operands[0])
	}
	if !slices.ContainsFunc(allRows(), func(r row) bool { return only.MatchString(r.id) }) {
		return fmt.Errorf("-row %s: no row is called so", s.only)
	}
	for _, p := range strings.Split(s.peers, ",") {
		if !slices.Contains([]string{"buildkitd", "dockerd", "buildah", "none", ""}, p) {
			return fmt.Errorf("-peers %s: there are buildkitd, dockerd, buildah and none", p)
		}
	}
	switch {
	case s.runs < 0:
		return fmt.Errorf("-runs %d: want a number from 1 on", s.runs)
	case s.resume && s.json == "":
		return errors.New("-resume: name the file of the run that was interrupted with -json")
	case s.docs != "" && s.json == "":
		return errors.New("-docs: the rows that are not measured now come from the file of -json: name it")
	}
	if s.json != "" {
		if _, err := os.Stat(filepath.Dir(s.json)); err != nil {
			return fmt.Errorf("-json: %w", err)
		}
	}
	if s.against != "" {
		if _, err := readReport(s.against); err != nil {
			return fmt.Errorf("-against: %w", err)
		}
	}
	return nil
}

func main() {
	var s settings
	flag.StringVar(&s.whittle, "whittle", "bin/whittle", "the `binary` to measure")
	flag.StringVar(&s.tempDir, "tmp", "/var/tmp", "`folder` on the disk to measure on")
	flag.StringVar(&s.only, "row", "", "measure only rows whose id matches `regexp`; others stay in the files of -json and -docs as they are")
	flag.IntVar(&s.runs, "runs", 0, "runs of each row (default: what the row says, five at least)")
	flag.BoolVar(&s.quick, "quick", false, "a tenth of the files")
	flag.BoolVar(&s.strict, "strict", false, "end with 1 when a goal is missed")
	flag.StringVar(&s.peers, "peers", "buildkitd,dockerd,buildah", "measure beside these `peers`")
	flag.DurationVar(&s.patience, "patience", 5*time.Minute, "give a run up after this `time`")
	flag.StringVar(&s.json, "json", "", "write all figures to `file`")
	flag.StringVar(&s.docs, "docs", "", "write the tables into `file`, and a plot beside it")
	flag.StringVar(&s.against, "against", "", "compare with the figures in `file`, from an earlier -json")
	flag.BoolVar(&s.resume, "resume", false, "leave out rows that the file of -json has from the same binary and builders: a run that was interrupted is taken up again")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // who prints to nobody still has daemons to end
	if err := s.check(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	missed, err := run(ctx, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if missed > 0 && s.strict {
		os.Exit(1)
	}
}

// run measures all rows and says what came out; it returns how many figures
// miss a goal.
func run(ctx context.Context, set settings) (n int, err error) {
	only, err := regexp.Compile(set.only)
	if err != nil {
		return 0, err
	}
	s, err := newSuite(ctx, set)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	t, err := s.recorded()
	if err != nil {
		return 0, err
	}
	for _, r := range t.rows {
		if !only.MatchString(r.id) || set.resume && s.done(t.results[r.id]) {
			continue
		}
		res := s.measure(ctx, r)
		if ctx.Err() != nil {
			break // which is not a row's fault
		}
		res.origin = s.origin
		fmt.Fprintf(os.Stderr, "%s: %s (in %s)\n", r.id, res.verdict(), res.spent)
		t.results[r.id] = res
		if set.json != "" { // so that the end of this program, whatever it is, costs one row
			if err := s.report(t.list()).writeJSON(set.json); err != nil {
				return 0, err
			}
		}
	}
	return missed(t.list()), errors.Join(s.tell(t.list()), context.Cause(ctx))
}

// tell prints the figures and writes them into the documents.
func (s *suite) tell(results []result) error {
	rep := s.report(results)
	fmt.Println(s.origin.Machine)
	for _, b := range s.builders {
		fmt.Printf("%s: %s\n", b.name(), b.about())
	}
	for _, name := range builderNames {
		if why := s.absent[name]; why != "" {
			fmt.Printf("%s: not here: %s\n", name, why)
		}
	}
	fmt.Println()
	errs := []error{write(os.Stdout, results)}
	if s.set.against != "" {
		errs = append(errs, rep.compare(os.Stdout, s.set.against))
	}
	if s.set.docs != "" {
		errs = append(errs, rep.writeDocs(s.set.docs, results))
	}
	return errors.Join(errs...)
}
