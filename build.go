package whittle

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/sbom"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/source"
	"github.com/whittle-build/whittle/internal/sshagent"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// build is one call of Build.
type build struct {
	*Whittle
	req   Request
	sink  progress.Sink
	tags  []image.Name
	path  string // of the Dockerfile
	text  []byte
	file  *dockerfile.File
	began time.Time
	epoch *time.Time

	agents map[string]*sshagent.Source
	images map[plan.Ref]*image.Image // bases by what the plan calls them
	// emulators run the programs of stages for another machine
	emulators map[*plan.Stage]*sandbox.Emulator

	platform plan.Platform // that was asked for
	outputs  []output
	ends     *ends       // shared by parts
	key      *attest.Key // that signs; nil is none

	generator *image.Image    // of SBOMs; nil is none
	inContext *sbom.Inventory // what the main context has, where an SBOM of it is wanted

	instead func(*plan.Step, digest.Digest) digest.Digest // of the solver; nil is none
	apart   *store.Scope                                  // of cache mounts of this build alone; nil: those of all that it trusts

	flights *solve.Flights // shared by parts
	parted  bool           // it has parts

	// Of a part of a build for several stages or platforms:
	within  *build // the whole
	number  int    // of the part, from 1
	peers   bool   // it is for one of several platforms
	another bool   // and that is not the first of them
	entered bool   // the main context was opened by the whole

	kind     contextKind
	contexts map[string]contextSpec // that are given, by what the plan calls them
	stdin    io.Reader              // the archive that the main context is
	remote   bool                   // the Dockerfile is neither here nor in the context
	fetch    *fetch.Client
	main     *buildContext // nil: there is nothing in it
	named    map[string]*buildContext

	caches *caches // nil: none is shared

	receivers []*receiver // of what is made

	lostLock sync.Mutex
	lost     map[digest.Digest]bool // layers that no place has that can be reached

	fetches sync.WaitGroup // of base images, ahead of who needs them

	log     *recorder
	failing failing
	target  *plan.Stage
	shell   *shell // the build is for a shell
}

// Build runs req and returns what is left; of a build that fails while steps
// run, the result tells how many were done, and has no ID. Every mistake that can be known
// without running a step is reported before one runs, all of them together as
// dockerfile.Errors. Builds may run at once in one store, in any number of
// processes; a build that is killed leaves at most garbage that prune removes.
func (w *Whittle) Build(ctx context.Context, req Request) (_ *Result, err error) {
	if req.several() {
		return w.buildSeveral(ctx, req)
	}
	req.Platform = req.platforms()[0] // the same may have been said twice
	b := w.newBuild(req)
	defer b.end(&err)
	span := trace.Begin(ctx, "read the request")
	err = b.read(ctx)
	span.End()
	if err != nil {
		return nil, err
	}
	var res *Result
	err = b.opened(ctx, func(ctx context.Context) error {
		p, solved, err := b.solve(ctx)
		if err != nil && solved != nil {
			res = &Result{Took: b.opt.Now().Sub(b.began)}
			res.count(solved)
		}
		if err == nil {
			res, err = b.leave(ctx, p, solved)
		}
		return err
	})
	b.sweep(res, err)
	return res, err
}

// opened runs do while the store is in use, layers are fetched, and contexts and caches
// are open.
func (b *build) opened(ctx context.Context, do func(context.Context) error) (err error) {
	lock, err := b.use(ctx)
	if err != nil {
		return err
	}
	defer join(&err, lock.Close)
	defer b.closeContexts()
	ctx, stop := b.fetching(ctx)
	defer stop()
	if err := b.openCaches(ctx); err != nil {
		return err
	}
	defer b.closeCaches()
	return do(ctx)
}

// sweep removes what builds that were killed left behind, with one that works. That is
// done; that it could not tidy up is no failure.
func (b *build) sweep(res *Result, err error) {
	if err == nil && res.Ran > 0 {
		_, _, _ = b.store.Sweep()
	}
}

func (w *Whittle) newBuild(req Request) *build {
	b := &build{Whittle: w, req: req, sink: req.Sink, began: w.opt.Now(), ends: &ends{}}
	if req.files != nil {
		b.main = &buildContext{Context: req.files}
	}
	if b.sink == nil {
		b.sink = progress.Discard{}
	}
	b.log = newRecorder(b.sink, w.store)
	b.sink = b.log
	return b
}

// end is the last that happens in a build.
func (b *build) end(err *error) {
	for _, r := range b.receivers {
		r.shown.done(nil)
	}
	if *err != nil {
		e := failure(*err)
		var bad *FailedBuild
		if errors.As(*err, &bad) {
			e.Build, e.Kept = bad.ID, bad.Kept
		}
		b.sink.Emit(e)
	}
	b.log.close()
}

// solve plans the build and brings all its steps to their layers. Without a
// result no step was looked at.
func (b *build) solve(ctx context.Context) (*plan.Plan, *solve.Result, error) {
	if err := b.enter(ctx); err != nil {
		return nil, nil, err
	}
	p, err := b.prepare(ctx)
	if err != nil {
		return nil, nil, err
	}
	solved, err := b.solvePlan(ctx, p)
	return p, solved, err
}

