package solve

import (
	"context"
	"slices"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// Remake is what it takes to make a layer again that is elsewhere.
type Remake struct {
	// Took is how long its step took when it ran, and those above it of which nothing would
	// be found any more: a step that runs again may make another layer.
	Took   time.Duration
	Inputs []digest.Digest // layers that its step works on
}

// Remake says what it takes to make a layer of p again, as far as p is solved; ok is
// false when nobody knows. What depends on the step running, which may be nil, runs in any
// case.
func (r *Result) Remake(p *plan.Plan, layer digest.Digest, running *plan.Step) (m Remake, ok bool) {
	again, above := map[*plan.Step]bool{}, map[*plan.Step]bool{running: true}
	var first *Done
	for _, s := range p.Steps {
		if d := r.Steps[s]; d != nil && d.Layer == layer {
			if again[s] = true; first == nil {
				first = d
				m.Inputs = r.inputs(s)
			}
		}
	}
	if first == nil {
		return m, false
	}
	spread(p, again)
	spread(p, above)
	for s := range again {
		d := r.Steps[s]
		switch {
		case d == nil && above[s] || d != nil && d.Layer == layer && d != first:
		case d == nil || d.Cost == 0:
			return m, false
		default:
			m.Took += d.Cost
		}
	}
	return m, true
}

// spread adds to a set of steps all that depend on one of them.
func spread(p *plan.Plan, set map[*plan.Step]bool) {
	for more := true; more; {
		more = false
		for _, s := range p.Steps {
			if set[s] {
				continue
			}
			if slices.ContainsFunc(reads(s), func(root plan.Root) bool { return root.Step != nil && set[root.Step] }) {
				set[s], more = true, true
			}
		}
	}
}

// reads are the roots that a step depends on.
func reads(s *plan.Step) []plan.Root {
	list := append(s.Reads(), s.Below)
	if s.Copy != nil && s.Copy.From != nil {
		list = append(list, *s.Copy.From)
	}
	return list
}

func (r *Result) inputs(s *plan.Step) []digest.Digest {
	var out []digest.Digest
	for _, root := range reads(s) {
		out = append(out, r.Chain(root)...)
	}
	return out
}

// worthFetching asks, before a step runs, whether some layer that it works on is sooner made
// again than fetched: the error then is about those that are. While other steps run
// nobody asks: they would be stopped for it.
func (r *run) worthFetching(ctx context.Context, job Job) error {
	if r.Elsewhere == nil {
		return nil
	}
	r.mu.Lock()
	alone := r.active == 0
	r.mu.Unlock()
	if !alone {
		return nil
	}
	need := slices.Concat(append([]rootfs.Chain{job.Below, job.From}, job.Mounts...)...)
	return r.Elsewhere.Dear(ctx, need, func(layer digest.Digest) (Remake, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.result.Remake(r.plan, layer, job.Step)
	})
}

type othersKey struct{}

// noteOthers makes the context of a step that runs one of which Alone tells.
func (r *run) noteOthers(ctx context.Context) context.Context {
	return context.WithValue(ctx, othersKey{}, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.active > 1
	})
}

// Alone says of the context of a step that runs that no other one does, of the same solver. Outside
// of steps it is true.
func Alone(ctx context.Context) bool {
	others, ok := ctx.Value(othersKey{}).(func() bool)
	return !ok || !others()
}

// working counts the steps that run.
func (r *run) working(n int) {
	r.mu.Lock()
	r.active += n
	r.mu.Unlock()
}
