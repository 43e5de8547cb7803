// Package rootfs makes a file system out of a chain of layers: a merged view
// that is read without mounting anything, and a mounted root that a process
// can run in, with an upper directory that takes what the process changes.
//
// It knows two providers. erofs mounts a layer's tar through its index, so
// nothing is ever unpacked; tree unpacks a tar layer once and uses the folder.
// Trees that a RUN left are used as they are by both. Every mount is detached:
// none appears in any mount namespace, and a process that is killed leaves
// none behind. What runs in a root is no matter here.
//
// Whoever hands over a chain has asked the store for each of its layers
// (HasLayer, Record) under a Use lock: nothing here looks whether a layer is
// whole, or keeps it from being pruned.
package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/store"
)

// Chain is the layers under a step, bottom first.
type Chain []digest.Digest

// ID is the identity of the chain's file system: the hash of its layers' ids.
func (c Chain) ID() digest.Digest { return digest.SumOf("chain", "layer", c) }

// Push returns c with one more layer on top; c is not changed.
func (c Chain) Push(l digest.Digest) Chain {
	return append(c[:len(c):len(c)], l)
}

// Roots makes views and mounts of the layers of one store. It keeps what it
// opened until Close, and may be used by several goroutines at once.
type Roots struct {
	// Fetch, if not nil, brings in a layer of which the store has only a
	// placeholder (layer.FormAway). It is called from several goroutines.
	Fetch func(ctx context.Context, id digest.Digest) error

	store  *store.Store
	choose func() (Provider, error)
	user   bool // in a user namespace: user.* overlay attributes

	metas  memo[layer.Meta]  // by layer
	layers memo[*layer.View] // by layer, or by chain where it depends on that
	merged memo[entry.FS]    // by chain
	lowers memo[*os.File]    // as layers
	old    atomic.Bool       // the kernel's overlayfs is mounted with mount(2)

	leaving leaving
}

// New returns the roots of s. choose picks the provider; it is asked once, when
// something must be mounted or a layer's form depends on it.
func New(s *store.Store, choose func() (Provider, error), userNS bool) *Roots {
	return &Roots{store: s, choose: sync.OnceValues(choose), user: userNS}
}

// Provider says which provider mounts.
func (r *Roots) Provider() (Provider, error) { return r.choose() }

// UserNS says whether the mounts are made in a user namespace.
func (r *Roots) UserNS() bool { return r.user }

// Close lets go of all mounts and views. None may be in use.
func (r *Roots) Close() error { return r.CloseWith((*os.File).Close) }

// CloseWith is Close for a program that ends now: end is given the layers in its place, mounts
// mostly, as it may be somebody else who closes them.
func (r *Roots) CloseWith(end func(*os.File) error) error {
	r.leaving.all.Wait()
	r.merged.drain(func(entry.FS) error { return nil })
	r.metas.drain(func(layer.Meta) error { return nil })
	err := r.lowers.drain(end)
	if verr := r.layers.drain((*layer.View).Close); err == nil {
		err = verr
	}
	return err
}

// View returns the merged file system of chain, read in user space: no mount
// is made. It stays valid until Close. An empty chain is an empty root. Layers
// that are elsewhere are fetched.
func (r *Roots) View(ctx context.Context, chain Chain) (entry.FS, error) {
	name := chain.ID().Hex()
	var below entry.FS
	// Not within get: who waits for the same layers has waited as long, by Timed. Of a view that was begun
	// they are all here.
	if !r.merged.begun(name) {
		away := chain
		if top := len(chain) - 1; top > 0 {
			// A step's root is mostly that of the step before and one layer.
			if below = r.merged.made(chain[:top].ID().Hex()); below != nil {
				away = chain[top:]
			}
		}
		if err := r.Gather(ctx, away); err != nil {
			return nil, err
		}
	}
	return r.merged.get(name, func() (entry.FS, error) { return r.merge(ctx, below, chain) })
}

// merge makes the view of chain, of which below is all but the topmost layer, or nil.
func (r *Roots) merge(ctx context.Context, below entry.FS, chain Chain) (entry.FS, error) {
	if below != nil {
		l, err := r.Layer(ctx, chain)
		if err != nil {
			return nil, err
		}
		return layer.Extend(below, l), nil
	}
	layers := make([]entry.FS, len(chain))
	for i := range chain {
		l, err := r.Layer(ctx, chain[:i+1])
		if err != nil {
			return nil, err
		}
		layers[i] = l
	}
	return layer.Merge(layers...), nil
}

// Layer returns the view of the topmost layer of chain alone, whiteouts
// included.
func (r *Roots) Layer(ctx context.Context, chain Chain) (entry.FS, error) {
	t, err := r.top(ctx, chain)
	if err != nil {
		return nil, err
	}
	v, err := r.layers.get(t.name(), func() (*layer.View, error) {
		v, err := r.openLayer(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", t.id.Short(), err)
		}
		return v, nil
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (r *Roots) openLayer(ctx context.Context, t topLayer) (*layer.View, error) {
	if t.meta.Form == layer.FormTree {
		return layer.OpenTree(filepath.Join(t.dir, layer.TreeName))
	}
	index, err := r.index(ctx, t)
	if err != nil {
		return nil, err
	}
	return layer.OpenTar(t.dir, index)
}

// topLayer is the topmost layer of a chain.
type topLayer struct {
	id     digest.Digest
	dir    string
	meta   layer.Meta
	below  Chain
	suffix string // see suffix
}

func (r *Roots) top(ctx context.Context, chain Chain) (topLayer, error) {
	id := chain[len(chain)-1]
	meta, err := r.fetched(ctx, id)
	if err != nil {
		return topLayer{}, fmt.Errorf("layer %s: %w", id.Short(), err)
	}
	below := chain[:len(chain)-1]
	return topLayer{id, r.store.LayerDir(id), meta, below, suffix(below, meta)}, nil
}

// name is what the layer's views and mounts are kept under.
func (t *topLayer) name() string { return t.id.Hex() + t.suffix }

// suffix names what belongs to (layer, chain below it) and not to the layer
// alone: everything that shows a directory which the tar only implies.
func suffix(below Chain, meta layer.Meta) string {
	if !meta.Implied || meta.Form == layer.FormTree || len(below) == 0 {
		return ""
	}
	return "-" + below.ID().Hex()
}

// index returns the path of the index through which a layer's tar form is
// read, making the one that belongs to this chain when there is none yet.
func (r *Roots) index(ctx context.Context, t topLayer) (string, error) {
	name := layer.IndexName + t.suffix
	path := filepath.Join(t.dir, name)
	if t.suffix == "" || exists(path) {
		return path, nil
	}
	below, err := r.View(ctx, t.below)
	if err != nil {
		return "", err
	}
	return path, r.store.AddToLayer(t.id, name, func(tmp string) error {
		return layer.Reindex(t.dir, below, tmp)
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
