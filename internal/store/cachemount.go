package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// A cache mount is a folder of kind "cache" for each pair of a name and a
// number: 0, and more of them when several are needed at once. Who uses one
// holds its lock, shared or alone. What the step sees lies one level down, so
// that the folder's own time can tell when it was last used. Pruning takes
// such folders only while nobody builds, as all of kind "cache".

// Sharing says who else may use a cache mount at the same time.
type Sharing int

// The ways of sharing.
const (
	Shared  Sharing = iota // whoever says so too
	Private                // nobody: who comes while it is in use gets another one
	Locked                 // nobody: who comes while it is in use waits
)

// CacheRequest asks for a cache mount.
type CacheRequest struct {
	Name    digest.Digest
	Sharing Sharing
	// About tells people, and those who take caches elsewhere, what it is. It
	// is kept beside the cache.
	About []byte
	// Fill makes the folder dir, with what a new cache has in it.
	Fill func(dir string) error
	// Waiting, if not nil, is called once when the request has to wait.
	Waiting func()
}

// CacheMount is a cache mount in use. Close gives it back.
type CacheMount struct {
	Dir  string
	lock *Lock
}

// Lock is the open file by which the cache is held: who has it open, holds it.
func (c *CacheMount) Lock() *os.File { return c.lock.file }

// Close gives the cache back.
func (c *CacheMount) Close() error { return c.lock.Close() }

// What is in the folder of a cache.
const (
	cacheTree  = "tree"       // what steps see
	cacheAbout = "about.json" // CacheRequest.About
	cacheNote  = "note.json"  // see CacheInfo.Note
)

// maintenance is longer than a lock is held by what is no step.
const maintenance = 10 * time.Millisecond

// CacheMount finds or makes a cache mount that can be used now, or waits for
// one. The caller holds a Use lock.
func (s *Store) CacheMount(ctx context.Context, r CacheRequest) (*CacheMount, error) {
	c, err := s.cacheMount(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("cache mount: %w", s.Explain(err))
	}
	return c, nil
}

func (s *Store) cacheMount(ctx context.Context, r CacheRequest) (c *CacheMount, err error) {
	patient := true
	err = flock.Until(ctx, func() (bool, error) {
		var busy int
		if c, busy, err = s.freeCache(r); c != nil || err != nil || r.Sharing == Locked {
			return c != nil, err
		}
		// Who lists, replaces or prunes caches has their locks for a moment, which
		// is no reason to begin with an empty one.
		if patient {
			patient = false
			return false, sleep(ctx, maintenance)
		}
		c, err = s.useCache(r, busy)
		return c != nil, err // nil: somebody else took that one at the same moment
	}, r.told())
	return c, err
}

// told is what to call when one waits for a cache.
func (r *CacheRequest) told() func() {
	if r.Sharing != Locked {
		return nil // it waits for nobody
	}
	return r.Waiting
}

// freeCache takes the first cache of this name that can be used now, and makes
// the first one there is. Otherwise it returns how many there are, all busy.
func (s *Store) freeCache(r CacheRequest) (c *CacheMount, busy int, err error) {
	for ; ; busy++ {
		_, err := os.Lstat(s.cachePath(r.Name, busy))
		if errors.Is(err, fs.ErrNotExist) && busy > 0 {
			return nil, busy, nil
		}
		if c, err := s.useCache(r, busy); c != nil || err != nil {
			return c, busy, err
		}
	}
}

// useCache takes the cache of this number, made if need be; nil if somebody
// else has it.
func (s *Store) useCache(r CacheRequest, number int) (*CacheMount, error) {
	how := flock.Exclusive
	if r.Sharing == Shared {
		how = flock.Shared
	}
	lock, err := s.tryCache(cacheName(r.Name, number), how)
	if lock == nil || err != nil {
		return nil, err
	}
	path := s.cachePath(r.Name, number)
	if err := s.makeCache(path, r); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	now := s.now()
	if err := os.Chtimes(path, now, now); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &CacheMount{Dir: filepath.Join(path, cacheTree), lock: lock}, nil
}

// tryCache takes the lock of a cache, or returns nil.
func (s *Store) tryCache(name string, how int) (*Lock, error) {
	for {
		lock, err := s.tryLockPath(s.briefPath("cache", name), how)
		if lock == nil || err != nil || linked(lock.file) {
			return lock, err
		}
		lock.Close() // swept before it was locked
	}
}

func cacheName(name digest.Digest, number int) string {
	return fmt.Sprintf("%s-%d", name.Hex(), number)
}

func (s *Store) cachePath(name digest.Digest, number int) string {
	return s.path(folderDir, "cache", cacheName(name, number))
}

// makeCache makes the folder of a cache whole or not at all.
func (s *Store) makeCache(path string, r CacheRequest) (err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := s.Temp("cache")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	whole := filepath.Join(tmp.Path, "whole")
	if err := os.Mkdir(whole, folderMode); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(whole, cacheAbout), r.About, fileMode); err != nil {
		return err
	}
	if err := r.Fill(filepath.Join(whole, cacheTree)); err != nil {
		return err
	}
	err = withParent(path, func() error { return renameNew(whole, path) })
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was first
	}
	return err
}

// RetireCaches takes away all caches of a name, so that a request makes a new
// one. One in use stays with its users, under another name, until it is pruned.
// The caller holds a Use lock.
func (s *Store) RetireCaches(name digest.Digest) error {
	for number := 0; ; number++ {
		path := s.cachePath(name, number)
		err := os.Rename(path, s.path(folderDir, "cache", "old-"+randomName()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cache mount: %w", s.Explain(err))
		}
	}
}
