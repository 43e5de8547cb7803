package whittle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/solve"
)

// Target is one of the stages that a build is for, with what is to be left of it.
type Target struct {
	Stage   string
	Tags    []string
	Outputs []Output
}

// platforms are those that the request names, apart.
func (r *Request) platforms() []string {
	var list []string
	known := map[plan.Platform]bool{}
	for p := range strings.SplitSeq(r.Platform, ",") {
		p = strings.TrimSpace(p)
		if one, err := plan.ParsePlatform(p, platform()); err == nil {
			if one = one.Normalize(); known[one] {
				continue
			}
			known[one] = true
		}
		list = append(list, p)
	}
	return list
}

// several says whether the request is for more than one stage or platform, or for what
// stands in an index as those do.
func (r *Request) several() bool { return len(r.Targets) > 0 || len(r.platforms()) > 1 || r.attests() }

// part is one stage of a build for one platform: a build of its own, on contexts and
// caches that are shared. Steps that several parts have are run by one of them.
type part struct {
	*build
	plan   *plan.Plan
	solved *solve.Result
	inside []inside // once somebody wanted to know
}

// files are those of the target, once it is solved.
func (p *part) files(ctx context.Context) (entry.FS, error) {
	return p.rootFS().View(ctx, p.solved.Chain(p.plan.Target.Root))
}

// buildSeveral runs a request for several stages or platforms. They are planned one
// after the other, so that every mistake is told before a step runs, and run side by side. When one
// fails the others are stopped.
func (w *Whittle) buildSeveral(ctx context.Context, req Request) (_ *Result, err error) {
	b := w.newBuild(req)
	defer b.end(&err)
	groups, err := b.groups(ctx)
	if err != nil {
		return nil, err
	}
	var res *Result
	err = b.opened(ctx, func(ctx context.Context) (err error) {
		res, err = b.buildGroups(ctx, groups)
		return err
	})
	b.sweep(res, err)
	return res, err
}

// buildGroups runs all parts, and leaves what is wanted of each group.
func (b *build) buildGroups(ctx context.Context, groups [][]*part) (*Result, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	b.entered = true
	parts := slices.Concat(groups...)
	defer func() {
		for _, p := range parts {
			for _, r := range p.receivers {
				r.shown.done(nil)
			}
		}
	}()
	if err := b.planParts(ctx, parts); err != nil {
		return nil, err
	}
	err := solveParts(ctx, parts)
	res := &Result{Took: b.opt.Now().Sub(b.began)}
	if err == nil {
		res.Parts, err = b.leaveGroups(ctx, groups)
	}
	if !isFailure(err) {
		res.sum()
		return res, err
	}
	for _, p := range parts {
		if p.solved != nil {
			res.count(p.solved)
		}
	}
	return res, err
}

