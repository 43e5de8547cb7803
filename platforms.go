package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/registry"
)

// leavePlatforms leaves what is wanted of a stage that was built for several
// platforms: images under one name, files in a folder for each.
func leavePlatforms(ctx context.Context, g []*part) (*Result, error) {
	first := g[0]
	res := first.result(first.plan, first.solved)
	res.Behind = nil
	for _, p := range g[1:] {
		res.count(p.solved)
	}
	for _, p := range g {
		for _, s := range p.left(p.plan, p.solved) {
			if len(g) > 1 {
				s.Stage = p.req.Platform + " " + s.Stage
			}
			res.Behind = append(res.Behind, s)
		}
		if !p.wants((*Output).HasImage) {
			continue
		}
		if err := p.makeOutputs(ctx, res); err != nil {
			return nil, err
		}
	}
	for i := range first.outputs {
		if err := leaveOnPlatforms(ctx, g, i, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// sendPlatforms pushes the images, with an index of them, exports what is known, and says
// at the end what is left.
func sendPlatforms(ctx context.Context, g []*part, res *Result) error {
	for i, o := range g[0].outputs {
		for k := range o.names {
			if !o.Push {
				continue
			}
			if err := pushPlatforms(ctx, g, i, k, res); err != nil {
				return err
			}
		}
	}
	g[0].atEnd(func() error { g[0].sayAll(res); return nil })
	var late error
	for _, p := range g {
		err := p.exportCaches(ctx, p.plan, p.solved)
		if isFailure(err) {
			return err
		}
		late = errors.Join(late, err)
	}
	return late
}

// makeOutputs makes the image of one platform, in the form of each output.
func (p *part) makeOutputs(ctx context.Context, res *Result) error {
	m, err := p.makeImage(ctx, p.plan, p.solved)
	if err != nil {
		return err
	}
	res.Size += m.Size()
	res.Layers += len(m.Layers)
	told := false
	for i := range p.outputs {
		o := &p.outputs[i]
		if !o.HasImage() {
			continue
		}
		if o.image, err = p.inForm(ctx, p.plan, o, m); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		if !told {
			told = true
			res.Platforms = append(res.Platforms, PlatformImage{o.image.Platform().String(), o.image.ID})
		}
	}
	if res.ID.IsZero() && told {
		res.ID = res.Platforms[0].ID
	}
	return nil
}

// PlatformImage is the image of a build for one of its platforms.
type PlatformImage struct {
	Platform string        `json:"platform"`
	ID       digest.Digest `json:"id"`
}

// leaveOnPlatforms leaves the i-th output, which all parts have, as far as it goes to no registry.
func leaveOnPlatforms(ctx context.Context, g []*part, i int, res *Result) error {
	o := &g[0].outputs[i]
	if o.HasFiles() && o.Together {
		if err := apart(ctx, g); err != nil {
			return err
		}
	}
	switch {
	case o.Type == LocalOutput:
		for _, p := range g {
			fsys, err := p.files(ctx)
			if err == nil {
				err = p.leaveFilesOf(ctx, fsys, i)
			}
			if err != nil {
				return err
			}
		}
		return nil
	case o.Type == TarOutput:
		return tarPlatforms(ctx, g, i)
	case o.Type == OCIOutput:
		return archivePlatforms(ctx, g, i, res)
	case o.Type == DockerOutput: // which there is for one platform only
		return g[0].leaveImage(ctx, o, res)
	case o.Type == ImageOutput && !o.ByDigest:
		g[0].atEnd(func() error { return recordPlatforms(g, i) })
	}
	return nil
}

// apart refuses files of several platforms in one folder where one would take another's
// place.
func apart(ctx context.Context, g []*part) error {
	whose := map[string]string{}
	for _, p := range g {
		fsys, err := p.files(ctx)
		if err == nil {
			err = entry.Walk(fsys, ".", func(e entry.Entry) error {
				if other, ok := whose[e.Path]; ok {
					return &hinted{fmt.Errorf("output: /%s: %s has it, and %s", e.Path, other, p.req.Platform), "leave platform-split=false out: then each platform has a folder"}
				}
				if e.Kind != entry.Dir {
					whose[e.Path] = p.req.Platform
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// imagesOf are the images of the i-th output, that which a name means first.
func imagesOf(g []*part, i int) []*image.Image {
	list := make([]*image.Image, len(g))
	for k, p := range g {
		list[k] = p.outputs[i].image
	}
	if k := mainOf(list); k > 0 {
		list[0], list[k] = list[k], list[0]
	}
	return list
}

// recordPlatforms stores the images of an output, and gives them its names, with what is said
// of them.
func recordPlatforms(g []*part, i int) error {
	w := g[0].Whittle
	images := imagesOf(g, i)
	means := image.Meaning{ID: images[0].ID, Said: image.Said{Index: g[0].outputs[i].annotations.index}}
	for _, p := range g {
		o := &p.outputs[i]
		means.Said.About(o.image.ID, o.annotations.manifest, o.annotations.described)
	}
	for _, m := range images {
		if err := w.store.Pin(m.ID); err != nil {
			return err
		}
		if err := w.catalog.Put(m); err != nil {
			return err
		}
		if m != images[0] && m.ID != images[0].ID {
			means.Also = append(means.Also, m.ID)
		}
	}
	for _, n := range g[0].outputs[i].names {
		if err := w.catalog.Tag(n, means); err != nil {
			return err
		}
	}
	return w.store.Sync()
}

// indexed is what an index says of the manifest of one platform.
func (o *output) indexed(d manifest.Descriptor, m *image.Image) manifest.Descriptor {
	p := m.Platform()
	d.Platform, d.Annotations = &p, o.annotations.described
	return d
}

// pushPlatforms uploads the images of an output by their digests, and an index of
// them under its k-th name.
func pushPlatforms(ctx context.Context, g []*part, i, k int, res *Result) (err error) {
	first := &g[0].outputs[i]
	shown := make([]*transfer, len(g))
	for n, p := range g {
		shown[n] = p.receiverOf(&p.outputs[i], k).shown
	}
	defer func() {
		for _, t := range shown {
			t.done(err)
		}
	}()
	name, client := first.names[k], shown[0].client()
	var list []manifest.Descriptor
	for n, p := range g {
		o := &p.outputs[i]
		bare := name
		bare.Tag = ""
		d, err := p.pushImage(ctx, bare, o.image, o.pushed(), shown[n])
		if err != nil {
			return err
		}
		list = append(list, o.indexed(d, o.image))
	}
	for n, p := range g {
		if !p.req.attests() {
			continue
		}
		doc, err := p.attestations(ctx, list[n], p.outputs[i].image, first.names)
		if err == nil {
			err = putDocument(ctx, client, name, doc)
		}
		if err != nil {
			return err
		}
		list = append(list, doc.Descriptor)
	}
	if first.ByDigest {
		name.Tag = ""
	}
	d, err := pushIndex(ctx, client, name, first.style(), list, first.annotations.index)
	if err != nil {
		return err
	}
	res.manifestIs(d)
	return g[0].sign(ctx, client, name, d)
}

// pushIndex stores an index of manifests, which the registry has, under a name.
func pushIndex(ctx context.Context, client *registry.Client, n image.Name, style manifest.Style, list []manifest.Descriptor, annotations map[string]string) (manifest.Descriptor, error) {
	raw, d, err := manifest.NewIndex(style, list, annotations)
	if err != nil {
		return d, err
	}
	return d, client.PutManifest(ctx, reference(n), raw, d)
}

// alsoOf are the images that a name stands for besides its own, for other platforms, and what
// is said of all of them; none where an image is told by its ID.
func (w *Whittle) alsoOf(n image.Name) (list []*image.Image, said image.Said, err error) {
	if n.IsZero() {
		return nil, said, nil
	}
	means, err := w.catalog.Meaning(n)
	if err != nil {
		return nil, said, err
	}
	for _, id := range means.Also {
		m, err := w.catalog.GetAs(id, means.Said)
		if err != nil {
			return nil, said, err
		}
		list = append(list, m)
	}
	return list, means.Said, nil
}

// pushAll uploads images for several platforms by their digests, and an index of them
// under the name n.
func (w *Whittle) pushAll(ctx context.Context, n image.Name, images []*image.Image, said image.Said, form pushForm, t *transfer) (manifest.Descriptor, error) {
	bare := n
	bare.Tag = ""
	var list []manifest.Descriptor
	for _, m := range images {
		d, err := w.pushImage(ctx, bare, m, form, t)
		if err != nil {
			return d, err
		}
		p := m.Platform()
		d.Platform, d.Annotations = &p, said.Descriptors[m.ID]
		list = append(list, d)
	}
	return pushIndex(ctx, t.client(), n, form.style, list, said.Index)
}

// receiverOf is what was made to push the k-th name of an output.
func (b *build) receiverOf(o *output, k int) *receiver {
	for _, r := range b.receivers {
		if r.out == o {
			if k == 0 {
				return r
			}
			k--
		}
	}
	return &receiver{shown: b.transfer("push "+o.names[0].Familiar(), b.sink)}
}

// archivePlatforms writes the images of an output to an OCI layout, as one index.
func archivePlatforms(ctx context.Context, g []*part, i int, res *Result) error {
	b, o := g[0].build, &g[0].outputs[i]
	images := imagesOf(g, i)
	x := image.Export{Image: images[0], Others: images[1:], Names: o.names, IndexAnnotations: o.annotations.index, Described: map[digest.Digest]map[string]string{}}
	if b.req.attests() {
		x.Attached = func(m *image.Image, d manifest.Descriptor) (image.Attached, error) { return attached(ctx, g, i, m, d) }
	}
	for _, p := range g {
		one := &p.outputs[i]
		x.Described[one.image.ID] = one.annotations.described
	}
	e := image.Exporter{Blob: b.uncompressed, Style: o.style()}
	if o.Form.Format != "uncompressed" {
		a := b.compressAhead(ctx, []image.Export{x}, o.Form)
		defer a.end()
		e.Blob = a.blob
	}
	d, err := b.writeArchive(ctx, e, o, x)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	res.manifestIs(d)
	return nil
}

// attached is what is said of one of the images of the i-th output.
func attached(ctx context.Context, g []*part, i int, m *image.Image, d manifest.Descriptor) (a image.Attached, err error) {
	for _, p := range g {
		o := &p.outputs[i]
		if o.image.ID != m.ID {
			continue
		}
		doc, err := p.attestations(ctx, d, m, o.names)
		a = image.Attached{Descriptor: doc.Descriptor, Blobs: map[digest.Digest][]byte{doc.Digest: doc.Data}}
		for _, b := range doc.Parts {
			a.Blobs[b.Digest] = b.Data
		}
		return a, err
	}
	return a, fmt.Errorf("image %s: is of no platform", m.ID.Short())
}

// tarPlatforms writes the files of all platforms into one tar.
func tarPlatforms(ctx context.Context, g []*part, i int) error {
	b, o := g[0].build, &g[0].outputs[i]
	var trees []container.Tree
	for _, p := range g {
		fsys, err := p.files(ctx)
		if err != nil {
			return err
		}
		trees = append(trees, container.Tree{Files: fsys, Under: p.under(&p.outputs[i])})
	}
	tar := func(w io.Writer) error {
		_, err := container.WriteTar(ctx, w, container.FolderOptions{Epoch: b.epoch}, trees...)
		return err
	}
	if err := b.write(o, tar); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

// sayAll tells what is left of all platforms.
func (b *build) sayAll(res *Result) {
	b.within.say(res)
	var list []string
	for _, p := range res.Platforms {
		list = append(list, p.Platform+" "+p.ID.Short())
	}
	if len(list) > 1 {
		b.sink.Emit(progress.Event{Kind: progress.Note, Time: b.opt.Now(), Text: "platforms: " + strings.Join(list, ", ")})
	}
}
