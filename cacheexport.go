package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/sharedcache"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// exportedCache is a cache to write.
type exportedCache struct {
	Cache
	where
}

// export adds what this build knows to a cache that the request names.
func (c *caches) export(ctx context.Context, r *receiver, p *plan.Plan, solved *solve.Result) error {
	at := r.cache.by(r.shown.client())
	err := c.exportTo(ctx, r.cache, at, p, solved)
	if err == nil && len(r.cache.Mounts) > 0 {
		err = c.exportMounts(ctx, r.cache, at, p)
	}
	r.shown.done(err)
	if err == nil || ctx.Err() != nil {
		return err
	}
	err = &CacheError{Name: r.cache.label(), Err: err}
	if r.cache.IgnoreError {
		c.build.note("%v", err)
		return nil
	}
	return err
}

// CacheError is a shared cache that could not be written, by a build that did all
// else that it was to do.
type CacheError struct {
	Name string
	Err  error
}

func (e *CacheError) Error() string {
	return fmt.Sprintf("cache %s: was not written, though all else is done: %v", e.Name, e.Err)
}

// Hint returns the way out.
func (e *CacheError) Hint() string {
	return "the image is as it should be: run the build again for the cache, or add ,ignore-error=true to --cache-to"
}

func (e *CacheError) Unwrap() error { return e.Err }

func (c *caches) exportTo(ctx context.Context, to *exportedCache, at cacheplace.Place, p *plan.Plan, solved *solve.Result) error {
	span := trace.Begin(trace.Lane(ctx, "cache "+to.label()), "write the shared cache")
	defer span.End()
	known, err := c.there(ctx, to, at)
	if err != nil {
		return err
	}
	lost := c.gone(ctx, at, known)
	known.Lose(lost)
	mine, err := c.known(ctx, to, at, known, p, solved)
	if err != nil {
		return err
	}
	added := mine.Without(known)
	if added.Empty() {
		return nil
	}
	within, cancel := context.WithTimeoutCause(ctx, 2*maxCacheRead, fmt.Errorf("it did not answer within %v", 2*maxCacheRead))
	defer cancel()
	if err := at.Add(within, c.trust, added, lost); err != nil {
		return err
	}
	c.build.note("cache %s: %s added", to.label(), count(added.Len(), "record"))
	return nil
}

// there is what the cache knows of what this build adds to. One that is damaged knows
// nothing: it is written anew.
func (c *caches) there(ctx context.Context, to *exportedCache, at cacheplace.Place) (*sharedcache.Set, error) {
	long := time.AfterFunc(patience, func() { c.build.note("waiting for the cache %s, for up to %v", to.label(), maxCacheRead) })
	defer long.Stop()
	within, cancel := context.WithTimeoutCause(ctx, maxCacheRead, fmt.Errorf("it did not answer within %v", maxCacheRead))
	defer cancel()
	known, err := at.Read(within, c.trust.Writer())
	if errors.Is(err, cacheplace.ErrNone) || errors.Is(err, cacheplace.ErrUntrusted) || errors.Is(err, cacheplace.ErrDamaged) {
		return sharedcache.New(), nil
	}
	return known, err
}

// gone are the layers that could not be fetched and that this cache has not: some
// other place may have failed.
func (c *caches) gone(ctx context.Context, at cacheplace.Place, there *sharedcache.Set) map[digest.Digest]bool {
	lost := c.build.lostLayers()
	for id := range lost {
		if d := there.Blob(id); d != nil {
			if has, err := at.Has(ctx, *d); has || err != nil {
				delete(lost, id)
			}
		}
	}
	return lost
}

