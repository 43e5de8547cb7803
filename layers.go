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

// sealedForm is the folder inside a tree layer that holds its tar.
const sealedForm = "sealed"

// imageLayer describes the layer id as an image has it: with a diffID. A layer
// that was born as a tree is sealed into a tar now, once for all builds; the
// tree stays what steps run on.
func (w *Whittle) imageLayer(ctx context.Context, id digest.Digest) (image.Layer, error) {
	dir := w.store.LayerDir(id)
	meta, err := w.rootFS().Meta(id) // which was read when the layer was gathered
	if err != nil {
		return image.Layer{}, fmt.Errorf("layer %s: %w", id.Short(), err)
	}
	if !meta.DiffID.IsZero() {
		return w.withOrigin(image.Layer{ID: id, DiffID: meta.DiffID, Size: meta.Size}, meta.Form), nil
	}
	sealed, err := layer.ReadMeta(filepath.Join(dir, sealedForm))
	if errors.Is(err, os.ErrNotExist) {
		err = w.store.AddToLayer(id, sealedForm, func(tmp string) error {
			span := trace.Begin(ctx, "seal")
			defer span.End()
			if err := os.MkdirAll(tmp, 0o755); err != nil {
				return err
			}
			_, err := layer.Seal(ctx, filepath.Join(dir, layer.TreeName), tmp)
			return err
		})
		if err == nil {
			sealed, err = layer.ReadMeta(filepath.Join(dir, sealedForm))
		}
	}
	if err != nil {
		return image.Layer{}, fmt.Errorf("layer %s: seal: %w", id.Short(), err)
	}
	return image.Layer{ID: id, DiffID: sealed.DiffID, Size: sealed.Size}, nil
}

// openTar opens the uncompressed tar of an image's layer.
func (w *Whittle) openTar(l image.Layer) (io.ReadCloser, int64, error) {
	dir := w.store.LayerDir(l.ID)
	f, err := os.Open(filepath.Join(dir, layer.TarName))
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.Open(filepath.Join(dir, sealedForm, layer.TarName))
	}
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
	meta, err := layer.Import(ctx, tmp.Path, r, nil)
	if err != nil {
		return image.Layer{}, w.store.Explain(err)
	}
	if !want.IsZero() && meta.DiffID != want {
		return image.Layer{}, fmt.Errorf("its content is %s and not %s, as was said", meta.DiffID.Short(), want.Short())
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
