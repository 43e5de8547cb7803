package whittle

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
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

// foreign finds the emulators that RUN steps need whose stages have the
// programs of another machine, and the stages for which there is none. What a
// base is made of that has no image nobody knows before it runs: such a stage
// gets an emulator for what it is to be for, if there is one.
func (b *build) foreign(ctx context.Context, p *plan.Plan) (mistakes dockerfile.Errors, err error) {
	b.emulators = map[*plan.Stage]*sandbox.Emulator{}
	type answer struct {
		emulator *sandbox.Emulator
		none     *sandbox.EmulatorError
	}
	known := map[string]answer{}
	for _, s := range p.Steps {
		if _, told := b.emulators[s.Stage]; s.Run == nil || told {
			continue
		}
		arch, base := b.programs(s)
		if arch == "" {
			continue
		}
		a, ok := known[arch]
		if !ok {
			a.emulator, err = sandbox.FindEmulator(ctx, arch, sandbox.BinfmtDir, b.trial(arch))
			if err != nil && !errors.As(err, &a.none) {
				return mistakes, err
			}
			known[arch] = a
		}
		b.emulators[s.Stage] = a.emulator
		if base == nil || a.none == nil {
			continue
		}
		mistakes = append(mistakes, b.file.Mistake(s.Line.Pos,
			fmt.Sprintf("stage %q: its base %s is for linux/%s, whose programs this machine (%s) does not run: %v", s.Stage.Display, base.Name, arch, platform(), a.none),
			a.none.Hint()+"; or write FROM --platform=$BUILDPLATFORM for a stage whose files are copied on, and cross-compile there (ARG TARGETARCH)"))
	}
	return mistakes, nil
}

// trial is how an emulator is tried. That one works is remembered; that none
// does is not, for it may just be installed.
func (b *build) trial(arch string) sandbox.Trial {
	const kind = "emulator"
	name := fmt.Sprintf("%s %s %s", arch, b.isolation, b.opt.Rootfs)
	return sandbox.Trial{
		Isolation: b.stepIsolation,
		Known: func() []byte {
			text, _ := os.ReadFile(b.store.CacheFile(kind, name))
			return text
		},
		Learn: func(text []byte) { _ = b.store.PutCacheFile(kind, name, text) }, // it is tried again
	}
}

// stepIsolation is how steps will be run: in a chroot also where it was not
// asked for, but nothing else is possible.
func (b *build) stepIsolation() sandbox.Isolation {
	// Without any provider nothing is run, which is told elsewhere.
	if p, err := b.rootFS().Provider(); err == nil && p == rootfs.Chroot {
		return sandbox.Isolation{Mode: sandbox.Chroot}
	}
	return b.isolation
}

// programs returns the architecture of the programs below s, and the image
// that they come from, if it is one.
func (b *build) programs(s *plan.Step) (arch string, base *plan.Ref) {
	root := s.Below
	for root.Step != nil {
		root = root.Step.Below
	}
	if root.Image == nil {
		return s.Stage.Platform.Arch, nil
	}
	m := b.images[*root.Image]
	if m == nil { // it could not be had, which is told
		return "", nil
	}
	return m.Platform().Architecture, root.Image
}
