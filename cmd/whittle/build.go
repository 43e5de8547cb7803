package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/trace"
)

// buildFlags are the flags of build as they are written.
type buildFlags struct {
	request                   whittle.Request
	args                      []string
	progress                  string
	quiet                     bool
	idFile                    string
	trace                     string
	metaFile                  string
	call                      string
	check                     bool
	from                      contextFlags
	steps                     stepFlags
	platforms                 []string
	said                      *[]said // -t, -o and --target in their order
	outputs                   []string
	stages                    []stageFlags // of several --target
	provenance, sbom, signKey string
	attests                   []string
	piped                     bool // an output goes to standard output
	cache                     cacheFlags
}

func (p *program) buildCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build [flags] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from the Dockerfile in CONTEXT, whose files COPY and ADD can read: a folder, a git
repository (https://host/repo.git#REF:DIR), the http(s) URL of an archive or a Dockerfile, or - for
an archive or a Dockerfile from standard input.
Steps that nothing changed for are not run again. The image's ID goes to standard output, all else to standard error.`,
		Example: `  whittle build -t http-server .
  whittle build -t http-server:builder --target builder .
  whittle build -f Dockerfile.build --build-arg VERSION=1.2 --progress plain .
  echo 'FROM scratch' | whittle build -f - .
  tar c app | whittle build -f app/Dockerfile -
  whittle build --build-context src=../src --build-context alpine=docker-image://alpine:3.20 .
  whittle build --check .
  whittle build --call=targets .`,
		Args: args(1, 1, "one build context (a folder; . is this one)"),
		RunE: func(c *cobra.Command, a []string) error {
			f.request.Context = a[0]
			if err := cmp.Or(p.checkIsolation(), p.checkDockerFlags(c.Flags())); err != nil {
				return err
			}
			return p.build(c.Context(), &f)
		},
	}
	fl := c.Flags()
	r := &f.request
	f.addSources(fl)
	fl.VarP(&saying{f.said, "tag"}, "tag", "t", "name the image `NAME[:TAG]`; may be repeated, after the --target that it is of where there are several")
	fl.StringArrayVar(&r.Labels, "label", nil, "add the label `K=V` to the image; may be repeated")
	p.addOutputs(&f, fl)
	fl.BoolVar(&r.AllowFailedOutput, "allow-failed-output", false, "with --output: write the files also when the last step of the stage fails")
	fl.StringVar(&r.OnFailure, "on-failure", "", "when a RUN fails, open a `shell` in its root, or keep that for cp")
	fl.StringVar(&f.idFile, "iidfile", "", "write the image ID to `FILE`")
	fl.StringVar(&f.trace, "trace", "", "write what was done when to `FILE`, for Perfetto and Chrome's trace viewer")
	fl.StringVar(&f.metaFile, "metadata-file", "", "write what was built, or why it was not, to `FILE` as JSON")
	f.cache.addTo(fl)
	f.from.addAnnotation(fl)
	f.addCallFlags(fl)
	p.addIsolation(fl)
	c.SetFlagErrorFunc(buildFlagError)
	if p.docker {
		p.addDockerFlags(fl)
	}
	return c
}

// addSources adds the flags that say what is built and how, and nothing of what
// becomes of it.
func (f *buildFlags) addSources(fl *pflag.FlagSet) {
	r := &f.request
	fl.StringVarP(&r.File, "file", "f", "", "build from `FILE` (default CONTEXT/Dockerfile; - is standard input), a path inside CONTEXT unless that is a folder")
	fl.StringArrayVar(&f.args, "build-arg", nil, "set an ARG: `K=V`, or K to take it from the environment; may be repeated")
	f.said = &[]said{}
	fl.Var(&saying{f.said, "target"}, "target", "build `STAGE` and what it needs (default the last one); may be repeated, each with its own -t and -o")
	fl.StringVar(&r.Timestamp, "timestamp", "", "date the image, and what COPY, ADD and WORKDIR make, by `SECONDS` since 1970, or by the context: its git commit")
	fl.BoolVar(&r.Explain, "explain", false, "tell of each step that runs why it is not taken from a cache")
	fl.BoolVar(&r.NoCache, "no-cache", false, "run every step, even when nothing changed for it")
	fl.BoolVar(&r.Pull, "pull", false, "ask the registries for newer base images")
	fl.StringVar(&f.progress, "progress", "auto", "tell what happens as `VIEW`: auto, tty, plain, classic, json or quiet")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "tell nothing but mistakes, and the image ID")
	fl.StringArrayVar(&r.Hosts, "add-host", nil, "add `HOST:IP` to /etc/hosts of RUN steps; may be repeated")
	fl.StringVar(&r.Network, "network", "default", "network `MODE` of RUN steps: default (the host's), host, none, or private (by pasta)")
	fl.IntVar(&r.Jobs, "jobs", whittle.DefaultJobs(), "run at most `N` steps at once, 0 for any number (default 4 for each processor, 16 at least)")
	fl.Lookup("jobs").DefValue = "0" // help is the same on all machines
	fl.StringArrayVar(&f.platforms, "platform", nil, "build for `OS/ARCH[,OS/ARCH]` (default this machine's); RUN needs a base that runs here, FROM --platform=$BUILDPLATFORM, or an emulator")
	f.cache.addFrom(fl)
	f.from.add(fl)
	f.steps.add(fl)
}

