package whittle

import (
	"context"
	"runtime"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/trace"
)

// sealing describes layers of the image that is being built while later steps run,
// and sends them where they will have to go.
// Who needs one before it is done waits for the layer's lock, and an error is
// told to who asks for the layer again: the end of the build.
type sealing struct {
	build *build
	ctx   context.Context
	stop  context.CancelFunc
	image map[*plan.Step]bool // whose layers the image will have
	slots chan struct{}
	sends chan struct{}
	wg    sync.WaitGroup
}

// receiver is a place that gets layers while later steps run, and all else in the
// end: a repository that the image is pushed to, or a cache.
type receiver struct {
	name  image.Name     // that is pushed; zero for a cache
	out   *output        // whose image it gets
	cache *exportedCache // if it is one
	shown *transfer
	put   func(context.Context, image.Layer) error // one layer, ahead of all else
}

// changes says whether the layers that r gets are others than those of the steps.
func (r *receiver) changes(b *build) bool {
	return r.out != nil && (b.req.Squash || r.out.RewriteTimes)
}

// sealAhead begins with none. stop must be called, before or after end.
func (b *build) sealAhead(ctx context.Context, p *plan.Plan) *sealing {
	s := &sealing{build: b, image: map[*plan.Step]bool{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), sends: make(chan struct{}, maxFetches)}
	s.ctx, s.stop = context.WithCancel(ctx)
	if b.shell == nil && b.wants((*Output).HasImage) { // a shell makes none
		for step := p.Target.Root.Step; step != nil; step = step.Below.Step {
			s.image[step] = true
		}
	}
	if b.shell == nil {
		b.receivers = b.receive()
	}
	return s
}

// receive lists the places for layers, the image's first: a cache may borrow from
// those.
func (b *build) receive() []*receiver {
	var out []*receiver
	for i := range b.outputs {
		o := &b.outputs[i]
		if !o.Push {
			continue
		}
		for _, n := range o.names {
			if o.ByDigest {
				n.Tag = ""
			}
			r := &receiver{name: n, out: o, shown: b.transfer("push "+n.Familiar(), b.sink)}
			r.put = func(ctx context.Context, l image.Layer) error {
				_, err := r.shown.client().PutLayer(ctx, reference(n), b.upload(&image.Image{}, l, o.pushed()))
				return err
			}
			out = append(out, r)
		}
	}
	if b.caches != nil {
		for _, to := range b.caches.to {
			r := &receiver{cache: to, shown: b.transfer("write the cache "+to.label(), b.sink)}
			r.put = func(ctx context.Context, l image.Layer) error {
				_, err := to.by(r.shown.client()).PutLayer(ctx, b.caches.upload(l, to))
				return err
			}
			out = append(out, r)
		}
	}
	return out
}

// landed is told of each step that was run.
func (s *sealing) landed(step *plan.Step, id digest.Digest) {
	var to []*receiver
	for _, r := range s.build.receivers {
		if s.image[step] && !r.changes(s.build) || r.cache != nil && r.cache.Max {
			to = append(to, r)
		}
	}
	if len(to) == 0 && (!s.image[step] || step.Run == nil) {
		return
	}
	s.wg.Go(func() {
		l, err := s.seal(id, len(to) > 0)
		if err != nil || !slot(s.ctx, s.sends) {
			return
		}
		defer func() { <-s.sends }()
		for _, r := range to {
			_ = r.put(s.ctx, l)
		}
	})
}

// slot takes one of the slots, unless ctx ends first.
func slot(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// seal describes a layer, by its tar where somebody wants that too.
func (s *sealing) seal(id digest.Digest, wanted bool) (image.Layer, error) {
	if !slot(s.ctx, s.slots) {
		return image.Layer{}, context.Cause(s.ctx)
	}
	defer func() { <-s.slots }()
	ctx := trace.Lane(s.ctx, "layer "+id.Short())
	if wanted {
		if _, err := s.build.sealed(ctx, id); err != nil {
			return image.Layer{}, err
		}
	}
	return s.build.imageLayer(ctx, id)
}

// end waits for what is being sealed, or, of a build that has failed, stops it.
func (s *sealing) end(failed bool) {
	if failed {
		s.stop()
	}
	s.wg.Wait()
}
