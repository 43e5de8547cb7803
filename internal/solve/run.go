package solve

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// Flights are the keys that builds run, which several solvers of one build may share:
// then a step that more than one of them has is run by one, and no more steps of all of them
// run at once than their slots are. A solver holds one only while a step of its runs or is
// about to, never while it waits for another's.
type Flights struct {
	mu    sync.Mutex
	of    map[digest.Digest]*flight
	slots chan struct{} // nil: any number may run
}

// NewFlights returns none, of which as many run at once as jobs says; 0 means no limit.
func NewFlights(jobs int) *Flights {
	f := &Flights{of: map[digest.Digest]*flight{}}
	if jobs > 0 {
		f.slots = make(chan struct{}, jobs)
	}
	return f
}

// flight is a key that this build runs. done is closed when that is over: it has a
// record then, or it is no flight any more.
type flight struct {
	done   chan struct{}
	landed bool
}

func (r *run) lookUpOrRun(ctx context.Context, line *plan.Line, job Job, key *digest.Key) (*Done, error) {
	if d := r.record(ctx, job); d != nil {
		return d, nil
	}
	for {
		f, first := r.flight(job.Key)
		if first {
			d, err := r.runAlone(ctx, line, job, key)
			r.over(job.Key, f, err == nil)
			return d, err
		}
		span := trace.Begin(ctx, "wait for the same step of another stage")
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		span.End()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if d := r.record(ctx, job); d != nil {
			return d, nil
		}
		if r.own(job.Key) { // somebody has removed the record since
			return r.runAlone(ctx, line, job, key)
		}
		// It failed. That stops all who share its build, in a moment, unless it is tried
		// another way there.
		select {
		case <-time.After(grace):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// grace is how long a step that failed elsewhere is not tried here.
const grace = 300 * time.Millisecond

// flight returns the flight of a key, and whether the caller is the first who
// asks and so the one to run it.
func (r *run) flight(key digest.Digest) (f *flight, first bool) {
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	f = r.flights.of[key]
	if f == nil {
		f, first = &flight{done: make(chan struct{})}, true
		r.flights.of[key] = f
	}
	return f, first
}

// over ends a flight. One that failed is gone: who waited for it is to run it, unless
// all are stopped.
func (r *run) over(key digest.Digest, f *flight, landed bool) {
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	if f.landed = landed; !landed {
		delete(r.flights.of, key)
	}
	close(f.done)
}

// runAlone runs a step unless another process does so, or has meanwhile. The
// slot comes first, so that no other build waits for a key whose step stands
// in line here, and is given up while another process is waited for.
func (r *run) runAlone(ctx context.Context, line *plan.Line, job Job, key *digest.Key) (*Done, error) {
	slot := slot{slots: r.flights.slots}
	span := trace.Begin(ctx, "wait for its turn")
	if err := slot.take(ctx); err != nil {
		return nil, err
	}
	defer slot.give()
	lock, err := r.Store.LockKey(ctx, r.Scope.Key(job.Key), func() {
		slot.give()
		r.emit(progress.Event{Kind: progress.Note, Vertex: line.Number, Text: "another build is running this step: waiting for it"})
	})
	span.End()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if d := r.record(ctx, job); d != nil {
		return d, nil
	}
	if err := slot.take(ctx); err != nil {
		return nil, err
	}
	return r.run(ctx, line, job, key)
}

// slot is one of the steps that may run at once.
type slot struct {
	slots chan struct{} // nil: any number may
	held  bool
}

func (s *slot) take(ctx context.Context) error {
	if s.slots == nil || s.held {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
		s.held = true
		return context.Cause(ctx) // of two that are ready, select takes either
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slot) give() {
	if s.held {
		s.held = false
		<-s.slots
	}
}

// record looks the key up. Under NoCache only what this build made counts.
func (r *run) record(ctx context.Context, job Job) *Done {
	key := job.Key
	if r.NoCache != nil && r.NoCache(job.Step) && !r.own(key) {
		return nil
	}
	rec := r.usable(key)
	if rec == nil && r.Elsewhere != nil {
		if found, err := r.Elsewhere.Find(ctx, key); err == nil && found {
			rec = r.usable(key)
		}
	}
	if rec == nil {
		return nil
	}
	return &Done{Key: key, Layer: rec.Layer, Cached: true, Size: rec.Size, Created: rec.Created, Cost: rec.Took}
}

// usable is what the store has under key, or nil. A broken record is a miss: the
// step runs again.
func (r *run) usable(key digest.Digest) *store.Record {
	rec, err := r.Store.Record(r.Scope.Key(key))
	if err != nil || r.Avoid != nil && r.Avoid(rec.Layer) || r.Elsewhere != nil && !r.Elsewhere.Usable(rec) {
		return nil
	}
	return rec
}

// own reports whether this build has run key.
func (r *run) own(key digest.Digest) bool {
	r.flights.mu.Lock()
	defer r.flights.mu.Unlock()
	f := r.flights.of[key]
	return f != nil && f.landed
}

func (r *run) run(ctx context.Context, line *plan.Line, job Job, key *digest.Key) (*Done, error) {
	if err := r.worthFetching(ctx, job); err != nil {
		return nil, err
	}
	if r.Explain {
		r.emit(progress.Event{Kind: progress.Note, Vertex: line.Number, Text: "runs " + r.why(job, key)})
	}
	job.Nonce = rand.Text()
	r.mu.Lock()
	r.started[line] = r.Now()
	r.mu.Unlock()
	r.emit(progress.Event{Kind: progress.Started, Vertex: line.Number, Key: job.Key.Short(), Name: container(job)})
	span := trace.Begin(ctx, "run")
	began, waited := r.Now(), job.waited()
	r.working(1)
	made, err := r.Runner.Run(r.noteOthers(ctx), job)
	r.working(-1)
	span.End()
	took := r.Now().Sub(began) - (job.waited() - waited) + job.keyed
	if err != nil {
		return nil, err
	}
	created := r.Now().UTC().Truncate(time.Second)
	if r.Instead != nil {
		return &Done{Key: job.Key, Layer: r.Instead(job.Step, made.Layer), Size: made.Size, Created: created}, nil
	}
	err = r.Store.PutRecord(r.Scope.Key(job.Key), &store.Record{
		Layer: made.Layer, Kind: kind(job.Step), Size: made.Size, Entries: made.Entries,
		Created: created, Text: line.Text, Fields: key.Fields(), Nonce: job.Nonce, Step: job.Key,
		Extra: r.whereabouts(job.Step), Took: took,
	})
	if err != nil {
		return nil, fmt.Errorf("record of %q: %w", line.Text, err)
	}
	return &Done{Key: job.Key, Layer: made.Layer, Size: made.Size, Created: created, Cost: took}, nil
}

// container is the name under which the classic view speaks of a running
// step.
func container(job Job) string {
	k := digest.NewKey("container")
	k.Digest("key", job.Key)
	k.Text("nonce", job.Nonce)
	return k.Sum().Short()
}
