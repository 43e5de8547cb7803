package whittle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/source"
)

// Checked is what a Dockerfile was found to be without building it.
type Checked struct {
	File     string // as messages call it
	Source   []byte
	Warnings []dockerfile.Warning // in the order of lines
	// Mistakes would make a build fail. An image that cannot be reached is one:
	// the warnings that do not rest on it are there all the same.
	Mistakes dockerfile.Errors
}

// Check looks for what is wrong or unwise in all stages of a Dockerfile, or in
// those that req.Target needs, without building. Of base images it reads the
// configs, from the store or else from their registries; nothing is pulled and
// nothing is kept. Its error is what is no mistake of the Dockerfile.
func (w *Whittle) Check(ctx context.Context, req Request) (_ *Checked, err error) {
	b, done, err := w.reading(ctx, req)
	if err != nil {
		return nil, err
	}
	defer join(&err, done)
	out := &Checked{File: b.shortName(), Source: b.text}
	out.Mistakes, err = b.parse()
	if err != nil || b.file == nil {
		return out, err
	}
	pr := b.planRequest()
	pr.AllStages = req.Target == ""
	var p *plan.Plan
	more, err := b.withConfigs(ctx, &pr, func() (err error) { p, err = plan.New(pr); return err })
	if err != nil {
		return nil, err
	}
	out.Mistakes = slices.Concat(out.Mistakes, slices.DeleteFunc(more, func(m *dockerfile.Error) bool { return !b.file.Certain(m) })).Sorted()
	if p != nil {
		out.Warnings = p.Warnings
	}
	return out, nil
}

// Outline tells what a build of req's target can be given.
func (w *Whittle) Outline(ctx context.Context, req Request) (_ *plan.Outline, src []byte, err error) {
	b, done, err := w.reading(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	defer join(&err, done)
	mistakes, err := b.parse()
	if err != nil || len(mistakes) > 0 {
		return nil, nil, reported(mistakes, err)
	}
	pr := b.planRequest()
	var o *plan.Outline
	mistakes, err = b.withConfigs(ctx, &pr, func() (err error) { o, err = plan.NewOutline(pr); return err })
	return o, b.text, reported(mistakes, err)
}

// ReadFile reads and parses the Dockerfile of req.
func (w *Whittle) ReadFile(ctx context.Context, req Request) (_ *dockerfile.File, err error) {
	b, done, err := w.reading(ctx, req)
	if err != nil {
		return nil, err
	}
	defer join(&err, done)
	mistakes, err := b.parse()
	return b.file, reported(mistakes, err)
}

// reading is a build that only reads its Dockerfile. done ends it.
func (w *Whittle) reading(ctx context.Context, req Request) (_ *build, done func() error, err error) {
	b := &build{Whittle: w, req: req, sink: progress.Discard{}}
	if err := b.read(ctx); err != nil {
		return nil, nil, err
	}
	lock, err := w.use(ctx)
	if err != nil {
		return nil, nil, err
	}
	done = func() error {
		b.closeContexts()
		return lock.Close()
	}
	if err := b.enter(ctx); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return b, done, nil
}

// parse reads b.text into b.file, which is nil when the mistakes leave nothing
// that is certain.
func (b *build) parse() (known dockerfile.Errors, err error) {
	if m := dockerfile.CheckSyntax(b.shortName(), b.text, b.req.Args); m != nil {
		return dockerfile.Errors{m}, nil
	}
	b.file, err = dockerfile.Parse(b.shortName(), b.text)
	if collect(&known, err) {
		err = nil
	}
	return known, err
}

// withConfigs calls do until req has all images that it asks for, and returns
// what do finds wrong. An image that cannot be had is a mistake, and made up.
func (b *build) withConfigs(ctx context.Context, req *plan.Request, do func() error) (dockerfile.Errors, error) {
	req.Images = map[plan.Ref]*plan.Base{}
	var mistakes dockerfile.Errors
	for {
		err := do()
		var missing *plan.Missing
		if !errors.As(err, &missing) {
			var found dockerfile.Errors
			if !collect(&found, err) {
				return nil, err
			}
			if len(mistakes) > 0 {
				found = slices.DeleteFunc(found, b.file.NamesVariable)
			}
			return append(mistakes, found...).Sorted(), nil
		}
		bases, errs := make([]*plan.Base, len(missing.Refs)), make([]error, len(missing.Refs))
		var wg sync.WaitGroup
		for i, ref := range missing.Refs {
			wg.Go(func() { bases[i], errs[i] = b.configOf(ctx, ref) })
		}
		wg.Wait()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		causes := map[plan.Ref]error{}
		for i, ref := range missing.Refs {
			if errs[i] != nil {
				causes[ref] = errs[i]
				bases[i] = unknownBase(ref)
			}
			req.Images[ref] = bases[i]
		}
		missing.Known = nil // comes again from do
		mistakes = append(mistakes, missing.Failed(causes)...)
	}
}

// configOf reads an image's config, from the store if it is there, and no
// layer of it.
func (b *build) configOf(ctx context.Context, ref plan.Ref) (*plan.Base, error) {
	if path, ok := strings.CutPrefix(ref.Name, layoutScheme); ok {
		m, err := b.fromLayout(ctx, path, ref.Platform)
		if err != nil {
			return nil, err
		}
		return baseOf(ref, m), nil
	}
	m, _, err := b.catalog.ResolveBase(ref.Name)
	if err == nil && fits(m, ref.Platform) && !b.req.Pull {
		return baseOf(ref, m), nil
	}
	if err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, err
	}
	name, err := image.ParseName(ref.Name)
	if err != nil {
		return nil, err
	}
	p := ref.Platform
	r, err := b.transfer("look for "+name.Familiar(), nil).client().Resolve(ctx, reference(name), manifest.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant})
	if err != nil {
		return nil, err
	}
	c, err := config.Parse(r.Config)
	if err != nil {
		return nil, fmt.Errorf("its config: %w", err)
	}
	return &plan.Base{Config: c, ID: r.Manifest.Digest, Name: ref.Name}, nil
}

// ignored tells which sources the context's ignore file leaves out. What is
// wrong with that file the scan of the context tells.
func (b *build) ignored() func(string) bool {
	if b.kind != folderContext {
		return nil
	}
	patterns, _, err := source.LoadIgnore(b.req.Context, b.path)
	if err != nil {
		return nil
	}
	return source.Ignored(patterns)
}
