package rootfs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/layer"
)

// A LostError is a layer that no place has any more that should have it, or that
// none can be reached of.
type LostError struct {
	Layer digest.Digest
	Err   error // what each of them answered; nil where none is known
}

func (e *LostError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("layer %s: is in no place that is known", e.Layer.Short())
	}
	return fmt.Sprintf("layer %s: %v", e.Layer.Short(), e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// Gather makes sure that all layers of chain are here. Those that are elsewhere
// are fetched side by side; View and the mounts would do it by themselves.
func (r *Roots) Gather(ctx context.Context, chain Chain) error {
	began := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(chain))
	for i, id := range chain {
		meta, err := r.Meta(id)
		if err != nil || meta.Form != layer.FormAway {
			continue // an error comes again when the layer is opened
		}
		wg.Go(func() { _, errs[i] = r.fetched(ctx, id) })
	}
	wg.Wait()
	if sum, ok := ctx.Value(waitKey{}).(*atomic.Int64); ok {
		sum.Add(int64(time.Since(began)))
	}
	return errors.Join(errs...)
}

type waitKey struct{}

// Timed returns a context with a clock: how long what runs under it has waited in Gather, for
// layers to come from elsewhere.
func Timed(ctx context.Context) (_ context.Context, waited func() time.Duration) {
	var sum atomic.Int64
	return context.WithValue(ctx, waitKey{}, &sum), func() time.Duration { return time.Duration(sum.Load()) }
}

// Meta is what is known of a layer, here or elsewhere.
func (r *Roots) Meta(id digest.Digest) (layer.Meta, error) {
	return r.metas.get(id.Hex(), func() (layer.Meta, error) { return layer.ReadMeta(r.store.LayerDir(id)) })
}

// fetched is the meta of a layer that is here, after it was fetched if need be.
func (r *Roots) fetched(ctx context.Context, id digest.Digest) (layer.Meta, error) {
	meta, err := r.Meta(id)
	if err != nil || meta.Form != layer.FormAway {
		return meta, err
	}
	if r.Fetch == nil {
		return meta, fmt.Errorf("layer %s: is not here, and nothing fetches it", id.Short())
	}
	if err := r.Fetch(ctx, id); err != nil {
		return meta, err
	}
	r.metas.drop(id.Hex())
	meta, err = r.Meta(id)
	if err == nil && meta.Form == layer.FormAway {
		err = fmt.Errorf("layer %s: was fetched and is not here", id.Short())
	}
	return meta, err
}
