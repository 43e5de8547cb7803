// Package solve runs a plan: for each step key → look up → run → record, each
// stage as soon as what it reads is there, side by side.
//
// It knows neither how a step is run nor where its layers lie; a Runner does
// that, and may do it anywhere, because a step is data. It promises that a
// step whose key has a record is not run, that a step which another stage or
// another process is running right now is waited for and not run twice, and
// that everything it started has ended when it returns.
//
// Nothing can wait in a circle: a step waits for the stages above it before it
// holds anything, for another stage's run of its key while it holds nothing,
// and for another process's while it holds no slot; who runs waits for nobody.
package solve

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// A Runner makes the layer of one step.
type Runner interface {
	Run(ctx context.Context, job Job) (Made, error)
}

// Contents tells the digest of what a COPY or ADD would copy, without
// copying it.
type Contents interface {
	Content(ctx context.Context, job Job) (digest.Digest, error)
}

// Elsewhere are records that the store lacks.
type Elsewhere interface {
	// Find takes what is recorded under key into the store, and reports whether
	// there was something.
	Find(ctx context.Context, key digest.Digest) (bool, error)
	// Usable says whether a record of the store may be used: of the layer that it names
	// there may be another than it was about.
	Usable(rec *store.Record) bool
	// Dear returns an error with a rootfs.LostError for each layer of need that is not here,
	// and that is sooner made again, as remake tells, than it comes from elsewhere.
	Dear(ctx context.Context, need []digest.Digest, remake func(layer digest.Digest) (Remake, bool)) error
}

// Job is a step with its inputs.
type Job struct {
	Step    *plan.Step
	Key     digest.Digest  // zero while the key is being made
	Content digest.Digest  // of what a COPY or ADD copies
	Nonce   string         // makes the id of a layer that is born as a tree
	Below   rootfs.Chain   // the chain under the step
	From    rootfs.Chain   // what a COPY --from reads
	Mounts  []rootfs.Chain // what each mount of a RUN reads
	InRoot  bool           // a later step of this plan runs a process on top of it, or mounts it
	Fresh   bool           // no cache of an earlier build may be used, those of mounts included
	Vertex  int            // for progress
	Kept    *Kept          // nil: nothing is

	waited func() time.Duration // for layers that the step works on to come from elsewhere
	keyed  time.Duration        // how long it took, but for that, to make the key, which reads what is copied
}

// Kept is what was made while a step's content was found out, and is of use when
// the step runs. It is closed when the step is done, run or not.
type Kept struct{ Made io.Closer }

func (k *Kept) close() error {
	if k.Made == nil {
		return nil
	}
	return k.Made.Close()
}

// Made is the layer that a Runner made and committed.
type Made struct {
	Layer   digest.Digest
	Size    int64 // bytes of regular files
	Entries int
}

// Solver holds what a solve needs.
type Solver struct {
	Store    *store.Store
	Runner   Runner
	Contents Contents
	// Elsewhere, which may be nil, is asked for what the store has no record of.
	Elsewhere Elsewhere
	// Avoid, which may be nil, says of which layers no record counts.
	Avoid func(layer digest.Digest) bool
	Sink  progress.Sink
	Scope store.Scope // whose records count
	Bases map[plan.Ref]Base
	Jobs  int // steps run at once; 0 means no limit. Flights that are shared have their own
	// NoCache says whether to run a step without looking for a record that an
	// earlier build made; nil: none is.
	NoCache func(*plan.Step) bool
	// Epoch is the time that folders made by COPY, ADD and WORKDIR get, as text;
	// "" means that of the build, which is no part of a key.
	Epoch string
	// Origin names the Dockerfile, so that a step that fails can be compared
	// with the run of it that last worked. Changes, which may be nil, tells the
	// names of the files in which two layers differ.
	Origin  string
	Changes func(was, is digest.Digest) []string
	// Landed, which may be nil, is told of each step that was run and not found
	// done, before the next one of its stage begins.
	Landed func(s *plan.Step, layer digest.Digest)
	// Instead, which may be nil, is told of the layer that each step made, and returns
	// the one that those after it see in its place. Then nothing is recorded: what is made
	// is for comparison.
	Instead func(s *plan.Step, made digest.Digest) digest.Digest
	// Explain tells of each step that runs why it is not taken from a cache.
	Explain bool
	Now     func() time.Time
	Flights *Flights // shared with other solvers of the same build; nil: with none
}

