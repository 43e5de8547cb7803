package whittle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/trace"
)

// takeTags reads the names that the image gets.
func (b *build) takeTags() error {
	for _, t := range b.req.Tags {
		n, err := parseTag(t)
		if err != nil {
			return err
		}
		b.tags = append(b.tags, n)
	}
	return nil
}

// parseTag reads a name that an image is to get.
func parseTag(text string) (image.Name, error) {
	n, err := image.ParseName(text)
	if err == nil && !n.Digest.IsZero() {
		err = &hinted{fmt.Errorf("tag %s: a name with a digest is given by what is in the image", text), "leave out @" + n.Digest.String()}
	}
	return n, err
}

// leave makes what is wanted of the target, and says what is left.
func (b *build) leave(ctx context.Context, p *plan.Plan, solved *solve.Result) (*Result, error) {
	res, err := b.leaveHere(ctx, p, solved)
	if err = b.settle(err); err != nil {
		return res.counts(), err
	}
	return res, b.settle(b.send(ctx, p, solved, res))
}

// leaveHere makes what is wanted of the target, but for what is done at the end, or goes to a
// registry.
func (b *build) leaveHere(ctx context.Context, p *plan.Plan, solved *solve.Result) (*Result, error) {
	res := b.result(p, solved)
	var m *image.Image
	if b.wants((*Output).HasImage) {
		var err error
		if m, err = b.makeImage(ctx, p, solved); err != nil {
			return nil, err
		}
		res.Size, res.Layers = m.Size(), len(m.Layers)
	}
	return res, b.leaveOutputs(ctx, p, solved, m, res)
}

// makeImage makes the image of the target.
func (b *build) makeImage(ctx context.Context, p *plan.Plan, solved *solve.Result) (*image.Image, error) {
	span := trace.Begin(ctx, "seal the image's layers")
	chain := solved.Chain(p.Target.Root)
	layers, err := b.imageLayers(ctx, chain)
	span.End()
	if err != nil {
		return nil, err
	}
	cfg := p.Target.Config.Clone()
	b.date(&cfg, p, solved)
	m, err := image.FromConfig(&cfg, layers)
	if err == nil && b.req.Squash {
		m, err = b.squashed(ctx, p, m, chain)
	}
	return m, err
}

// send pushes what is to be pushed, exports what is known, as far as the request asks for
// it, and says at the end what is left.
func (b *build) send(ctx context.Context, p *plan.Plan, solved *solve.Result, res *Result) error {
	for _, r := range b.receivers {
		if r.cache == nil {
			if err := b.pushOutput(ctx, r, res); err != nil {
				return err
			}
		}
	}
	b.atEnd(func() error { b.say(res); return nil })
	return b.exportCaches(ctx, p, solved)
}

// exportCaches adds what is known to the caches that the request names.
func (b *build) exportCaches(ctx context.Context, p *plan.Plan, solved *solve.Result) error {
	for _, r := range b.receivers {
		if r.cache != nil {
			if err := b.caches.export(ctx, r, p, solved); err != nil {
				return err
			}
		}
	}
	return nil
}

// imageLayers describes the layers of chain, sealing side by side those that
// are trees so far.
func (b *build) imageLayers(ctx context.Context, chain rootfs.Chain) ([]image.Layer, error) {
	layers, errs := make([]image.Layer, len(chain)), make([]error, len(chain))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0)) // each of them uses all processors
	var wg sync.WaitGroup
	for i, id := range chain {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			layers[i], errs[i] = b.imageLayer(ctx, id)
		})
	}
	wg.Wait()
	return layers, errors.Join(errs...)
}

// date gives the config and the new entries of its history their times: those
// at which their layers were made, so that a build of which nothing ran gives
// the same image to the last byte; or the epoch that the request names.
func (b *build) date(cfg *config.Image, p *plan.Plan, solved *solve.Result) {
	for s := p.Target.Root.Step; s != nil; s = s.Below.Step {
		t := solved.Steps[s].Created
		cfg.History[s.Line.History].Created = &t
	}
	dateOthers(cfg.History)
	cfg.Created = nil // a base's
	if n := len(cfg.History); n > 0 {
		cfg.Created = cfg.History[n-1].Created
	}
	if b.epoch != nil {
		b.pin(cfg, p)
	}
}

