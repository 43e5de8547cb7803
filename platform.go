package whittle

import (
	"fmt"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// wanted is the platform that the request names; zero when it names none.
func (r *Request) wanted() (plan.Platform, error) {
	if r.Platform == "" {
		return plan.Platform{}, nil
	}
	p, err := platformOf(r.Platform)
	if err == nil && p.OS != "linux" {
		err = &image.Error{Msg: fmt.Sprintf("--platform %s: this version builds Linux images only", r.Platform), Way: "for example --platform linux/arm64"}
	}
	return p, err
}

// foreign finds the stages whose RUN cannot be run here, because their base has
// the programs of another machine. What a base is made of that has no image
// nobody knows before it runs.
func (b *build) foreign(p *plan.Plan) dockerfile.Errors {
	var mistakes dockerfile.Errors
	told := map[*plan.Stage]bool{}
	for _, s := range p.Steps {
		root := s.Below
		for root.Step != nil {
			root = root.Step.Below
		}
		if s.Run == nil || root.Image == nil || told[s.Stage] {
			continue
		}
		is := b.images[*root.Image].Platform()
		if is.Architecture == "" || sandbox.CanRun(is.Architecture, sandbox.BinfmtDir) {
			continue
		}
		told[s.Stage] = true
		mistakes = append(mistakes, b.file.Mistake(s.Line.Pos,
			fmt.Sprintf("stage %q: its base %s is for %s/%s, whose programs this machine (%s) does not run", s.Stage.Display, root.Image.Name, is.OS, is.Architecture, platform()),
			"write FROM --platform=$BUILDPLATFORM for a stage whose files are copied on, and cross-compile there (ARG TARGETARCH); or register an emulator (binfmt_misc, flag F)"))
	}
	return mistakes
}
