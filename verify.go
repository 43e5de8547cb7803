package whittle

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/compare"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// Verification is what two runs of the same steps tell of each other.
type Verification struct {
	ID     digest.Digest       `json:"id"`     // of the image, with times rewritten where there is a SourceDateEpoch
	Second digest.Digest       `json:"second"` // the same of what the second run made
	Took   [2]time.Duration    `json:"took"`   // nanoseconds
	Steps  []StepVerification  `json:"steps,omitempty"`
	Times  int                 `json:"times,omitempty"`  // files of which the time alone differs
	Epoch  bool                `json:"epoch,omitempty"`  // there is a SourceDateEpoch
	Layers []LayerVerification `json:"layers,omitempty"` // of the image
	Config bool                `json:"config,omitempty"` // the images' configs differ in more than times and layers
}

// LayerVerification is a layer that is another the second time, though none of its files
// was found to differ.
type LayerVerification struct {
	Label  string        `json:"label"` // of its step; "" is one of the base image
	File   string        `json:"file,omitempty"`
	Line   int           `json:"line,omitempty"`
	First  digest.Digest `json:"first"` // diffIDs
	Second digest.Digest `json:"second"`
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

// Reproducible says whether nothing differs but times.
func (v *Verification) Reproducible() bool {
	return len(v.Steps) == 0 && len(v.Layers) == 0 && !v.Config
}

// Same says whether the image is the same, to the last byte.
func (v *Verification) Same() bool { return v.ID == v.Second }

// Verify runs all steps of req twice, without any cache, and compares what each made.
// The second time each step runs on what the first time made, so that it differs by itself or not
// at all. No image is left; the cache has what was made the first time. Cache mounts begin
// empty each time, and those that are there stay as they are.
func (w *Whittle) Verify(ctx context.Context, req Request) (_ *Verification, err error) {
	req.NoCache, req.NoCacheStages, req.CacheFrom, req.CacheTo = true, nil, nil, nil
	req.Tags, req.Outputs, req.Push, req.Load, req.Squash = nil, nil, false, false, false
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
	told, err := v.compare(ctx, first, made)
	if err != nil {
		return nil, err
	}
	return v, v.images(ctx, first, second, made, told)
}

// once is one of the two builds.
func (w *Whittle) once(ctx context.Context, req Request, instead func(*plan.Step, digest.Digest) digest.Digest) (_ *part, took time.Duration, err error) {
	p := &part{build: w.newBuild(req)}
	apart := store.ScopeOf(digest.Of([]byte(rand.Text())))
	p.instead, p.apart = instead, &apart
	defer p.end(&err)
	defer join(&err, func() error { return w.dropCacheMounts(apart) })
	if err := p.read(ctx); err != nil {
		return nil, 0, err
	}
	err = p.opened(ctx, func(ctx context.Context) (err error) {
		p.plan, p.solved, err = p.solve(ctx)
		return err
	})
	return p, p.opt.Now().Sub(p.began), err
}

// images compares the two images by their digests, and finds what makes them differ beside
// the differences that are told of steps.
func (v *Verification) images(ctx context.Context, first, second *part, made []digest.Digest, told map[digest.Digest]bool) error {
	var m [2]*image.Image
	for i, p := range []*part{first, second} {
		solved := p.solved
		if p == second {
			solved = p.solvedBy(made)
		}
		var err error
		if m[i], err = p.makeImage(ctx, p.plan, solved); err == nil && p.epoch != nil {
			m[i], err = p.redated(ctx, p.plan, m[i])
		}
		if err != nil {
			return err
		}
	}
	v.ID, v.Second = m[0].ID, m[1].ID
	same, err := sameButTimes(m[0], m[1])
	if err != nil {
		return err
	}
	v.Config = !same
	steps := lineage(first.plan)
	base := len(m[0].Layers) - len(steps)
	for i := range min(len(m[0].Layers), len(m[1].Layers)) {
		one := LayerVerification{First: m[0].Layers[i].DiffID, Second: m[1].Layers[i].DiffID}
		if one.First == one.Second || i >= base && told[first.solved.Steps[steps[i-base]].Key] {
			continue
		}
		if i >= base {
			l := steps[i-base].Line
			one.Label, one.File, one.Line = l.Label, first.shortName(), l.Pos.Line
		}
		v.Layers = append(v.Layers, one)
	}
	return nil
}

// lineage are the steps whose layers the target's image has, the lowest first.
func lineage(p *plan.Plan) (list []*plan.Step) {
	for s := p.Target.Root.Step; s != nil; s = s.Below.Step {
		list = append(list, s)
	}
	slices.Reverse(list)
	return list
}

// solvedBy is what p would be solved to, had each step's layer not been replaced.
func (p *part) solvedBy(made []digest.Digest) *solve.Result {
	byKey := map[digest.Digest]digest.Digest{} // a step may have been run in place of another like it
	for i, s := range p.plan.Steps {
		if !made[i].IsZero() {
			byKey[p.solved.Steps[s].Key] = made[i]
		}
	}
	out := *p.solved
	out.Steps = maps.Clone(p.solved.Steps)
	for _, s := range lineage(p.plan) {
		d := *out.Steps[s]
		if l, ok := byKey[d.Key]; ok {
			d.Layer = l
		}
		d.Chain = out.Chain(s.Below).Push(d.Layer)
		out.Steps[s] = &d
	}
	return &out
}

// sameButTimes says whether two images have the same config but for times and layers.
func sameButTimes(a, b *image.Image) (bool, error) {
	var docs [2][]byte
	for i, m := range []*image.Image{a, b} {
		cfg := m.Config.Clone()
		cfg.Created, cfg.DiffIDs = nil, nil
		for k := range cfg.History {
			cfg.History[k].Created = nil
		}
		var err error
		if docs[i], err = json.Marshal(cfg); err != nil {
			return false, err
		}
	}
	return len(a.Layers) == len(b.Layers) && bytes.Equal(docs[0], docs[1]), nil
}

// compare finds the steps that made something else. told are the keys of those of which any
// difference was found: of two with one key only one is run the second time.
func (v *Verification) compare(ctx context.Context, first *part, made []digest.Digest) (told map[digest.Digest]bool, err error) {
	told = map[digest.Digest]bool{}
	for i, s := range first.plan.Steps {
		was := first.solved.Steps[s]
		if made[i].IsZero() || made[i] == was.Layer {
			continue // a step like it was run in its place
		}
		one := StepVerification{Label: s.Line.Label, Text: s.Line.Text, File: first.shortName(), Line: s.Line.Pos.Line}
		err := first.differences(ctx, was.Chain, made[i], func(d compare.Difference) {
			if d.Kind == compare.Time && first.epoch != nil && later(d.First, *first.epoch) && later(d.Second, *first.epoch) {
				return // which rewriting makes the same
			}
			told[was.Key] = true
			switch {
			case d.Kind == compare.Time:
				v.Times++
			case len(one.Files) < maxDifferences:
				one.Files = append(one.Files, d)
			default:
				one.More++
			}
		})
		if err != nil {
			return nil, err
		}
		if len(one.Files) > 0 {
			v.Steps = append(v.Steps, one)
		}
	}
	return told, nil
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
