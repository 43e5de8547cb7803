package whittle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/abreast"
	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/registry"
)

// AllMounts stands in Cache.Mounts for all cache mounts of the build.
const AllMounts = "*"

// wantsMount says whether a cache mount travels with a cache.
func (c *Cache) wantsMount(id string) bool {
	return slices.Contains(c.Mounts, AllMounts) || slices.Contains(c.Mounts, id)
}

// stagedMounts is the kind of folder in which exports of cache mounts stay, so that the
// next export reads only what has changed.
const stagedMounts = "mounts"

// exportMounts brings the cache mounts of p's steps to a cache: each in the place of an
// older state of it, whoever wrote that.
func (c *caches) exportMounts(ctx context.Context, to *exportedCache, at cacheplace.Place, p *plan.Plan) error {
	if c.build.req.NoCache {
		return nil // its steps began with empty ones
	}
	used := mountsOf(p)
	want := func(id string) bool { return used[id] && to.wantsMount(id) }
	dir, err := c.build.store.Folder(stagedMounts, c.scope().Key(digest.Of([]byte(to.origin()+"\n"+to.tag))).Hex())
	if err != nil {
		return err
	}
	_, err = c.build.exportCacheMounts(ctx, dir, c.scope(), want, func(id string) { c.build.note("cache mount %s is in use: waiting for it", id) })
	if err != nil {
		return err
	}
	in, err := cachemount.OpenImport(ctx, dir, want) // another process may have exported others since
	if err != nil {
		return err
	}
	defer in.Close()
	for _, m := range in.Caches {
		if c.isSpared(m.Name()) {
			continue
		}
		if err := c.exportMount(ctx, to, at, m); err != nil {
			return fmt.Errorf("cache mount %s: %w", m.ID, err)
		}
	}
	return nil
}

// mountsOf are the ids of all cache mounts of a plan.
func mountsOf(p *plan.Plan) map[string]bool {
	ids := map[string]bool{}
	for _, s := range p.Steps {
		if s.Run == nil {
			continue
		}
		for _, m := range s.Run.Mounts {
			if m.Type == plan.MountCache {
				ids[m.ID] = true
			}
		}
	}
	return ids
}

func (c *caches) exportMount(ctx context.Context, to *exportedCache, at cacheplace.Place, m *cachemount.Saved) error {
	doc, err := m.Document()
	if err != nil {
		return err
	}
	old, err := at.Beside(ctx, c.trust.Writer(), m.Name())
	same := err == nil && bytes.Equal(old, doc)
	for try := 1; ; try++ {
		sent, err := c.sendMount(ctx, at, m)
		if err != nil || same && !sent {
			return err
		}
		err = at.PutBeside(ctx, c.trust, m.Name(), doc, m.Blobs())
		if errors.Is(err, cacheplace.ErrIncomplete) && try < 3 {
			continue // another writer has just removed what only an older one needed
		}
		if err == nil {
			c.build.note("cache %s: cache mount %s, %s", to.label(), m.ID, progress.HumanSize(m.Bytes))
		}
		return err
	}
}

// sendMount makes a place have all blobs of a cache mount, and says whether it lacked one.
func (c *caches) sendMount(ctx context.Context, at cacheplace.Place, m *cachemount.Saved) (sent bool, err error) {
	var lacked atomic.Bool
	err = abreast.Each(ctx, m.Blobs(), maxFetches, func(ctx context.Context, d manifest.Descriptor) error {
		_, err := at.PutLayer(ctx, registry.UploadLayer{
			Blob: func(context.Context, func(io.ReadCloser)) (manifest.Descriptor, error) { return d, nil },
			Open: func() (io.ReadCloser, error) {
				lacked.Store(true)
				b, err := m.Blob(d)
				return io.NopCloser(bytes.NewReader(b)), err
			},
		})
		return err
	})
	return lacked.Load(), err
}

// spare keeps a cache mount in a cache as it is there: that here began without it.
func (c *caches) spare(name digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spared[name] = true
}

func (c *caches) isSpared(name digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spared[name]
}

// bring takes a cache mount that the store lacks out of a shared cache, before the first
// step that has it runs. Without it the step does as it would without any cache.
func (c *caches) bring(ctx context.Context, id cachemount.Identity) {
	c.mu.Lock()
	once := c.brought[id.Name()]
	if once == nil {
		once = sync.OnceFunc(func() { c.bringMount(ctx, id) })
		c.brought[id.Name()] = once
	}
	c.mu.Unlock()
	once()
}

func (c *caches) bringMount(ctx context.Context, id cachemount.Identity) {
	have, err := c.build.CacheMounts(func(one string) bool { return one == id.ID })
	if err != nil {
		return
	}
	mine := func(m CacheMount) bool { return m.Scope == c.scope() && m.Name() == id.Name() && !m.Retired }
	if slices.ContainsFunc(have, mine) {
		return
	}
	for _, one := range c.from {
		if !one.wantsMount(id.ID) {
			continue
		}
		done, err := c.receive(ctx, one.by(c.client()), id)
		switch {
		case err == nil:
			c.build.note("cache %s: cache mount %s, %s", one.label(), id.ID, progress.HumanSize(done.Bytes))
			return
		case ctx.Err() == nil && !errors.Is(err, cacheplace.ErrNone):
			if !cacheplace.Lasting(ctx, err) {
				c.spare(id.Name())
			}
			c.build.note("cache %s: cache mount %s cannot be had, and the build goes on without it: %v", one.label(), id.ID, err)
		}
	}
}

func (c *caches) receive(ctx context.Context, at cacheplace.Place, id cachemount.Identity) (done Imported, err error) {
	doc, err := at.Beside(ctx, c.trust, id.Name())
	if err != nil {
		return done, err
	}
	tmp, err := c.build.store.Temp("mount")
	if err != nil {
		return done, err
	}
	defer join(&err, tmp.Remove)
	dir := filepath.Join(tmp.Path, "export")
	if err := cachemount.Receive(ctx, dir, doc, at.Bytes); err != nil {
		return done, err
	}
	in, err := cachemount.OpenImport(ctx, dir, nil)
	if err != nil {
		return done, err
	}
	defer in.Close()
	if len(in.Caches) != 1 || in.Caches[0].Name() != id.Name() {
		return done, errors.New("it is another one than its name says")
	}
	if err := c.build.roomFor(in); err != nil {
		return done, err
	}
	m := in.Caches[0]
	done = Imported{Identity: m.Identity, Files: m.Files, Bytes: m.Bytes}
	return done, c.build.importCache(ctx, m, c.scope(), &done)
}