// dateOthers gives entries without a layer a time, as the reference does: that
// of the entry with a layer before them; the first ones, which come after a base
// image, that of the first new layer; and if there is none, the last time there
// is.
func dateOthers(history []config.History) {
	undated := slices.IndexFunc(history, func(h config.History) bool { return h.Created == nil })
	if undated < 0 {
		return
	}
	last := (*time.Time)(nil)
	if undated > 0 {
		last = history[undated-1].Created
	}
	if i := slices.IndexFunc(history[undated:], func(h config.History) bool { return h.Created != nil }); i >= 0 {
		last = history[undated+i].Created
	}
	for i := range history[undated:] {
		h := &history[undated+i]
		if h.Created == nil {
			h.Created = last
		}
		last = h.Created
	}
}

// pin sets the times that this build gave to the epoch: entries of the
// history from the first whose layer is the build's own. Those of the base
// image stay.
func (b *build) pin(cfg *config.Image, p *plan.Plan) {
	for i := b.inherited(p); i < len(cfg.History); i++ {
		cfg.History[i].Created = b.epoch
	}
	cfg.Created = b.epoch
}

// inherited is how many entries of the history are the base image's.
func (b *build) inherited(p *plan.Plan) int {
	if m := b.baseImage(p); m != nil {
		return len(m.Config.History)
	}
	return 0
}

// baseImage is what the target begins with; nil when that is nothing.
func (b *build) baseImage(p *plan.Plan) *image.Image {
	root := p.Target.Root
	for root.Step != nil {
		root = root.Step.Below
	}
	if root.Image == nil {
		return nil
	}
	return b.images[*root.Image]
}

func (b *build) result(p *plan.Plan, solved *solve.Result) *Result {
	res := &Result{Stage: b.req.Target, Took: b.opt.Now().Sub(b.began)}
	for _, o := range b.outputs {
		for _, n := range o.names {
			name := n.Familiar()
			if o.ByDigest {
				name = n.FamiliarRepository()
			}
			if o.Type == ImageOutput && !slices.Contains(res.Names, name) {
				res.Names = append(res.Names, name)
			}
		}
	}
	res.count(solved)
	res.Behind = b.left(p, solved)
	return res
}

// count adds up the steps that were done.
func (res *Result) count(solved *solve.Result) {
	for _, d := range solved.Steps {
		if d.Cached {
			res.Cached++
		} else {
			res.Ran++
		}
	}
}

// left adds up what the stages that are not part of the image leave behind. A
// layer that several have counts for the first, so that the sums add up; a
// stage without a layer of its own is not listed.
func (b *build) left(p *plan.Plan, solved *solve.Result) []Behind {
	counted := map[digest.Digest]bool{}
	for _, id := range solved.Chain(p.Target.Root) {
		counted[id] = true
	}
	var out []Behind
	for _, st := range p.Stages {
		var n int64
		own := false
		for _, id := range solved.Chain(st.Root) {
			if !counted[id] {
				counted[id], own = true, true
				n += b.layerSize(id)
			}
		}
		if own {
			out = append(out, Behind{Stage: st.Display, Bytes: n})
		}
	}
	return out
}

// record stores and names the image, durably, unless the store has it so
// already: a build of which nothing ran writes nothing.
func (b *build) record(m *image.Image, names []image.Name, ran bool) error {
	if err := b.store.Pin(m.ID); err != nil {
		return err
	}
	_, err := b.catalog.Get(m.ID)
	if err == nil && !ran && b.tagged(m, names) {
		return b.store.Sync() // a build that was killed may have left that to us
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return err
	}
	return b.keep(m, names...)
}

// say tells the display what is left.
func (b *build) say(res *Result) {
	if res.ID.IsZero() {
		b.sink.Emit(progress.Event{Kind: progress.Result, Time: b.opt.Now(), Build: b.log.name()})
		return
	}
	left := progress.Left{Names: res.Names, ID: res.ID.String(), Size: res.Size}
	for _, s := range res.Behind {
		left.Stages = append(left.Stages, progress.StageLeft{Name: s.Stage, Bytes: s.Bytes})
		left.Total += s.Bytes
	}
	b.sink.Emit(progress.Event{Kind: progress.Remains, Time: b.opt.Now(), Left: &left})
	b.sink.Emit(progress.Event{Kind: progress.Result, Time: b.opt.Now(), ID: res.ID.String(), Tags: res.Names, Build: b.log.name()})
}
