package whittle

import (
	"fmt"
	"os"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// noSteps is why no step can run here, whatever it is; nil when one can be
// tried. Others than root need a user namespace, in which they are root.
func (w *Whittle) noSteps() error {
	if os.Geteuid() == 0 {
		return sandbox.RootCannot()
	}
	return w.opt.Refused
}

// powerless says of the first RUN of a plan that it cannot be run, where none
// can.
func (b *build) powerless(p *plan.Plan) dockerfile.Errors {
	why := b.noSteps()
	if why == nil {
		return nil
	}
	for _, s := range p.Steps {
		if s.Run != nil {
			return dockerfile.Errors{b.file.Mistake(s.Line.Pos, fmt.Sprintf("stage %s: a RUN cannot run here: %v", s.Stage.Display, why), Hint(why))}
		}
	}
	return nil
}
