package whittle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// planned makes the plan, resolving base images as the plan turns out to need
// them: an ONBUILD trigger of one image may name another.
func (w *Whittle) planned(ctx context.Context, req plan.Request, pull bool, sink progress.Sink) (*plan.Plan, map[plan.Ref]*image.Image, error) {
	images := map[plan.Ref]*image.Image{}
	req.Images = map[plan.Ref]*plan.Base{}
	for {
		p, err := plan.New(req)
		var missing *plan.Missing
		if !errors.As(err, &missing) {
			return p, images, err
		}
		found, err := w.resolveAll(ctx, missing, pull, sink)
		if err != nil {
			p, more := withoutImages(req, missing)
			if known := (dockerfile.Errors{}); errors.As(err, &known) {
				err = append(known, more...).Sorted()
			}
			return p, images, err
		}
		for ref, m := range found {
			images[ref] = m
			req.Images[ref] = baseOf(ref, m)
		}
	}
}

// withoutImages is what can still be told of a file whose base images are not
// all found: its mistakes, and the steps that copy from the build context, as
// far as they name no variable, which an image might set. The plan is nil when
// not even that is certain; it is there to look for more mistakes in, not to be
// run.
func withoutImages(req plan.Request, missing *plan.Missing) (*plan.Plan, dockerfile.Errors) {
	for _, ref := range missing.Refs {
		req.Images[ref] = unknownBase(ref)
	}
	p, err := plan.New(req)
	var mistakes dockerfile.Errors
	if errors.As(err, &mistakes) {
		mistakes = slices.DeleteFunc(mistakes, func(m *dockerfile.Error) bool { return req.File.NamesVariable(m) })
	}
	if p == nil {
		return nil, mistakes
	}
	steps := slices.DeleteFunc(slices.Clone(p.Steps), func(s *plan.Step) bool {
		return s.Copy == nil || s.Copy.From != nil || strings.Contains(s.Line.Text, "$")
	})
	return &plan.Plan{Steps: steps, Warnings: p.Warnings}, mistakes
}

// baseOf is what the plan has to know of the image that ref names.
func baseOf(ref plan.Ref, m *image.Image) *plan.Base {
	return &plan.Base{Config: m.Config, ID: identity(m), Name: ref.Name}
}

// unknownBase stands for an image that cannot be had.
func unknownBase(ref plan.Ref) *plan.Base {
	return &plan.Base{Config: &config.Image{}, Name: ref.Name, Unknown: true}
}

// basesOf is what the solver has to know of base images.
func basesOf(images map[plan.Ref]*image.Image) map[plan.Ref]solve.Base {
	bases := map[plan.Ref]solve.Base{}
	for ref, m := range images {
		bases[ref] = solve.Base{ID: m.ID, Chain: chainOf(m)}
	}
	return bases
}

// identity is what a base image is in a key: its manifest where it has one,
// so that it does not depend on how it was stored.
func identity(m *image.Image) digest.Digest {
	if !m.Manifest.IsZero() {
		return m.Manifest
	}
	return m.ID
}

func chainOf(m *image.Image) rootfs.Chain {
	var c rootfs.Chain
	for _, l := range m.Layers {
		c = c.Push(l.ID)
	}
	return c
}

// resolveAll finds the images that a plan misses, side by side, and reports
// all that are not found together with what else is wrong.
func (w *Whittle) resolveAll(ctx context.Context, missing *plan.Missing, pull bool, sink progress.Sink) (map[plan.Ref]*image.Image, error) {
	images := make([]*image.Image, len(missing.Refs))
	errs := make([]error, len(missing.Refs))
	var wg sync.WaitGroup
	for i, ref := range missing.Refs {
		wg.Go(func() { images[i], errs[i] = w.resolve(ctx, ref, pull, sink) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	found, causes := map[plan.Ref]*image.Image{}, map[plan.Ref]error{}
	for i, ref := range missing.Refs {
		var full *store.FullError
		if errors.As(errs[i], &full) || errors.Is(errs[i], syscall.EMFILE) {
			return nil, errs[i] // no mistake of a Dockerfile
		}
		if errs[i] != nil {
			causes[ref] = errs[i]
			continue
		}
		found[ref] = images[i]
	}
	if len(causes) > 0 {
		return nil, missing.Failed(causes)
	}
	return found, nil
}

// resolve finds one image: in the store, and in its registry only when the
// store does not have it or pull says so.
func (w *Whittle) resolve(ctx context.Context, ref plan.Ref, pull bool, sink progress.Sink) (*image.Image, error) {
	if path, ok := strings.CutPrefix(ref.Name, layoutScheme); ok {
		return w.fromLayout(ctx, path, ref.Platform)
	}
	name, err := image.ParseName(ref.Name)
	if err != nil && !pull {
		m, _, rerr := w.catalog.ResolveBase(ref.Name) // perhaps an image ID
		if rerr == nil {
			return m, w.complete(m)
		}
	}
	if err != nil {
		return nil, err
	}
	if pull {
		return w.pull(ctx, name, ref.Platform, true, sink)
	}
	m, known, err := w.catalog.ResolveBase(ref.Name)
	if err == nil && known.IsZero() {
		return m, w.complete(m) // an ID names one image, whatever that is for
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		return w.pull(ctx, name, ref.Platform, true, sink)
	}
	if fits(m, ref.Platform) {
		broken := w.complete(m)
		if broken == nil || m.Manifest.IsZero() || !errors.Is(broken, store.ErrNotFound) {
			// What was made here is never replaced by what a registry
			// has under that name.
			return m, broken
		}
	}
	pulled, err := w.pull(ctx, name, ref.Platform, true, sink)
	if have := m.Platform(); err != nil && !fits(m, ref.Platform) {
		err = fmt.Errorf("%w (the store has %s for %s/%s)", err, name.Familiar(), have.OS, have.Architecture)
	}
	return pulled, err
}

// fits says whether a stored image is for the platform asked for. An image
// that does not say what it is for fits anything.
func fits(m *image.Image, p plan.Platform) bool {
	have := m.Platform()
	return have.OS == "" || p.OS == "" || have.OS == p.OS && have.Architecture == p.Arch
}

// complete makes sure that all layers of a stored image are there, and holds
// them against pruning from here on.
func (w *Whittle) complete(m *image.Image) error {
	for _, l := range m.Layers {
		err := w.store.NeedLayer(l.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return w.store.Explain(err)
		}
		if err != nil {
			return &image.Error{
				Msg: fmt.Sprintf("image %s: its layer %s is not in the store, or not whole", m.ID.Short(), l.ID.Short()),
				Way: "build, pull, load or import it again",
				Err: store.ErrNotFound,
			}
		}
	}
	return nil
}
