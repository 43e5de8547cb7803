package whittle

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/compare"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// Verification is what two runs of the same steps tell of each other.
type Verification struct {
	ID    digest.Digest      `json:"id"`   // of the image, with times rewritten where there is a SourceDateEpoch
	Took  [2]time.Duration   `json:"took"` // nanoseconds
	Steps []StepVerification `json:"steps,omitempty"`
	Times int                `json:"times,omitempty"` // files of which the time alone differs
	Epoch bool               `json:"epoch,omitempty"` // there is a SourceDateEpoch
}

// StepVerification is a step that made something else the second time.
type StepVerification struct {
	Label string               `json:"label"`
	Text  string               `json:"text"`
	File  string               `json:"file"`
	Line  int                  `json:"line"`
	Files []compare.Difference `json:"files"`
	More  int                  `json:"more,omitempty"` // differences beyond those of Files
}

// maxDifferences bounds those that are told of one step.
const maxDifferences = 100

// Reproducible says whether all steps made the same files; their times may differ.
func (v *Verification) Reproducible() bool { return len(v.Steps) == 0 }

// Same says whether the image is the same, to the last byte.
func (v *Verification) Same() bool { return v.Reproducible() && v.Times == 0 && v.Epoch }

// Verify runs all steps of req twice, without any cache, and compares what each made.
// The second time each step runs on what the first time made, so that it differs by itself or not
// at all. No image is left; the cache has what was made the first time.
func (w *Whittle) Verify(ctx context.Context, req Request) (_ *Verification, err error) {
	req.NoCache, req.NoCacheStages, req.CacheFrom, req.CacheTo = true, nil, nil, nil
	req.Tags, req.Outputs, req.Push, req.Load = nil, nil, false, false
	lock, err := w.use(ctx)
	if err != nil {
		return nil, err
	}
	defer join(&err, lock.Close)
	first, took1, err := w.once(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	// What takes the time of day into a file is to take another one.
	select {
	case <-time.After(first.began.Add(1100 * time.Millisecond).Sub(w.opt.Now())):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	made := make([]digest.Digest, len(first.plan.Steps))
	var mu sync.Mutex
	second, took2, err := w.once(ctx, req, func(s *plan.Step, layer digest.Digest) digest.Digest {
		mu.Lock()
		defer mu.Unlock()
		if s.ID >= len(made) {
			return layer // somebody changes the Dockerfile
		}
		made[s.ID] = layer
		return first.solved.Steps[first.plan.Steps[s.ID]].Layer
	})
	if err != nil {
		return nil, err
	}
	if len(second.plan.Steps) != len(made) {
		return nil, errors.New("the Dockerfile was changed between the two builds")
	}
	v := &Verification{Took: [2]time.Duration{took1, took2}, Epoch: first.epoch != nil}
	m, err := first.makeImage(ctx, first.plan, first.solved)
	if err == nil && first.epoch != nil {
		m, err = first.redated(ctx, first.plan, m)
	}
	if err != nil {
		return nil, err
	}
	v.ID = m.ID
	return v, v.compare(ctx, first, made)
}

// once is one of the two builds.
func (w *Whittle) once(ctx context.Context, req Request, instead func(*plan.Step, digest.Digest) digest.Digest) (_ *part, took time.Duration, err error) {
	p := &part{build: w.newBuild(req)}
	p.instead = instead
	defer p.end(&err)
	if err := p.read(ctx); err != nil {
		return nil, 0, err
	}
	err = p.opened(ctx, func(ctx context.Context) (err error) {
		p.plan, p.solved, err = p.solve(ctx)
		return err
	})
	return p, p.opt.Now().Sub(p.began), err
}

// compare finds the steps that made something else.
func (v *Verification) compare(ctx context.Context, first *part, made []digest.Digest) error {
	for i, s := range first.plan.Steps {
		was := first.solved.Steps[s]
		if made[i].IsZero() || made[i] == was.Layer {
			continue // a step like it was run in its place
		}
		one := StepVerification{Label: s.Line.Label, Text: s.Line.Text, File: first.shortName(), Line: s.Line.Pos.Line}
		err := first.differences(ctx, was.Chain, made[i], func(d compare.Difference) {
			switch {
			case d.Kind == compare.Time && first.epoch != nil && later(d.First, *first.epoch) && later(d.Second, *first.epoch):
				// which rewriting makes the same
			case d.Kind == compare.Time:
				v.Times++
			case len(one.Files) < maxDifferences:
				one.Files = append(one.Files, d)
			default:
				one.More++
			}
		})
		if err != nil {
			return err
		}
		if len(one.Files) > 0 {
			v.Steps = append(v.Steps, one)
		}
	}
	return nil
}

// later says whether seconds since 1970 are not before a time.
func later(seconds string, than time.Time) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	return err == nil && n >= than.Unix()
}

// differences compares the topmost layer of a chain with another in its place.
func (p *part) differences(ctx context.Context, chain rootfs.Chain, other digest.Digest, found func(compare.Difference)) error {
	below := chain[:len(chain)-1]
	var ids [2]digest.Digest
	for i, id := range []digest.Digest{chain[len(chain)-1], other} {
		l, err := p.imageLayer(ctx, id)
		if err != nil {
			return err
		}
		ids[i] = l.DiffID
	}
	if ids[0] == ids[1] {
		return nil
	}
	a, err := p.rootFS().Layer(ctx, chain)
	if err != nil {
		return err
	}
	b, err := p.rootFS().Layer(ctx, below.Push(other))
	if err != nil {
		return err
	}
	return compare.Trees(ctx, a, b, func(d compare.Difference) bool { found(d); return true })
}