// build runs one build: the story goes to stderr, the result to stdout.
func (p *program) build(ctx context.Context, f *buildFlags) error {
	if err := p.complete(f); err != nil {
		return err
	}
	if done, err := p.called(ctx, f); done {
		return err
	}
	// The display is made before anything else: a wrong name is a mistake of
	// usage, whoever runs the build.
	display, err := p.display(f)
	if err != nil {
		return &usageError{fmt.Errorf("--%w", err), ""}
	}
	return p.withStore(func(w *whittle.Whittle) error {
		if err := keepFromDumps(&f.request); err != nil {
			return err
		}
		res, err := p.traced(ctx, w, f, display)
		// Nobody can be told that stderr cannot be written; what stands on
		// stdout somebody reads.
		if cerr := display.Close(); p.storyTo(f) == p.stdout {
			err = errors.Join(err, cerr)
		}
		switch {
		case err != nil && f.progress == "json" && !f.quiet:
			return toldError(ctx) // every line is an event
		case err != nil:
			return err
		case p.docker && !f.quiet:
			return nil // docker's builder told its ID already
		case f.piped:
			return nil
		}
		for _, id := range res.IDs() {
			if _, err := fmt.Fprintln(p.stdout, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// buildTo builds, and writes the files that were asked for.
func (p *program) buildTo(ctx context.Context, w *whittle.Whittle, f *buildFlags, display *progress.Display) (*whittle.Result, error) {
	if err := f.clear(); err != nil {
		display.Emit(progress.Event{Kind: progress.Failed, Err: err})
		return nil, err
	}
	f.request.Sink, f.request.WholeContext = display, f.progress == "classic" || p.docker
	f.request.Lend, f.request.Term = p.lender(p.stderr, display.Pause), p.getenv("TERM")
	res, err := w.Build(ctx, f.request)
	if werr := f.write(res, err); werr != nil {
		display.Emit(progress.Event{Kind: progress.Failed, Err: werr})
		err = errors.Join(err, werr)
	}
	return res, err
}

// traced builds, and writes a trace of it if one is asked for.
func (p *program) traced(ctx context.Context, w *whittle.Whittle, f *buildFlags, display *progress.Display) (_ *whittle.Result, err error) {
	if f.trace == "" {
		return p.buildTo(ctx, w, f, display)
	}
	out, err := os.Create(f.trace)
	if err != nil {
		display.Emit(progress.Event{Kind: progress.Failed, Err: err})
		return nil, err
	}
	t := trace.New(out, time.Now)
	res, err := p.buildTo(trace.With(ctx, t), w, f, display)
	return res, errors.Join(err, t.Close(), out.Close())
}

// toldError is the exit code of a build whose failure was told as an event.
func toldError(ctx context.Context) error {
	if code, ok := interruptCode(ctx); ok {
		return codeError(code)
	}
	return codeError(exitFailed)
}

// complete checks the flags and makes the request of them.
func (p *program) complete(f *buildFlags) error {
	r := &f.request
	if err := f.from.complete(f); err != nil {
		return err
	}
	r.Platform = strings.Join(f.platforms, ",")
	if err := f.arrange(); err != nil {
		return err
	}
	if err := f.attestOptions(); err != nil {
		return err
	}
	if err := r.CheckNames(); err != nil {
		return &usageError{err, whittle.Hint(err)}
	}
	for _, t := range f.allTags() {
		if _, err := image.ParseName(t); err != nil {
			return &usageError{fmt.Errorf("--tag: %w", err), whittle.Hint(err)}
		}
	}
	for _, l := range r.Labels {
		if k, _, _ := strings.Cut(l, "="); strings.TrimSpace(k) == "" {
			return &usageError{fmt.Errorf("--label %q: has no name", l), "write --label NAME=VALUE"}
		}
	}
	if modes := []string{"default", "host", "none", "private"}; !slices.Contains(modes, r.Network) {
		return &usageError{fmt.Errorf("--network %q: want one of %s", r.Network, strings.Join(modes, ", ")), ""}
	}
	if r.Jobs < 0 {
		return &usageError{fmt.Errorf("--jobs %d: want a number from 0", r.Jobs), "0 means no limit"}
	}
	for i, h := range r.Hosts {
		name, ip, err := container.ParseHost(h, strings.Replace(r.Network, "default", "host", 1))
		if err != nil {
			return &usageError{err, whittle.Hint(err)}
		}
		r.Hosts[i] = name + ":" + ip
	}
	if err := p.stepOptions(&f.steps, r); err != nil {
		return err
	}
	if err := cmp.Or(p.failureOptions(f), f.distinct(), f.cache.complete(r)); err != nil {
		return err
	}
	var err error
	r.Args, err = p.buildArgs(f.args)
	r.In, r.SourceDateEpoch = p.stdin, p.getenv("SOURCE_DATE_EPOCH")
	if _, given := r.Args["SOURCE_DATE_EPOCH"]; given && r.Timestamp != "" && err == nil {
		err = &usageError{errors.New("--timestamp and --build-arg SOURCE_DATE_EPOCH: say the same, each its own time"), "leave one of them out"}
	}
	return err
}

// told are the files that tell of the build when it is over.
func (f *buildFlags) told() []whittle.File {
	return []whittle.File{{What: "--iidfile", Path: f.idFile}, {What: "--metadata-file", Path: f.metaFile}}
}

// distinct refuses one file, or one name, for two of what the build leaves.
func (f *buildFlags) distinct() error {
	err := f.request.CheckOutputs(append(f.told(), whittle.File{What: "--trace", Path: f.trace})...)
	if err != nil {
		return &usageError{err, whittle.Hint(err)}
	}
	return nil
}

// clear removes what an earlier build wrote, so that it is not taken for this
// one's if this one fails. What would keep it from being written is told now rather
// than after the build.
func (f *buildFlags) clear() error {
	for _, file := range f.told() {
		name := file.Path
		if name == "" {
			continue
		}
		if err := whittle.CheckFile(name); err != nil {
			return fmt.Errorf("%s: %w", file.What, err)
		}
		if st, err := os.Lstat(name); err != nil || !st.Mode().IsRegular() {
			continue // a pipe or a link, or it is not there
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// write writes the files that were asked for.
func (f *buildFlags) write(res *whittle.Result, failure error) error {
	if f.metaFile != "" {
		b, err := whittle.Metadata(res, failure)
		if err == nil {
			err = writeText(f.metaFile, string(b))
		}
		if err != nil {
			return fmt.Errorf("--metadata-file: %w", err)
		}
	}
	var cache *whittle.CacheError
	if f.idFile == "" || failure != nil && !errors.As(failure, &cache) {
		return nil
	}
	var ids []string
	for _, id := range res.IDs() {
		ids = append(ids, id.String())
	}
	if err := writeText(f.idFile, strings.Join(ids, "\n")); err != nil {
		return fmt.Errorf("--iidfile: %w", err)
	}
	return nil
}

func writeText(name, text string) error {
	return whittle.WriteFile(name, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// display picks the view: the story goes to stderr. Called as docker, a build
// that no person watches speaks as docker's builder did, on stdout, for
// scripts that read it.
func (p *program) display(f *buildFlags) (*progress.Display, error) {
	return progress.New(p.view(f), p.storyTo(f), p.displayOptions())
}

func (p *program) view(f *buildFlags) string {
	switch {
	case f.quiet && slices.Contains(progress.Modes(), f.progress):
		return "quiet"
	case p.docker && f.progress == "auto" && !progress.IsTerminal(p.stderr) && p.getenv("DOCKER_BUILDKIT") != "1":
		return "classic"
	}
	return f.progress
}

// storyTo is where the display goes.
func (p *program) storyTo(f *buildFlags) *os.File {
	if p.docker && p.view(f) == "classic" && !f.piped {
		return p.stdout
	}
	return p.stderr
}

func (p *program) displayOptions() progress.Options {
	return progress.Options{Term: p.getenv("TERM"), NoColor: p.getenv("NO_COLOR") != ""}
}

// buildArgs reads K=V and K; K alone takes its value from the environment and
// is not set when the environment does not have it, as with docker build.
func (p *program) buildArgs(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if k == "" {
			return nil, &usageError{fmt.Errorf("--build-arg %q: has no name", kv), "write --build-arg NAME=VALUE"}
		}
		if !ok {
			if v, ok = lookup(p.environ(), k); !ok {
				continue
			}
		}
		out[k] = v
	}
	return out, nil
}

func lookup(environ []string, name string) (string, bool) {
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}