// solvePlan brings all steps of a plan to their layers.
func (b *build) solvePlan(ctx context.Context, p *plan.Plan) (*solve.Result, error) {
	b.target = p.Target
	local := b.local()
	local.OnFailure = b.onFailure()
	s := &solve.Solver{
		Store: b.store, Scope: b.scope(), Runner: local, Contents: local, Sink: b.sink, Bases: basesOf(b.images),
		Jobs: b.req.Jobs, NoCache: b.anew, Epoch: b.epochText(), Now: b.opt.Now,
		Origin: b.path, Changes: b.changes, Explain: b.req.Explain,
	}
	s.Avoid, s.Instead, s.Flights = b.avoid, b.instead, b.flights
	if b.caches != nil {
		s.Elsewhere = b.caches
	}
	ahead := b.sealAhead(ctx, p)
	defer ahead.stop()
	s.Landed = ahead.landed
	stop := local.Prefetch(ctx, p)
	solved, err := b.solveWhole(ctx, s, p)
	ahead.end(err != nil)
	stop()
	err = errors.Join(err, local.Close())
	if err != nil {
		err = b.ended(err)
	}
	return solved, err
}

// read takes in what the request says: names, time, and the Dockerfile's text.
// Programs that steps will need are there, or it is an error.
func (b *build) read(ctx context.Context) error {
	if err := b.isolation.Check(); err != nil {
		return err
	}
	if b.req.Network == "private" {
		if err := sandbox.CheckPasta(); err != nil {
			return err
		}
	}
	err := b.takeTags()
	if err != nil {
		return err
	}
	if b.platform, err = b.req.wanted(); err != nil {
		return err
	}
	b.takeEpoch()
	if err := errors.Join(b.takeOutputs(), b.req.checkSecrets(), b.req.checkAllow()); err != nil {
		return err
	}
	if b.agents, err = b.req.openAgents(); err != nil {
		return err
	}
	if b.contexts, err = parseContexts(b.req.Contexts); err != nil {
		return err
	}
	return b.readMain(ctx)
}

// until is what read returns, which may be of a pipe that nobody writes to: when
// ctx ends first, the reading is left behind.
func until[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// readFile reads the Dockerfile, which may be a pipe that nobody writes to: then
// the reading is left behind when ctx ends.
func (b *build) readFile(ctx context.Context) error {
	type file struct {
		path string
		text []byte
	}
	name, in := b.shortName(), b.req.In
	f, err := until(ctx, func() (f file, err error) {
		if b.req.File == "-" {
			f.path = "-"
			f.text, err = source.ReadDockerfile(in, name)
			return f, err
		}
		f.path, f.text, err = source.FindDockerfile(b.req.Context, b.req.File)
		return f, err
	})
	b.path, b.text = f.path, f.text
	return err
}

// prepare parses, plans and looks for what the plan names. The mistakes of
// all three are reported together, as far as one does not hide the next.
func (b *build) prepare(ctx context.Context) (*plan.Plan, error) {
	known, err := b.parse()
	if err != nil || b.file == nil {
		return nil, reported(known, err)
	}
	p, more, err := b.inspect(ctx)
	for _, m := range more {
		if b.file.Certain(m) {
			known = append(known, m)
		}
	}
	if err != nil || len(known) > 0 {
		if p != nil {
			b.warn(slices.DeleteFunc(p.Warnings, func(w dockerfile.Warning) bool { return !b.file.CertainWarning(w) }))
		}
		return nil, reported(known, err)
	}
	b.announce(p)
	return p, nil
}

// inspect plans what Parse could read, and looks for what the plan names. Its
// error is what is no mistake of the Dockerfile.
func (b *build) inspect(ctx context.Context) (p *plan.Plan, mistakes dockerfile.Errors, err error) {
	if err := b.findEpoch(ctx); err != nil {
		return nil, nil, err
	}
	if b.epoch == nil && b.wants(func(o *Output) bool { return o.RewriteTimes }) {
		return nil, nil, &hinted{errors.New("output: rewrite-timestamp: no time is given"), "set SOURCE_DATE_EPOCH, to seconds or to context"}
	}
	span := trace.Begin(ctx, "plan, with its base images")
	p, b.images, err = b.planned(ctx, b.planRequest(), b.req.Pull, b.sink)
	span.End()
	if err == nil && b.shell != nil {
		p, err = b.cut(ctx, p)
	}
	if !collect(&mistakes, err) || p == nil {
		return nil, mistakes, err
	}
	if len(mistakes) == 0 {
		b.fetchAhead(ctx, p)
	}
	span = trace.Begin(ctx, "scan the context")
	err = b.openContexts(ctx, p)
	span.Set("bytes", b.contextSize())
	span.End()
	if err != nil {
		return p, mistakes, err
	}
	more, err := b.foreign(ctx, p)
	if mistakes = append(mistakes, more...); err != nil {
		return p, mistakes, err
	}
	mistakes = append(mistakes, b.powerless(p)...)
	missing, err := b.checkSources(ctx, p)
	if b.shell != nil && b.shell.step != nil {
		b.shell.takeOut(p)
	}
	return p, append(mistakes, missing...), err
}

// collect adds the mistakes that err is to known, and reports whether err was
// nothing else.
func collect(known *dockerfile.Errors, err error) bool {
	var more dockerfile.Errors
	if errors.As(err, &more) {
		*known = append(*known, more...)
		return true
	}
	return err == nil
}

// reported is the error for the mistakes known, or if there are none err.
func reported(known dockerfile.Errors, err error) error {
	if len(known) > 0 {
		return known.Sorted()
	}
	return err
}

// shortName is how messages call the Dockerfile.
func (b *build) shortName() string {
	if b.req.File == "-" || b.path == "-" {
		return "stdin"
	}
	rel, err := filepath.Rel(b.req.Context, b.path)
	if err == nil && b.kind == folderContext && filepath.IsLocal(rel) && b.req.File == "" {
		return rel
	}
	return b.path
}

// planRequest is the plan's part of the request.
func (b *build) planRequest() plan.Request {
	return plan.Request{
		File: b.file, Target: b.req.Target, Args: b.req.Args, Labels: b.req.Labels,
		Hosts: b.req.Hosts, Network: b.req.Network, Allow: b.req.allowed(), Limits: b.req.limits(),
		Platform: b.platform, BuildPlatform: platform(), Contexts: planContexts(b.contexts),
		Ignored: b.ignored(),
	}
}

// storeInside is the pattern that leaves the store out of a context which it
// lies in: a store that is copied while it grows has no content to speak of.
func (b *build) storeInside(dir string) []string {
	rel, err := filepath.Rel(dir, b.store.Dir())
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return nil
	}
	return []string{strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(rel)}
}

