package whittle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/sharedcache"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// caches are the shared caches of one build. What is found in one is taken into
// the store: a placeholder for the layer, and the record.
type caches struct {
	build *build
	trust cacheplace.Trust
	stop  func() // ends the reading and waits for it
	from  []*importedCache
	to    []*exportedCache

	client func() *registry.Client // that reads them, once
	births func() births           // read once
	mu     sync.Mutex
	// copied are the contents that copies of this build were found to have.
	copied  map[string]digest.Digest
	spared  map[digest.Digest]bool          // cache mounts that are not exported
	worth   map[digest.Digest]time.Duration // that layers are fetched for: what it takes to make them again
	brought map[digest.Digest]func()        // cache mounts that were looked for, by their names
}

// importedCache is a cache to read: from the beginning on where the store is
// empty, else when the first step is not in the store. A build of which nothing
// has changed asks nobody.
type importedCache struct {
	Cache
	where
	begin func()
	told  sync.Once // that it takes long
	done  chan struct{}
	set   *sharedcache.Set // after done; empty if it could not be read
}

// openCaches checks the caches of the request, of which those that steps may come
// from can be read until closeCaches.
func (b *build) openCaches(ctx context.Context) error {
	c := &caches{build: b, copied: map[string]digest.Digest{}, brought: map[digest.Digest]func(){}, spared: map[digest.Digest]bool{}, worth: map[digest.Digest]time.Duration{}, births: sync.OnceValue(b.readBirths),
		client: sync.OnceValue(func() *registry.Client { return b.client(nil) })}
	var err error
	if c.trust, err = b.req.trusted(); err != nil {
		return err
	}
	for _, one := range b.req.CacheFrom {
		at, err := one.place()
		if err != nil {
			return err
		}
		if b.req.NoCache {
			continue // nothing would come of it
		}
		c.from = append(c.from, &importedCache{Cache: one, where: at, done: make(chan struct{}), set: sharedcache.New()})
	}
	if c.to, err = b.exportedCaches(); err != nil {
		return err
	}
	if len(c.from)+len(c.to) == 0 && c.trust.Verify == nil {
		return nil
	}
	b.caches = c
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	c.stop = func() { cancel(); wg.Wait() }
	for _, one := range c.from {
		one.begin = sync.OnceFunc(func() {
			wg.Go(func() {
				defer close(one.done)
				c.read(ctx, one)
			})
		})
	}
	if b.store.HasNoLayers() {
		c.begin()
	}
	return nil
}

func (c *caches) begin() {
	for _, one := range c.from {
		one.begin()
	}
}

func (b *build) closeCaches() {
	if b.caches != nil {
		b.caches.stop()
	}
}

// read takes in what a cache knows. One that cannot be read is a cache in which
// nothing is: the build goes on without it.
func (c *caches) read(ctx context.Context, one *importedCache) {
	span := trace.Begin(trace.Lane(ctx, "cache "+one.label()), "read the shared cache")
	defer span.End()
	within, cancel := context.WithTimeoutCause(ctx, maxCacheRead, fmt.Errorf("it was not read within %v", maxCacheRead))
	defer cancel()
	set, err := one.read(within, c.client(), c.trust)
	switch {
	case err == nil:
		one.set = set
		c.build.note("cache %s: %s", one.label(), count(set.Len(), "record"))
	case errors.Is(err, cacheplace.ErrNone) && c.trust.Verify != nil:
		c.build.note("cache %s: none of its records is signed by the key of --cache-verify-key", one.label())
	case errors.Is(err, cacheplace.ErrNone):
		c.build.note("cache %s: is not there yet", one.label())
	case ctx.Err() == nil:
		c.build.note("cache %s: cannot be read, and the build goes on without it: %v", one.label(), err)
	}
}

func (b *build) note(format string, args ...any) {
	b.sink.Emit(progress.Event{Kind: progress.Note, Time: b.opt.Now(), Text: fmt.Sprintf(format, args...)})
}

const (
	// maxCacheRead bounds how long a build waits for a registry that does not
	// answer, and could do without it.
	maxCacheRead = time.Minute
	// patience is after what time it says that it waits.
	patience = 3 * time.Second
)

