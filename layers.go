package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/trace"
)

// A layer that was born as a tree stays what steps run on. What an image has to say
// of it lies in a folder of its own inside it, and its tar, once somebody wants to
// have that, in another.
const (
	describedPart = "sealed"
	tarPart       = "sealed-tar"
)

// imageLayer describes the layer id as an image has it: with a diffID. A layer
// that was born as a tree is read and hashed for that, once for all builds.
func (w *Whittle) imageLayer(ctx context.Context, id digest.Digest) (image.Layer, error) {
	dir := w.store.LayerDir(id)
	meta, err := w.rootFS().Meta(id) // which was read when the layer was gathered
	if err != nil {
		return image.Layer{}, fmt.Errorf("layer %s: %w", id.Short(), err)
	}
	if !meta.DiffID.IsZero() {
		return w.withOrigin(image.Layer{ID: id, DiffID: meta.DiffID, Size: meta.Size}, meta.Form), nil
	}
	if meta, err = layer.ReadMeta(filepath.Join(dir, describedPart)); err != nil {
		meta, err = w.describe(ctx, id, func() (layer.Meta, error) { return layer.Describe(ctx, filepath.Join(dir, layer.TreeName)) })
	}
	if err != nil {
		return image.Layer{}, fmt.Errorf("layer %s: seal: %w", id.Short(), err)
	}
	return image.Layer{ID: id, DiffID: meta.DiffID, Size: meta.Size}, nil
}

// describe keeps what find tells of a layer for imageLayer, unless another process
// has. What cannot be read is made again.
func (w *Whittle) describe(ctx context.Context, id digest.Digest, find func() (layer.Meta, error)) (layer.Meta, error) {
	err := w.store.DropPart(id, describedPart, func(path string) bool {
		_, err := layer.ReadMeta(path)
		return err != nil
	})
	if err != nil {
		return layer.Meta{}, err
	}
	err = w.store.AddToLayer(id, describedPart, func(tmp string) error {
		span := trace.Begin(ctx, "seal")
		defer span.End()
		meta, err := find()
		if err != nil {
			return err
		}
		return errors.Join(os.MkdirAll(tmp, 0o755), layer.WriteMeta(tmp, meta))
	})
	if err != nil {
		return layer.Meta{}, err
	}
	return layer.ReadMeta(filepath.Join(w.store.LayerDir(id), describedPart))
}

// sealed returns the tar of a layer. One that has none gets it, and is described by
// it; one that is damaged is made again.
func (w *Whittle) sealed(ctx context.Context, id digest.Digest) (name string, err error) {
	dir := w.store.LayerDir(id)
	for _, there := range tarPlaces {
		if whole(filepath.Join(dir, there)) {
			return filepath.Join(dir, there, layer.TarName), nil
		}
	}
	if err := w.store.DropPart(id, tarPart, func(path string) bool { return !whole(path) }); err != nil {
		return "", err
	}
	var meta layer.Meta
	err = w.store.AddToLayer(id, tarPart, func(tmp string) (err error) {
		if meta, err = layer.Seal(ctx, filepath.Join(dir, layer.TreeName), tmp); err != nil {
			return err
		}
		was, err := layer.ReadMeta(filepath.Join(dir, describedPart))
		if err == nil && was.DiffID != meta.DiffID {
			return fmt.Errorf("its files have changed: the tar is %s, and was %s", meta.DiffID.Short(), was.DiffID.Short())
		}
		return nil
	})
	if err == nil && !meta.DiffID.IsZero() {
		_, err = w.describe(ctx, id, func() (layer.Meta, error) { return meta, nil })
	}
	return filepath.Join(dir, tarPart, layer.TarName), err
}

// tarPlaces are the folders of a layer that may have its tar: in describedPart
// earlier versions had it.
var tarPlaces = [...]string{"", describedPart, tarPart}

// whole says whether there is a tar in a folder, of the size that it should have.
func whole(dir string) bool {
	meta, err := layer.ReadMeta(dir)
	if err != nil {
		return false
	}
	st, err := os.Stat(filepath.Join(dir, layer.TarName))
	return err == nil && (st.Size() == meta.TarSize || meta.TarSize == 0)
}

// verifyPart checks what was added to a layer for its image.
func verifyPart(dir string) error {
	switch filepath.Base(dir) {
	case tarPart:
		return layer.Verify(dir)
	case describedPart:
		if whole(dir) {
			return layer.Verify(dir)
		}
		_, err := layer.ReadMeta(dir)
		return err
	}
	return nil
}

// openTar opens the uncompressed tar of an image's layer.
func (w *Whittle) openTar(ctx context.Context, l image.Layer) (io.ReadCloser, int64, error) {
	name, err := w.sealed(ctx, l.ID)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("layer %s: %w", l.ID.Short(), err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// takeLayer stores a layer that comes from outside, whatever its compression.
// It is named by its diffID, so one that is there already is not written
// twice.
func (w *Whittle) takeLayer(ctx context.Context, r io.Reader) (image.Layer, error) {
	return w.takeLayerFrom(ctx, r, digest.Digest{}, digest.Digest{}, nil)
}

// takeLayerFrom is takeLayer for one that has to have the diffID want, unless
// that is zero, and gets the name id, or where that is zero the diffID. from is
// where it can be had again, as far as that is known.
func (w *Whittle) takeLayerFrom(ctx context.Context, r io.Reader, want, id digest.Digest, from []origin) (_ image.Layer, err error) {
	tmp, err := w.store.Temp("import")
	if err != nil {
		return image.Layer{}, err
	}
	defer join(&err, tmp.Remove)
	var meta layer.Meta
	if want.IsZero() {
		meta, err = layer.Import(ctx, tmp.Path, r, nil)
	} else {
		meta, err = layer.ImportKnown(ctx, tmp.Path, r, want)
	}
	if err != nil {
		return image.Layer{}, w.store.Explain(err)
	}
	if id.IsZero() {
		id = meta.DiffID
	}
	if len(from) > 0 {
		if err := writeOrigins(filepath.Join(tmp.Path, originName), from); err != nil {
			return image.Layer{}, w.store.Explain(err)
		}
	}
	if err := w.store.CommitLayer(tmp, id); err != nil {
		return image.Layer{}, err
	}
	return image.Layer{ID: id, DiffID: meta.DiffID, Size: meta.Size}, nil
}

// haveLayer returns the layer of a tar that the store has. One that is only
// known does not count.
func (w *Whittle) haveLayer(diffID digest.Digest) (image.Layer, bool) {
	meta, ok := w.metaHere(diffID)
	if !ok || meta.DiffID != diffID {
		return image.Layer{}, false
	}
	return image.Layer{ID: diffID, DiffID: diffID, Size: meta.Size}, true
}

// layerSize is the bytes of a layer's files; 0 if that is not known.
func (w *Whittle) layerSize(id digest.Digest) int64 {
	meta, err := layer.ReadMeta(w.store.LayerDir(id))
	if err != nil {
		return 0
	}
	return meta.Size
}
