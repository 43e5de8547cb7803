package rootfs

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/layer"
)

// away commits a layer that is elsewhere, and has Fetch bring it after a while.
func (r *rig) away(name string, takes time.Duration) digest.Digest {
	r.t.Helper()
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := layer.WriteMeta(tmp.Path, layer.Meta{Form: layer.FormAway}); err != nil {
		r.t.Fatal(err)
	}
	id := r.commit(tmp, digest.Of([]byte(name)))
	fetch := sync.OnceValue(func() error {
		time.Sleep(takes)
		tmp, err := r.store.Temp("test")
		if err != nil {
			return err
		}
		b, err := layer.Create(tmp.Path)
		if err != nil {
			return err
		}
		if _, err := b.Finish(); err != nil {
			return err
		}
		if err := os.RemoveAll(r.store.LayerDir(id)); err != nil {
			return err
		}
		return r.store.CommitLayer(tmp, id)
	})
	r.Fetch = func(context.Context, digest.Digest) error { return fetch() }
	return id
}

func TestAllWhoWaitForALayerHaveWaited(t *testing.T) {
	const takes = 300 * time.Millisecond
	r := newRig(t, Tree)
	chain := Chain{r.away("base", takes)}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			ctx, waited := Timed(t.Context())
			if _, err := r.View(ctx, chain); err != nil {
				t.Error(err)
			}
			if waited() < takes/2 {
				t.Errorf("waited for %v, which took %v", waited(), takes)
			}
		})
	}
	wg.Wait()
	ctx, waited := Timed(t.Context())
	if _, err := r.View(ctx, chain); err != nil || waited() > takes/2 {
		t.Errorf("waited for %v for what is there, error %v", waited(), err)
	}
}