// announce tells the display what is going to happen.
func (b *build) announce(p *plan.Plan) {
	b.sink.Emit(progress.Event{Kind: progress.Context, Time: b.opt.Now(), Bytes: b.contextSize()})
	b.begin(p)
	b.warn(p.Warnings)
}

// begin tells which steps there are. Those that are over are to be done again.
func (b *build) begin(p *plan.Plan) {
	begin := progress.Event{Kind: progress.Begin, Time: b.opt.Now()}
	for _, l := range p.Lines {
		begin.Vertices = append(begin.Vertices, progress.Vertex{
			ID: l.Number, Label: l.Label, Stage: l.Stage.Display, Number: l.Number, Total: len(p.Lines),
			Text: l.Text, ConfigOnly: l.Step == nil, Line: l.Pos.Line,
		})
	}
	b.sink.Emit(begin)
}

func (b *build) warn(list []dockerfile.Warning) {
	for _, w := range list {
		b.sink.Emit(progress.Event{Kind: progress.Warned, Time: b.opt.Now(), Warning: &progress.Warning{
			File: w.File, Line: w.Line, Text: w.Text, Msg: w.Rule + ": " + w.Msg, Hint: w.Hint}})
	}
}

// checkSources finds the sources that do not exist, of the context and of
// images, before anything runs. What a stage will have is not known yet.
func (b *build) checkSources(ctx context.Context, p *plan.Plan) (dockerfile.Errors, error) {
	local := b.local()
	var mistakes dockerfile.Errors
	for _, s := range p.Steps {
		if s.Run != nil {
			m, err := b.checkMounts(ctx, s)
			if err != nil {
				return nil, err
			}
			mistakes = append(mistakes, m...)
		}
		c := s.Copy
		if c == nil || c.From != nil && c.From.Step != nil {
			continue
		}
		job := solve.Job{Step: s}
		if c.From != nil && c.From.Image != nil {
			job.From = chainOf(b.images[*c.From.Image])
		}
		m, err := local.Missing(ctx, job)
		if err != nil {
			return nil, err
		}
		mistakes = append(mistakes, m...)
	}
	return mistakes, nil
}

// local is the runner of this build's steps.
func (b *build) local() *execute.Local {
	l := &execute.Local{Store: b.store, Scope: b.scope(), Roots: b.rootFS(), Context: b.main.files(), Named: b.namedFiles(), Fetch: b.fetcher(), File: b.file, Sink: b.sink, Now: b.opt.Now, Epoch: b.epoch,
		Secret: b.req.Secret, Agents: b.agents, Resources: b.req.Resources, Isolation: b.isolation, Emulators: b.emulators, Known: b.known(), Mounts: b.scope()}
	if b.caches != nil {
		l.Bring, l.Usable = b.caches.bring, b.caches.Usable
	}
	if b.apart != nil {
		l.Mounts = *b.apart
	}
	return l
}

// tagged says whether the image has all its names already, with its annotations.
func (b *build) tagged(m *image.Image, names []image.Name) bool {
	var said image.Said
	said.About(m.ID, m.Annotations, nil)
	return !slices.ContainsFunc(names, func(n image.Name) bool {
		means, err := b.catalog.Meaning(n)
		return err != nil || means.ID != m.ID || len(means.Also) > 0 || !means.Said.Equal(said)
	})
}