// groups makes the parts, those of a stage for all platforms together. The main context and the
// Dockerfile are read once for all.
func (b *build) groups(ctx context.Context) (groups [][]*part, err error) {
	req := b.req
	if err := req.CheckOutputs(); err != nil {
		return nil, err
	}
	targets := req.Targets
	if len(targets) == 0 {
		targets = []Target{{req.Target, req.Tags, req.Outputs}}
	}
	platforms := req.platforms()
	b.req.Platform, b.req.Target, b.req.Tags, b.req.Outputs, b.req.Targets = "", "", nil, nil, nil
	push := b.req.Push
	b.req.Push, b.req.Load, b.peers, b.parted = false, false, len(platforms) > 1, true
	if err := b.read(ctx); err != nil {
		return nil, err
	}
	b.outputs = nil
	n, flights := 0, solve.NewFlights(req.Jobs)
	for _, t := range targets {
		var g []*part
		for _, platform := range platforms {
			n++
			k := b.part(n)
			k.flights = flights
			k.req.Platform, k.req.Target, k.req.Tags, k.req.Outputs = platform, t.Stage, t.Tags, t.Outputs
			k.req.Push, k.req.Load = push, req.Load
			k.peers, k.another = len(platforms) > 1, len(g) > 0
			k.sink = &partSink{next: b.sink, part: n, quiet: k.peers, prefix: prefixOf(len(targets) > 1, t.Stage, k.peers, platform)}
			if err := k.readPart(); err != nil {
				return nil, err
			}
			b.outputs = append(b.outputs, k.outputs...)
			g = append(g, &part{build: k})
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// part is a build on what b has read.
func (b *build) part(n int) *build {
	return &build{Whittle: b.Whittle, req: b.req, path: b.path, text: b.text, began: b.began, agents: b.agents,
		ends: b.ends, kind: b.kind, contexts: b.contexts, stdin: b.stdin, log: b.log, within: b, number: n}
}

// readPart takes in what the part's request says.
func (b *build) readPart() (err error) {
	if err := b.takeTags(); err != nil {
		return err
	}
	if b.platform, err = b.req.wanted(); err != nil {
		return err
	}
	b.takeEpoch()
	return b.takeOutputs()
}

// planParts plans all parts, on the same contexts.
func (b *build) planParts(ctx context.Context, parts []*part) error {
	if b.named == nil {
		b.named = map[string]*buildContext{}
	}
	for _, p := range parts {
		p.entered, p.remote, p.path, p.text = true, b.remote, b.path, b.text
		p.main, p.named, p.caches, p.fetch = b.main, b.named, b.caches, b.fetch
		made, err := p.prepare(ctx)
		b.main, b.fetch = p.main, p.fetch
		if err != nil {
			return err
		}
		p.plan = made
	}
	if err := b.lookIntoContext(ctx, parts); err != nil {
		return err
	}
	return b.findGenerator(ctx)
}

// solveParts runs all parts side by side. The first that fails stops the others.
func solveParts(ctx context.Context, parts []*part) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	for i, p := range parts {
		wg.Go(func() {
			if p.solved, errs[i] = p.solvePlan(ctx, p.plan); errs[i] != nil {
				stop(errOtherPart)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errOtherPart) {
			return err
		}
	}
	return errors.Join(errs...)
}

var errOtherPart = errors.New("another part of the build has failed")

// leaveGroup leaves what is wanted of one stage, for all its platforms, but for what is done
// at the end.
func (b *build) leaveGroup(ctx context.Context, g []*part) (*Result, error) {
	if b.isPlain(g) {
		return g[0].leaveHere(ctx, g[0].plan, g[0].solved)
	}
	return leavePlatforms(ctx, g)
}

// sendGroup sends what goes elsewhere, and says what is left.
func (b *build) sendGroup(ctx context.Context, g []*part, res *Result) error {
	if b.isPlain(g) {
		return g[0].send(ctx, g[0].plan, g[0].solved, res)
	}
	return sendPlatforms(ctx, g, res)
}

// isPlain says whether a group leaves an image without an index.
func (b *build) isPlain(g []*part) bool { return len(g) == 1 && !b.req.attests() }

// vertices is how many steps one part may have in a display.
const vertices = 1 << 20

// prefixOf tells a part from others, in front of the names of its steps.
func prefixOf(byTarget bool, target string, byPlatform bool, platform string) string {
	var list []string
	if byPlatform {
		list = append(list, platform)
	}
	if byTarget {
		list = append(list, target)
	}
	return strings.Join(list, " ")
}

// partSink is where a part tells what happens: its steps have numbers and names that
// no other part's have.
type partSink struct {
	next   progress.Sink
	part   int // from 1
	prefix string
	quiet  bool // what is left is told for all platforms together
}

// Emit implements progress.Sink.
func (s *partSink) Emit(e progress.Event) {
	switch e.Kind {
	case progress.Failed:
		return // the whole build tells it
	case progress.Context:
		if s.part > 1 {
			return // it is the same
		}
	case progress.Remains, progress.Result:
		if s.quiet {
			return
		}
	}
	if e.Vertex > 0 {
		e.Vertex += s.part * vertices
	}
	if len(e.Vertices) > 0 {
		e.Vertices = slices.Clone(e.Vertices)
		for i := range e.Vertices {
			s.name(&e.Vertices[i])
		}
	}
	s.next.Emit(e)
}

func (s *partSink) name(v *progress.Vertex) {
	if v.ID > 0 {
		v.ID += s.part * vertices
	}
	rest, ok := strings.CutPrefix(v.Label, "[")
	switch {
	case s.prefix == "" || strings.HasPrefix(rest, "internal]"):
	case ok:
		v.Label = "[" + s.prefix + " " + rest
	case v.ID > 0:
		v.Label = "[" + s.prefix + "] " + v.Label
	}
}

// sum makes the result of a build that of its parts.
func (res *Result) sum() {
	for _, p := range res.Parts {
		res.Cached += p.Cached
		res.Ran += p.Ran
	}
}

// mainOf is the one of several images that a name means: the one for this machine, or
// the first.
func mainOf(images []*image.Image) int {
	here := platform()
	i := slices.IndexFunc(images, func(m *image.Image) bool {
		p := m.Platform()
		return p.OS == here.OS && p.Architecture == here.Arch
	})
	return max(i, 0)
}
