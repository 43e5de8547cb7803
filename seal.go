package whittle

import (
	"context"
	"runtime"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/trace"
)

// sealing seals layers of the image that is being built while later steps run.
// Who needs one before it is done waits for the layer's lock, and an error is
// told to who asks for the layer again: the end of the build.
type sealing struct {
	build *build
	ctx   context.Context
	stop  context.CancelFunc
	image map[*plan.Step]bool // whose layers the image will have
	slots chan struct{}
	wg    sync.WaitGroup
}

// sealAhead begins with none. stop must be called, before or after end.
func (b *build) sealAhead(ctx context.Context, p *plan.Plan) *sealing {
	s := &sealing{build: b, image: map[*plan.Step]bool{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	s.ctx, s.stop = context.WithCancel(ctx)
	if b.shell == nil { // a shell makes no image
		for step := p.Target.Root.Step; step != nil; step = step.Below.Step {
			s.image[step] = true
		}
	}
	return s
}

// landed is told of each step that was run.
func (s *sealing) landed(step *plan.Step, id digest.Digest) {
	if !s.image[step] || step.Run == nil {
		return
	}
	s.wg.Go(func() {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		defer func() { <-s.slots }()
		_, _ = s.build.imageLayer(trace.Lane(s.ctx, "layer "+id.Short()), id)
	})
}

// end waits for what is being sealed, or, of a build that has failed, stops it.
func (s *sealing) end(failed bool) {
	if failed {
		s.stop()
	}
	s.wg.Wait()
}
