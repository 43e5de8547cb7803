package whittle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// derived returns a layer that is made of others, which happens once: it is found
// again by the key k, as long as it is in the store.
func (w *Whittle) derived(k digest.Digest, make func(dir string) (layer.Meta, error)) (l image.Layer, err error) {
	const kind = "derived"
	var known digest.Digest
	if b, err := w.store.Doc(kind, k.Hex()); err == nil && json.Unmarshal(b, &known) == nil {
		if l, ok := w.haveLayer(known); ok {
			return l, nil
		}
	}
	tmp, err := w.store.Temp("derive")
	if err != nil {
		return l, err
	}
	defer join(&err, tmp.Remove)
	meta, err := make(tmp.Path)
	if err == nil {
		err = w.store.CommitLayer(tmp, meta.DiffID)
	}
	if err != nil {
		return l, w.store.Explain(err)
	}
	b, err := json.Marshal(meta.DiffID)
	if err != nil {
		return l, err
	}
	return image.Layer{ID: meta.DiffID, DiffID: meta.DiffID, Size: meta.Size}, w.store.PutDoc(kind, k.Hex(), b)
}

// baseLayersOf is how many of the target's layers came with its base image.
func (b *build) baseLayersOf(p *plan.Plan) int {
	if m := b.baseImage(p); m != nil {
		return len(m.Layers)
	}
	return 0
}

// squashed is m with the layers that the build put on its base in one.
func (b *build) squashed(ctx context.Context, p *plan.Plan, m *image.Image, chain rootfs.Chain) (*image.Image, error) {
	base := b.baseLayersOf(p)
	if len(m.Layers)-base < 2 {
		return m, nil
	}
	below, err := b.rootFS().View(ctx, chain[:base])
	if err != nil {
		return nil, err
	}
	k := digest.NewKey("squash")
	k.Digest("below", chain[:base].ID())
	var views []entry.FS
	for i, id := range chain[base:] {
		v, err := b.rootFS().Layer(ctx, chain[:base+i+1])
		if err != nil {
			return nil, err
		}
		views = append(views, v)
		k.Digest("layer", id)
	}
	one, err := b.derived(k.Sum(), func(dir string) (layer.Meta, error) { return layer.Squash(ctx, dir, views, below) })
	if err != nil {
		return nil, fmt.Errorf("squash: %w", err)
	}
	cfg := m.Config.Clone()
	last := 0
	for i := b.inherited(p); i < len(cfg.History); i++ {
		if h := &cfg.History[i]; !h.EmptyLayer {
			h.EmptyLayer, last = true, i
		}
	}
	cfg.History[last].EmptyLayer = false
	return image.FromConfig(&cfg, append(slices.Clone(m.Layers[:base]), one))
}

// redated is m with all times in its own layers that are later than the epoch set
// to that; those of the base stay as they are.
func (b *build) redated(ctx context.Context, p *plan.Plan, m *image.Image) (*image.Image, error) {
	layers := slices.Clone(m.Layers)
	for i := b.baseLayersOf(p); i < len(layers); i++ {
		l, err := b.redatedLayer(ctx, layers[i])
		if err != nil {
			return nil, fmt.Errorf("layer %s: rewrite-timestamp: %w", layers[i].ID.Short(), err)
		}
		layers[i] = l
	}
	return image.FromConfig(m.Config, layers)
}

func (b *build) redatedLayer(ctx context.Context, l image.Layer) (image.Layer, error) {
	in, _, err := b.openTar(ctx, l)
	if err != nil {
		return l, err
	}
	later, err := layer.HasLater(in, *b.epoch)
	if err = errors.Join(err, in.Close()); err != nil || !later {
		return l, err
	}
	k := digest.NewKey("redate")
	k.Digest("layer", l.DiffID)
	k.Text("epoch", b.epochText())
	return b.derived(k.Sum(), func(dir string) (layer.Meta, error) {
		in, _, err := b.openTar(ctx, l)
		if err != nil {
			return layer.Meta{}, err
		}
		defer in.Close()
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(layer.ClampTimes(pw, in, *b.epoch)) }()
		meta, err := layer.Import(ctx, dir, pr, nil)
		pr.CloseWithError(err) // stops the other side
		return meta, err
	})
}