// known is what this build can tell: the records of its steps, with the blobs of
// the layers that the cache is to have, which are sent if it lacks them.
func (c *caches) known(ctx context.Context, to *exportedCache, at cacheplace.Place, there *sharedcache.Set, p *plan.Plan, solved *solve.Result) (*sharedcache.Set, error) {
	set := sharedcache.New()
	c.mu.Lock()
	for name, d := range c.copied {
		set.AddContent(name, d)
	}
	c.mu.Unlock()
	ofImage := map[digest.Digest]bool{}
	for _, id := range solved.Chain(p.Target.Root) {
		ofImage[id] = true
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	slots := make(chan struct{}, maxFetches)
	other := map[digest.Digest]bool{} // layers in whose place all who read take another
	for _, s := range p.Steps {
		done := solved.Steps[s]
		rec, err := c.build.store.Record(c.scope().Key(done.Key))
		if err != nil || done.Layer.IsZero() {
			continue // pruned since: nobody else could use it either
		}
		if slices.ContainsFunc(done.Chain, func(id digest.Digest) bool { return other[id] }) {
			continue
		}
		if _, l, ok := there.Record(done.Key, sandbox.OneID() != nil); ok && l.Blob != nil && l.ID != done.Layer {
			if has, err := at.Has(ctx, *l.Blob); has && err == nil {
				other[done.Layer] = true
				continue
			}
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l, err := c.send(ctx, to, at, there.Blob(done.Layer), done.Layer, to.Max || ofImage[done.Layer])
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			l.Size, l.Entries = rec.Size, rec.Entries
			if l.ID != l.DiffID && !c.births().of(&l) {
				return // nobody could tell whether the layer is what it says
			}
			single := rec.Extra[extraSingle] == "true" || rec.Extra[extraFrom] == "" && rec.Kind == "run" && sandbox.OneID() != nil
			set.Add(sharedcache.Record{Key: done.Key, Layer: done.Layer, Kind: rec.Kind, Size: rec.Size,
				Entries: rec.Entries, Created: rec.Created, Took: rec.Took, Text: rec.Text, Single: single}, l)
		})
	}
	wg.Wait()
	return set, errors.Join(errs...)
}

// births tell of layers that were born as trees which run made them.
type births map[digest.Digest]birth

type birth struct {
	key   digest.Digest
	nonce string
}

// of adds to l what its id follows from, if that is known.
func (b births) of(l *sharedcache.Layer) bool {
	made, ok := b[l.ID]
	l.Key, l.Nonce = made.key, made.nonce
	return ok
}

// readBirths looks through all records. That of the step which has the layer now
// need not be the one of the run that made it: a COPY may write what another wrote.
func (b *build) readBirths() births {
	all := births{}
	_ = b.store.Records(func(key digest.Digest, r *store.Record) bool {
		made := birth{r.StepKey(key), r.Nonce}
		if k, err := digest.ParseHex(r.Extra[extraKey]); err == nil {
			made = birth{k, r.Extra[extraNonce]}
		}
		if store.TreeID(made.key, made.nonce) == r.Layer {
			all[r.Layer] = made
		}
		return true
	})
	return all
}

// send describes a layer, and makes the cache have its blob if it is to have it.
// One that is elsewhere and cannot be lent is not fetched for that.
func (c *caches) send(ctx context.Context, to *exportedCache, at cacheplace.Place, there *manifest.Descriptor, id digest.Digest, wanted bool) (sharedcache.Layer, error) {
	l, err := c.build.imageLayer(ctx, id)
	out := sharedcache.Layer{ID: id, DiffID: l.DiffID, Blob: there}
	if err != nil || there != nil || !wanted {
		return out, err
	}
	d, err := at.PutLayer(ctx, c.upload(l, to))
	if errors.Is(err, errAway) {
		return out, nil
	}
	out.Blob = &d
	return out, err
}

// errAway is for a layer that is not sent because it is not here.
var errAway = errors.New("the layer is elsewhere")

// upload is a layer on its way into a cache. The repositories of the names that
// the image is pushed under may lend it.
func (c *caches) upload(l image.Layer, to *exportedCache) registry.UploadLayer {
	up := c.build.upload(&image.Image{}, l, pushForm{Compression: to.Compression, force: to.Force})
	send := up.Blob
	up.Blob = func(ctx context.Context, see func(io.ReadCloser)) (manifest.Descriptor, error) {
		if !c.build.hereAlready(l.ID) {
			return manifest.Descriptor{}, errAway
		}
		return send(ctx, see)
	}
	for _, n := range c.build.pushedNames() {
		up.From = append(up.From, reference(n))
	}
	return up
}
