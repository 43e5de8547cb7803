package whittle

import (
	"context"
	"errors"
	"time"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/store"
)

// PruneImages says which images Prune removes. One that a container was made
// from, or that a running build is about to name, always stays.
type PruneImages int

const (
	DanglingImages PruneImages = iota // those that have no name
	UnusedImages                      // all
	NoImages
)

// PruneRequest says what to remove of what nothing needs.
type PruneRequest struct {
	Images   PruneImages
	MaxBytes int64         // what the store may take on disk: the least recently used goes until it fits; 0 is no limit
	Unused   time.Duration // what was not used for so long goes, whatever the size; images go only if they are so old
	All      bool          // everything that no image, container or running build needs
	// CacheMounts takes those of RUN --mount=type=cache and nothing else: all,
	// unless Unused or MaxBytes say which.
	CacheMounts bool
}

// Pruned is what Prune removed.
type Pruned struct {
	store.Freed
	Images []image.Removed
}

// Prune removes images that nobody needs, then build cache that no image,
// container or running build needs, the least recently used first, and what
// dead processes left behind.
func (w *Whittle) Prune(ctx context.Context, req PruneRequest) (Pruned, error) {
	var done Pruned
	var err error
	if req.CacheMounts {
		req.Images, req.All = NoImages, req.Unused == 0 && req.MaxBytes == 0
	}
	if done.Images, err = w.pruneImages(req); err != nil {
		return done, err
	}
	roots, size, err := w.pruneFailed(ctx, req)
	if err != nil {
		return done, err
	}
	keep, err := w.kept()
	if err != nil {
		return done, err
	}
	done.Freed, err = w.store.Prune(ctx, store.PruneOptions{
		Keep: keep, Recheck: w.kept, KeepBlob: noBlob, MaxBytes: req.MaxBytes, Unused: req.Unused, All: req.All, Now: w.opt.Now(),
		CacheMounts: req.CacheMounts,
	})
	done.Caches, done.Bytes = done.Caches+roots, done.Bytes+size
	return done, err
}

// pruneFailed removes roots of failed steps that were kept to be looked into.
// They are build cache: the build can be made to fail again.
func (w *Whittle) pruneFailed(ctx context.Context, req PruneRequest) (n int, bytes int64, err error) {
	if req.CacheMounts || !req.All && req.Unused == 0 {
		return 0, 0, nil
	}
	return w.Containers().PruneFailed(ctx, func(c *container.Container) bool {
		return req.All || w.opt.Now().Sub(c.Created) >= req.Unused
	})
}

// pruneImages removes the images that req chooses. Who stores an image, names
// it or makes a container of it pins it first; so here it is either seen to be
// pinned, or gone for them before they look.
func (w *Whittle) pruneImages(req PruneRequest) (done []image.Removed, err error) {
	if req.Images == NoImages {
		return nil, nil
	}
	err = w.store.Unpinned(func(pinned func(digest.Digest) bool) error {
		list, err := w.catalog.List()
		if err != nil {
			return err
		}
		used, err := w.usedImages()
		if err != nil {
			return err
		}
		for _, s := range list {
			if pinned(s.Image.ID) || used[s.Image.ID] || !req.takes(s, w.opt.Now()) {
				continue
			}
			r, err := w.catalog.Drop(s)
			done = append(done, r)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if len(done) > 0 {
		err = errors.Join(err, w.store.Sync())
	}
	return done, err
}

// takes reports whether the request is about the image s, if nobody needs it.
func (r *PruneRequest) takes(s image.Summary, now time.Time) bool {
	if r.Images == DanglingImages && !s.Dangling() {
		return false
	}
	return r.Unused == 0 || now.Sub(s.Image.Stored) >= r.Unused && now.Sub(s.Tagged) >= r.Unused
}

// usedImages finds the images that containers were made from.
func (w *Whittle) usedImages() (map[digest.Digest]bool, error) {
	list, err := w.Containers().List()
	used := map[digest.Digest]bool{}
	for _, c := range list {
		used[c.Image] = true
	}
	return used, err
}
