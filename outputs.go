package whittle

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/engine"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/trace"
)

// leaveOutputs makes what the request wants to have, all but what goes to a
// registry.
func (b *build) leaveOutputs(ctx context.Context, p *plan.Plan, solved *solve.Result, m *image.Image, res *Result) error {
	for i := range b.outputs {
		o := &b.outputs[i]
		if o.HasFiles() || o.Type == NoOutput {
			continue
		}
		x, err := b.inForm(ctx, p, o, m)
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		o.image = x
		if res.ID.IsZero() || o.Type == ImageOutput {
			res.ID = x.ID
		}
		if err := b.leaveImage(ctx, o, res); err != nil {
			return err
		}
	}
	if !b.wants((*Output).HasFiles) {
		return nil
	}
	fsys, err := b.rootFS().View(ctx, solved.Chain(p.Target.Root))
	if err != nil {
		return err
	}
	return b.leaveFiles(ctx, fsys)
}

// inForm is the image as an output has it.
func (b *build) inForm(ctx context.Context, p *plan.Plan, o *output, m *image.Image) (*image.Image, error) {
	x := *m
	if o.RewriteTimes {
		dated, err := b.redated(ctx, p, m)
		if err != nil {
			return nil, err
		}
		x = *dated
	}
	x.Annotations = o.annotations.manifest
	return &x, nil
}

