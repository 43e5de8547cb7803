package whittle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/store"
)

// CacheMount is a cache mount that is in the store.
type CacheMount struct {
	execute.CacheAbout
	Number  int  // 0 is the one that steps find first; others were needed beside it
	Retired bool // no step will find it any more
	Bytes   int64
	Used    time.Time
	InUse   bool
	info    store.CacheInfo
}

// CacheMounts lists the cache mounts of RUN steps whose id want chooses; nil is
// all.
func (w *Whittle) CacheMounts(want func(id string) bool) ([]CacheMount, error) {
	list, err := w.store.CacheMounts()
	if err != nil {
		return nil, err
	}
	var out []CacheMount
	for _, info := range list {
		if c := cacheMount(info); want == nil || want(c.ID) {
			out = append(out, c)
		}
	}
	return out, nil
}

func cacheMount(info store.CacheInfo) CacheMount {
	c := CacheMount{Number: info.Number, Retired: info.Retired, Bytes: info.Bytes, Used: info.Used, InUse: info.InUse, info: info}
	if json.Unmarshal(info.About, &c.CacheAbout) != nil || c.Key() != info.Name && !info.Retired {
		c.CacheAbout = execute.CacheAbout{} // of a store that an older whittle has made
	}
	return c
}

// known says whether the cache can be told on another machine.
func (c *CacheMount) known() bool { return c.ID != "" }

// ExportCacheMounts makes the folder dir hold the cache mounts that want
// chooses and nothing else: see cachemount.Export. Of several of one name the
// first counts. waiting is called when a step has one of them alone. Those of builds that
// trust a key stay here: they go with the shared caches of such builds.
func (w *Whittle) ExportCacheMounts(ctx context.Context, dir string, want func(id string) bool, waiting func(id string)) (done cachemount.Exported, err error) {
	return w.exportCacheMounts(ctx, dir, store.Scope{}, want, waiting)
}

func (w *Whittle) exportCacheMounts(ctx context.Context, dir string, scope store.Scope, want func(id string) bool, waiting func(id string)) (done cachemount.Exported, err error) {
	lock, err := w.use(ctx)
	if err != nil {
		return done, err
	}
	defer join(&err, lock.Close)
	list, err := w.CacheMounts(want)
	if err != nil {
		return done, err
	}
	var sources []*cachemount.Source
	for _, c := range list {
		if !c.known() || c.Number > 0 || c.Retired || c.Scope != scope {
			continue
		}
		sources = append(sources, &cachemount.Source{
			Identity: c.Identity, Note: c.info.Note,
			SetNote: func(b []byte) error { return w.store.SetCacheNote(c.info.Name, b) },
			Hold: func(ctx context.Context) (string, func() error, error) {
				held, err := w.store.HoldCache(ctx, c.info.Name, func() { waiting(c.ID) })
				if err != nil {
					return "", nil, err
				}
				return held.Dir, held.Close, nil
			},
		})
	}
	return cachemount.Export(ctx, dir, sources)
}

// CacheImport says which caches an import takes.
type CacheImport struct {
	Want     func(id string) bool // nil is all
	IfAbsent bool                 // leave those alone that the store has
}

// Imported is what became of one cache of an import.
type Imported struct {
	cachemount.Identity
	Files   int
	Bytes   int64
	Lacking int // owners and attributes of files that this process could not give them
	// Present says that the store had it, and was asked to keep it; Busy that a
	// step has it at the moment. Then nothing was done.
	Present, Busy bool
}

// ImportCacheMounts takes the caches of an export into the store, each whole
// or not at all. What is imported wins over what the store has under the same
// name, but not over what a step has in use at that moment.
func (w *Whittle) ImportCacheMounts(ctx context.Context, dir string, req CacheImport) (done []Imported, err error) {
	lock, err := w.use(ctx)
	if err != nil {
		return nil, err
	}
	defer join(&err, lock.Close)
	in, err := cachemount.OpenImport(ctx, dir, req.Want)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := w.roomFor(in); err != nil {
		return nil, err
	}
	have, err := w.store.CacheMounts()
	if err != nil {
		return nil, err
	}
	for _, c := range in.Caches {
		one := Imported{Identity: c.Identity, Files: c.Files, Bytes: c.Bytes}
		for _, h := range have {
			if h.Name == c.Name() && h.Number == 0 && !h.Retired {
				one.Present, one.Busy = req.IfAbsent, h.InUse && !req.IfAbsent
			}
		}
		if !one.Present && !one.Busy {
			if err := w.importCache(ctx, c, store.Scope{}, &one); err != nil {
				return done, err
			}
		}
		done = append(done, one)
	}
	return done, w.store.Sync()
}

func (w *Whittle) importCache(ctx context.Context, c *cachemount.Saved, scope store.Scope, one *Imported) error {
	about := execute.CacheAbout{Identity: c.Identity, Scope: scope}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	installed, err := w.store.InstallCache(store.NewCache{Name: about.Key(), About: text, Fill: func(to string) (note []byte, err error) {
		note, one.Lacking, err = c.Unpack(ctx, to)
		return note, err
	}})
	one.Busy = err == nil && !installed
	return err
}

// roomFor refuses before anything is written what the disk cannot hold, whoever
// says that it is so large.
func (w *Whittle) roomFor(in *cachemount.Import) error {
	var need int64
	for _, c := range in.Caches {
		need += c.Bytes + 512*int64(c.Files)
	}
	free, err := w.store.Free()
	if err != nil || need < free {
		return err
	}
	return &hinted{fmt.Errorf("the caches need %s, and the store %s has %s free", image.HumanSize(need), w.store.Dir(), image.HumanSize(free)),
		"take some of them, with --filter id=ID, or make room: whittle prune"}
}

// PruneCacheMounts removes the cache mounts that want chooses and that were
// not used for so long; 0 is any time. Those that steps have stay: busy is how
// many. It does not wait, and may run beside builds.
func (w *Whittle) PruneCacheMounts(want func(id string) bool, unused time.Duration) (removed []CacheMount, busy int, err error) {
	now := w.opt.Now()
	gone, busy, err := w.store.PruneCaches(func(info store.CacheInfo) bool {
		c := cacheMount(info)
		return (want == nil || want(c.ID)) && (unused == 0 || now.Sub(c.Used) >= unused)
	})
	for _, info := range gone {
		removed = append(removed, cacheMount(info))
	}
	return removed, busy, err
}

// dropCacheMounts removes those of a scope that no step has any more. Who lists or prunes others
// may have one of them for a moment.
func (w *Whittle) dropCacheMounts(of store.Scope) error {
	for try := 0; ; try++ {
		_, busy, err := w.store.PruneCaches(func(info store.CacheInfo) bool { return cacheMount(info).Scope == of })
		if busy == 0 || err != nil || try == 10 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// FindExport says whether dir is there: an import of what no build has exported
// yet is an ordinary thing in the first run of a CI job.
func FindExport(dir string) (bool, error) {
	_, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