// wait returns the sets, when they are read.
func (c *caches) wait(ctx context.Context) []*importedCache {
	c.begin()
	for _, one := range c.from {
		long := time.AfterFunc(patience, func() {
			one.told.Do(func() { c.build.note("waiting for the cache %s, for up to %v", one.label(), maxCacheRead) })
		})
		select {
		case <-one.done:
		case <-ctx.Done():
		}
		long.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
	return c.from
}

// What is kept with a record that came from a cache.
const (
	extraFrom   = "from"   // the cache
	extraKey    = "key"    // of the run that made the layer
	extraNonce  = "nonce"  // of that run
	extraSingle = "single" // "true": see sharedcache.Record
	extraDiffID = "diffID" // of the layer
)

// Find looks for a record that the store lacks, and takes it into the store.
func (c *caches) Find(ctx context.Context, key digest.Digest) (bool, error) {
	for _, one := range c.wait(ctx) {
		r, l, ok := one.set.Record(key, sandbox.OneID() != nil)
		if !ok || c.build.avoid(l.ID) {
			continue
		}
		var from []origin
		if l.Blob != nil {
			from = append(from, origin{one.origin(), l.Blob.Bare()})
		}
		err := c.build.putAway(l.ID, layer.Meta{DiffID: l.DiffID, Size: l.Size, Entries: l.Entries}, from)
		if errors.Is(err, errOther) {
			continue
		}
		if err == nil {
			err = c.build.store.PutRecord(c.scope().Key(key), &store.Record{
				Layer: r.Layer, Kind: r.Kind, Size: r.Size, Entries: r.Entries, Created: r.Created, Took: r.Took, Text: r.Text,
				Extra: map[string]string{extraFrom: one.origin(), extraKey: l.Key.Hex(), extraNonce: l.Nonce, extraSingle: fmt.Sprint(r.Single), extraDiffID: l.DiffID.Hex()}, Step: key,
			})
		}
		return err == nil, err
	}
	return false, nil
}

// scope is that of what this build has in the store: who trusts a key takes nothing that
// builds have left which do not, be it that they took it out of a cache or ran it on top of
// what they took.
func (c *caches) scope() store.Scope {
	if c.trust.Verify == nil {
		return store.Scope{}
	}
	return store.ScopeOf(c.trust.Verify.ID())
}

// scope is that of the build's caches, if it has any.
func (b *build) scope() store.Scope {
	if b.caches == nil {
		return store.Scope{}
	}
	return b.caches.scope()
}

// Usable implements solve.Elsewhere. The id of a layer that was born as a tree does not
// bind what it has: once it was pruned, somebody else may have brought another one of
// that id into the store, out of a cache that nobody vouches for.
func (c *caches) Usable(rec *store.Record) bool {
	if c.trust.Verify == nil || rec.Layer.IsZero() {
		return true
	}
	dir := c.build.store.LayerDir(rec.Layer)
	meta, err := layer.ReadMeta(dir)
	if err != nil {
		return false
	}
	if meta.DiffID.Hex() == rec.Extra[extraDiffID] || meta.DiffID == rec.Layer {
		return true
	}
	// Of a tree that was made here the diffID stands elsewhere; nobody else can make one of its id.
	return !isBrought(dir)
}

// Content is the digest of what a copy reads, as far as a cache knows it.
func (c *caches) Content(ctx context.Context, name string) (digest.Digest, bool) {
	for _, one := range c.wait(ctx) {
		if d, ok := one.set.Content(name); ok {
			return d, true
		}
	}
	return digest.Digest{}, false
}

// Copied keeps what a copy of this build was found to have, for those who read
// the caches that it is exported to.
func (c *caches) Copied(name string, d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copied[name] = d
}

// known is what steps ask for contents of copies: nil where nothing is shared.
func (b *build) known() execute.Known {
	if b.caches == nil {
		return nil
	}
	return b.caches
}

// reach makes sure that some place has each layer of chain which is not here. Of
// bases the registry has just said so.
func (b *build) reach(ctx context.Context, chain rootfs.Chain) error {
	bases := b.baseLayers()
	var errs []error
	for _, id := range chain {
		if slices.Contains(bases, id) || b.hereAlready(id) {
			continue
		}
		if !b.reachable(ctx, id) {
			errs = append(errs, &rootfs.LostError{Layer: id})
		}
	}
	return errors.Join(errs...)
}

// avoid says whether a layer was found to be in no place that can be reached, and
// has not been made again since.
func (b *build) avoid(id digest.Digest) bool {
	b.lostLock.Lock()
	lost := b.lost[id]
	b.lostLock.Unlock()
	return lost && !b.hereAlready(id)
}

// solveWhole solves until all layers that it found in shared caches can be had
// where they are needed: a cache may have lost some.
func (b *build) solveWhole(ctx context.Context, s *solve.Solver, p *plan.Plan) (*solve.Result, error) {
	span := trace.Begin(ctx, "solve")
	defer span.End()
	for {
		solved, err := s.Solve(ctx, p)
		if err == nil && b.shell == nil {
			err = b.whole(ctx, p, solved)
		}
		if err == nil || ctx.Err() != nil {
			return solved, err
		}
		if !b.giveUp(err) {
			return solved, err
		}
		b.begin(p)
	}
}

// whole makes sure that all layers of the image are here, or of one that is only
// pushed, that they can be had.
func (b *build) whole(ctx context.Context, p *plan.Plan, solved *solve.Result) error {
	chain := solved.Chain(p.Target.Root)
	if b.onlyPushed() {
		return b.reach(ctx, chain)
	}
	if b.caches != nil {
		if err := b.worthGathering(ctx, p, solved); err != nil {
			return err
		}
	}
	return b.rootFS().Gather(ctx, chain)
}

// lostLayers are those that this build does without.
func (b *build) lostLayers() map[digest.Digest]bool {
	b.lostLock.Lock()
	defer b.lostLock.Unlock()
	return maps.Clone(b.lost)
}

// giveUp has this build do without the layers in err that cannot be fetched, so
// that the steps that make them run. It reports whether there were any new ones
// that a step makes. In the store nothing changes: images may name them, and
// another time they may come.
func (b *build) giveUp(err error) bool {
	lost := lostIn(err)
	for _, id := range b.baseLayers() {
		delete(lost, id) // nothing here makes it
	}
	b.lostLock.Lock()
	defer b.lostLock.Unlock()
	more := false
	for id, why := range lost {
		if _, known := b.lost[id]; known {
			continue
		}
		if b.lost == nil {
			b.lost = map[digest.Digest]bool{}
		}
		b.lost[id], more = true, true
		b.note("%v: the step that makes it runs again", why)
	}
	return more
}

// lostIn collects the layers that the errors joined in err are about.
func lostIn(err error) map[digest.Digest]*rootfs.LostError {
	lost := map[digest.Digest]*rootfs.LostError{}
	var walk func(err error)
	walk = func(err error) {
		if l, ok := err.(*rootfs.LostError); ok {
			lost[l.Layer] = l
		}
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return lost
}

// baseLayers are those that base images brought.
func (b *build) baseLayers() []digest.Digest {
	var ids []digest.Digest
	for _, m := range b.images {
		ids = append(ids, chainOf(m)...)
	}
	return ids
}