// leaveImage writes or loads the image of an output, or records it at the end.
func (b *build) leaveImage(ctx context.Context, o *output, res *Result) (err error) {
	switch {
	case o.Type == ImageOutput && !o.ByDigest:
		b.atEnd(func() error {
			defer trace.Begin(ctx, "record the image, durably").End()
			return b.record(o.image, o.names, res.Ran > 0)
		})
		return nil
	case o.Type == ImageOutput:
		return nil // it is only pushed
	case o.loads():
		err = b.load(ctx, o)
	default:
		err = b.archive(ctx, o, res)
	}
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

// archive writes the image of an output to a file or a folder.
func (b *build) archive(ctx context.Context, o *output, res *Result) error {
	x := []image.Export{{Image: o.image, Names: o.names}}
	e := image.Exporter{Blob: b.uncompressed, Style: o.style()}
	if o.Form.Format != "uncompressed" {
		a := b.compressAhead(ctx, x, o.Form)
		defer a.end()
		e.Blob = a.blob
	}
	d, err := b.writeArchive(ctx, e, o, x[0])
	if err == nil {
		res.manifestIs(d)
	}
	return err
}

// writeArchive writes images where an output goes, and returns what names them.
func (b *build) writeArchive(ctx context.Context, e image.Exporter, o *output, x image.Export) (d manifest.Descriptor, err error) {
	var list []manifest.Descriptor
	save := func(w io.Writer) (err error) {
		list, err = e.Save(ctx, w, []image.Export{x}, image.Format(o.Type))
		return err
	}
	if o.Folder {
		list, err = e.SaveLayout(ctx, o.Dest, []image.Export{x})
	} else {
		err = b.write(o, save)
	}
	if err != nil {
		return d, err
	}
	if o.Dest != "-" {
		b.noteAtEnd("output: %s, in %s", o.what(), o.Dest)
	}
	return list[0], nil
}

// what is the output in words.
func (o *output) what() string {
	kind := map[string]string{OCIOutput: "OCI archive", DockerOutput: "archive for docker load"}[o.Type]
	if o.Folder {
		kind = "OCI layout"
	}
	var names []string
	for _, n := range o.names {
		names = append(names, n.Familiar())
	}
	if len(names) == 0 {
		return kind
	}
	return kind + " of " + strings.Join(names, ", ")
}

func (o *output) style() manifest.Style {
	if o.DockerTypes {
		return manifest.Docker
	}
	return manifest.OCI
}

// leaveFiles writes the files of the stage to where they are wanted.
func (b *build) leaveFiles(ctx context.Context, fsys entry.FS) error {
	for i := range b.outputs {
		if err := b.leaveFilesOf(ctx, fsys, i); err != nil {
			return err
		}
	}
	return nil
}

// leaveFilesOf does so for the i-th output, if files are what it wants.
func (b *build) leaveFilesOf(ctx context.Context, fsys entry.FS, i int) error {
	o := &b.outputs[i]
	if !o.HasFiles() {
		return nil
	}
	done, err := b.writeFiles(ctx, fsys, o)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	if o.Dest == "-" {
		return nil
	}
	text := fmt.Sprintf("output: %s, %s, in %s", count(done.Files, "file"), progress.HumanSize(done.Bytes), o.Dest)
	if done.Skipped > 0 {
		left := "devices, sockets and fifos"
		if o.Type == TarOutput {
			left = "sockets"
		}
		text += fmt.Sprintf("; %d %s were left out", done.Skipped, left)
	}
	b.noteAtEnd("%s", text)
	return nil
}

func (b *build) writeFiles(ctx context.Context, fsys entry.FS, o *output) (done container.Written, err error) {
	to := container.FolderOptions{Epoch: b.epoch, Under: b.under(o)}
	tar := func(w io.Writer) (err error) {
		done, err = container.WriteTar(ctx, w, to, container.Tree{Files: fsys, Under: to.Under})
		return err
	}
	if o.Type == LocalOutput {
		return container.WriteFolder(ctx, fsys, o.Dest, to)
	}
	err = b.write(o, tar)
	return done, err
}

// under is the folder that an output's files go to within it; "" is none.
func (b *build) under(o *output) string {
	if o.Split || b.peers && !o.Together {
		return strings.ReplaceAll(b.targetPlatform().String(), "/", "_")
	}
	return ""
}

// targetPlatform is what the target is for.
func (b *build) targetPlatform() plan.Platform { return b.target.Platform }

// pushOutput uploads the image of an output to where r says.
func (b *build) pushOutput(ctx context.Context, r *receiver, res *Result) (err error) {
	defer func() { r.shown.done(err) }()
	d, err := b.pushImage(ctx, r.name, r.out.image, r.out.pushed(), r.shown)
	if err != nil {
		return err
	}
	p := r.out.image.Platform()
	d.Platform = &p
	res.manifestIs(d)
	return b.sign(ctx, r.shown.client(), r.name, d)
}

// pushed is the form in which the output is pushed.
func (o *output) pushed() pushForm { return pushForm{o.Form, o.Force, o.style()} }

// load streams the image of an output into the running engine, without the layers
// that it has. Should it have lost one of those meanwhile, it gets all.
func (b *build) load(ctx context.Context, o *output) error {
	e, err := engine.Open(b.opt.Getenv)
	if err != nil {
		return err
	}
	ids := make([]digest.Digest, len(o.image.Layers))
	for i, l := range o.image.Layers {
		ids[i] = l.DiffID
	}
	has, err := e.Has(ctx, ids)
	if err != nil {
		return err
	}
	said, err := b.loadInto(ctx, e, o, has)
	if err != nil && has > 0 && ctx.Err() == nil {
		has = 0
		said, err = b.loadInto(ctx, e, o, has)
	}
	if err == nil {
		b.note("output: %s: %s; %s sent, %d there already", e.Name, said, count(len(ids)-has, "layer"), has)
	}
	return err
}

// loadInto sends all but the lowest layers.
func (b *build) loadInto(ctx context.Context, e *engine.Engine, o *output, has int) (string, error) {
	there := map[digest.Digest]bool{}
	for _, l := range o.image.Layers[:has] {
		there[l.DiffID] = true
	}
	for _, l := range o.image.Layers[has:] {
		delete(there, l.DiffID)
	}
	x := image.Exporter{Style: o.style(), Blob: func(ctx context.Context, l image.Layer) (manifest.Descriptor, io.ReadCloser, error) {
		if !there[l.DiffID] {
			return b.uncompressed(ctx, l)
		}
		meta, err := b.rootFS().Meta(l.ID)
		return manifest.Descriptor{MediaType: manifest.OCILayer, Digest: l.DiffID, Size: meta.TarSize}, nil, err
	}}
	return e.Load(ctx, func(w io.Writer) error {
		_, err := x.Save(ctx, w, []image.Export{{Image: o.image, Names: o.names}}, image.DockerArchive)
		return err
	})
}