// Base is a resolved base image.
type Base struct {
	ID    digest.Digest
	Chain rootfs.Chain
}

// Done is what became of one step.
type Done struct {
	Key     digest.Digest
	Layer   digest.Digest
	Chain   rootfs.Chain // up to and including the step
	Cached  bool
	Size    int64
	Created time.Time // when the layer was made, perhaps by an earlier build
	Took    time.Duration
	Cost    time.Duration // how long the run took that made the layer; 0 if nobody knows
}

// Result has an entry for every step of the plan.
type Result struct {
	Steps map[*plan.Step]*Done
	bases map[plan.Ref]Base
}

// Chain returns the layers of a root of the plan.
func (r *Result) Chain(root plan.Root) rootfs.Chain {
	if root.Step != nil {
		return r.Steps[root.Step].Chain
	}
	if root.Image != nil {
		return r.bases[*root.Image].Chain
	}
	return nil
}

// run is one call of Solve.
type run struct {
	*Solver
	plan   *plan.Plan
	inRoot map[*plan.Step]bool
	done   map[*plan.Stage]chan struct{} // closed when the stage is solved

	mu      sync.Mutex
	result  *Result
	flights *Flights
	started map[*plan.Line]time.Time
	active  int // steps that run
}

// Solve runs every step of p that has no record and returns what all of them
// left. It stops at the first error, after everything that it started has
// ended; the result then has the steps that were done before.
func (s *Solver) Solve(ctx context.Context, p *plan.Plan) (*Result, error) {
	r := &run{
		Solver: s, plan: p,
		inRoot:  inRoot(p),
		done:    map[*plan.Stage]chan struct{}{},
		result:  &Result{Steps: map[*plan.Step]*Done{}, bases: s.Bases},
		flights: s.Flights,
		started: map[*plan.Line]time.Time{},
	}
	if r.flights == nil {
		r.flights = NewFlights(s.Jobs)
	}
	for _, st := range p.Stages {
		r.done[st] = make(chan struct{})
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, st := range p.Stages {
		g.Go(func() error {
			if err := r.stage(ctx, st); err != nil {
				return err
			}
			close(r.done[st])
			return nil
		})
	}
	return r.result, g.Wait()
}

// inRoot finds the steps on whose layers a process will run: and that
// mounts show: only those need the form that can be mounted.
func inRoot(p *plan.Plan) map[*plan.Step]bool {
	in := map[*plan.Step]bool{}
	for _, s := range p.Steps {
		if s.Run == nil {
			continue
		}
		for _, root := range append(s.Reads(), s.Below) {
			for b := root.Step; b != nil && !in[b]; b = b.Below.Step {
				in[b] = true
			}
		}
	}
	return in
}

// stage solves the lines of one stage in order.
func (r *run) stage(ctx context.Context, st *plan.Stage) error {
	var prev digest.Digest
	ctx = trace.Lane(ctx, "stage "+st.Display)
	for _, line := range st.Lines {
		if line.Step == nil {
			prev = r.configLine(line, prev)
			continue
		}
		d, err := r.step(ctx, line)
		if err != nil {
			return err
		}
		prev = d.Key
	}
	return nil
}

// configLine tells the progress of an instruction that makes no layer. Its
// key exists for people only: nothing is recorded under it.
func (r *run) configLine(line *plan.Line, prev digest.Digest) digest.Digest {
	key := prev
	if base, ok := r.base(line); ok {
		key = base
	} else {
		k := digest.NewKey("config")
		k.Digest("before", prev)
		k.Digest("state", line.State)
		key = k.Sum()
	}
	r.emit(progress.Event{Kind: progress.Done, Vertex: line.Number, Key: key.Short()})
	return key
}

// base returns the identity of the image that a FROM line names.
func (r *run) base(line *plan.Line) (digest.Digest, bool) {
	st := line.Stage
	if line != st.Line {
		return digest.Digest{}, false
	}
	if st.Base.Image != nil {
		return r.Bases[*st.Base.Image].ID, true
	}
	return digest.Digest{}, false
}

func (r *run) emit(e progress.Event) {
	e.Time = r.Now()
	r.Sink.Emit(e)
}

// wait returns when the stage of root is solved, and then its chain.
func (r *run) wait(ctx context.Context, own *plan.Stage, root plan.Root) (rootfs.Chain, error) {
	if root.Step != nil && root.Step.Stage != own {
		span := trace.Begin(ctx, "wait for stage "+root.Step.Stage.Display)
		defer span.End()
		select {
		case <-r.done[root.Step.Stage]:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result.Chain(root), nil
}

// step brings one step to its layer, by record or by running it.
func (r *run) step(ctx context.Context, line *plan.Line) (_ *Done, err error) {
	s := line.Step
	span := trace.Begin(ctx, line.Label)
	defer span.End()
	job := Job{Step: s, InRoot: r.inRoot[s], Vertex: line.Number, Fresh: r.NoCache != nil && r.NoCache(s), Kept: &Kept{}}
	defer func() { err = errors.Join(err, job.Kept.close()) }()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if job.Below, err = r.wait(ctx, s.Stage, s.Below); err != nil {
		return nil, err
	}
	if s.Copy != nil && s.Copy.From != nil {
		if job.From, err = r.wait(ctx, s.Stage, *s.Copy.From); err != nil {
			return nil, err
		}
	}
	if job.Mounts, err = r.waitMounts(ctx, s); err != nil {
		return nil, err
	}
	ctx, job.waited = rootfs.Timed(ctx)
	began := r.Now()
	keySpan := trace.Begin(ctx, "key")
	key, err := r.key(ctx, &job)
	keySpan.End()
	job.keyed = r.Now().Sub(began) - job.waited()
	if err != nil {
		return nil, r.failed(ctx, line, began, nil, err)
	}
	d, err := r.lookUpOrRun(ctx, line, job, key)
	if err != nil {
		return nil, r.failed(ctx, line, began, key, err)
	}
	d.Took = r.Now().Sub(began)
	d.Chain = job.Below.Push(d.Layer)
	r.mu.Lock()
	r.result.Steps[s] = d
	r.mu.Unlock()
	span.Set("cached", d.Cached)
	span.Set("bytes", d.Size)
	kind := progress.Done
	switch {
	case d.Cached:
		kind = progress.Cached
	case r.Landed != nil:
		r.Landed(s, d.Layer)
	}
	r.emit(progress.Event{Kind: kind, Vertex: line.Number, Key: d.Key.Short()})
	return d, nil
}

// failed reports a line's failure to whoever watches. A step that was stopped
// because another failed, or because the build was, did not fail itself, nor did
// one whose input is lost.
// key is nil when it could not be made.
func (r *run) failed(ctx context.Context, line *plan.Line, began time.Time, key *digest.Key, err error) error {
	e := progress.Event{Kind: progress.Done, Vertex: line.Number, Err: err}
	var lost *rootfs.LostError
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) || errors.As(err, &lost) {
		e.Err = context.Canceled
		r.emit(e)
		return err
	}
	e.Time = r.Now()
	// A shell may have been in it since.
	var ended interface{ Ended() time.Time }
	if errors.As(err, &ended) {
		e.Time = ended.Ended()
	}
	r.mu.Lock()
	if at, ok := r.started[line]; ok {
		began = at
	}
	r.mu.Unlock()
	e.Took = e.Time.Sub(began)
	if key != nil {
		e.Worked, e.Changed = r.changed(line.Step, key.Fields())
	}
	r.Sink.Emit(e)
	return err
}

// key makes the step's key: all of it is known before any work starts.
func (r *run) key(ctx context.Context, job *Job) (*digest.Key, error) {
	s := job.Step
	k := digest.NewKey(kind(s))
	s.KeyFields(k)
	if s.Copy == nil || !s.Copy.Link {
		k.Digest("below", job.Below.ID())
	}
	if s.Run == nil && r.Epoch != "" {
		k.Text("epoch", r.Epoch)
	}
	if s.Copy != nil {
		d, err := r.Contents.Content(ctx, *job)
		if err != nil {
			return nil, err
		}
		k.Digest("content", d)
		job.Content = d
	}
	if s.Run != nil {
		if err := r.mountKeys(ctx, k, *job); err != nil {
			return nil, err
		}
	}
	job.Key = k.Sum()
	return k, nil
}

func kind(s *plan.Step) string {
	switch {
	case s.Run != nil:
		return "run"
	case s.Copy != nil:
		return "copy"
	default:
		return "workdir"
	}
}
