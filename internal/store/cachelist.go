package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// CacheInfo describes a cache mount that is there.
type CacheInfo struct {
	Name   digest.Digest
	Number int // 0 is the one that steps find first
	// Retired says that no step will find it any more: one that was begun anew
	// while steps had it.
	Retired bool
	About   []byte    // as it was given when it was made; may be empty
	Note    []byte    // as SetCacheNote has it
	Used    time.Time // when a step began to use it last
	InUse   bool
	Bytes   int64 // of disk
	path    string
}

// CacheMounts lists all cache mounts, in the order of their names.
func (s *Store) CacheMounts() ([]CacheInfo, error) {
	var out []CacheInfo
	err := s.eachNamed(folderDir, "cache", func(path, name string, bad error) error {
		if bad != nil {
			return nil
		}
		c, err := s.cacheInfo(path, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		out = append(out, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cache mounts: %w", err)
	}
	return out, nil
}

func (s *Store) cacheInfo(path, name string) (CacheInfo, error) {
	c := CacheInfo{path: path}
	st, err := os.Lstat(path)
	if err != nil {
		return c, err
	}
	c.Used = st.ModTime()
	hex, number, _ := strings.Cut(name, "-")
	if c.Name, err = digest.ParseHex(hex); err == nil {
		c.Number, err = strconv.Atoi(number)
	}
	c.Retired = err != nil
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{cacheAbout, &c.About}, {cacheNote, &c.Note}} {
		b, err := os.ReadFile(filepath.Join(path, f.name))
		if ignoreAbsent(err) != nil {
			return c, err
		}
		*f.to = b
	}
	if !c.Retired {
		lock, err := s.tryCache(name, flock.Exclusive)
		if err != nil {
			return c, err
		}
		if c.InUse = lock == nil; !c.InUse {
			lock.Close()
		}
	}
	c.Bytes, _, err = measure(filepath.Join(path, cacheTree))
	return c, err
}

// HoldCache keeps the first cache of a name from steps that want it alone, and
// waits until none has it. It makes none: without one the error is ErrNotFound.
// The caller holds a Use lock.
func (s *Store) HoldCache(ctx context.Context, name digest.Digest, waiting func()) (*CacheMount, error) {
	var lock *Lock
	err := flock.Until(ctx, func() (_ bool, err error) {
		lock, err = s.tryCache(cacheName(name, 0), flock.Shared)
		return lock != nil, err
	}, waiting)
	if err != nil {
		return nil, err
	}
	c := &CacheMount{Dir: filepath.Join(s.cachePath(name, 0), cacheTree), lock: lock}
	if !isFolder(c.Dir) {
		return nil, errors.Join(ErrNotFound, lock.Close())
	}
	return c, nil
}

// SetCacheNote keeps something beside the first cache of a name, until that
// goes. When the cache was used stays what it is.
func (s *Store) SetCacheNote(name digest.Digest, note []byte) error {
	path := s.cachePath(name, 0)
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	f, err := s.tempFile("note")
	if err != nil {
		return err
	}
	defer f.drop()
	if _, err := f.Write(note); err != nil {
		return s.Explain(err)
	}
	if err := os.Rename(f.Name(), filepath.Join(path, cacheNote)); err != nil {
		return err
	}
	f.moved = true
	return os.Chtimes(path, st.ModTime(), st.ModTime())
}

// NewCache is a cache that is made outside of a step.
type NewCache struct {
	Name  digest.Digest
	About []byte
	// Fill makes the folder dir, and returns the note that is kept beside it.
	Fill func(dir string) (note []byte, err error)
}

// InstallCache makes a cache the first of its name, in the place of what is
// there. It is filled beside and renamed into place, so that a crash leaves the
// old one. A cache that a step has at that moment stays, and what was
// filled is dropped: installed is false. The caller holds a Use lock.
func (s *Store) InstallCache(c NewCache) (installed bool, err error) {
	tmp, err := s.Temp("cache")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	whole := filepath.Join(tmp.Path, "whole")
	if err := os.Mkdir(whole, folderMode); err != nil {
		return false, s.Explain(err)
	}
	note, err := c.Fill(filepath.Join(whole, cacheTree))
	if err != nil {
		return false, s.Explain(err)
	}
	for name, b := range map[string][]byte{cacheAbout: c.About, cacheNote: note} {
		if err := os.WriteFile(filepath.Join(whole, name), b, fileMode); err != nil {
			return false, s.Explain(err)
		}
	}
	lock, err := s.tryCache(cacheName(c.Name, 0), flock.Exclusive)
	if lock == nil || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	crash.Point("store.cache.filled")
	if err := s.swapIn(whole, s.cachePath(c.Name, 0)); err != nil {
		return false, err
	}
	crash.Point("store.cache.swapped")
	s.wrote()
	return true, nil
}

// swapIn puts the folder whole at path. What was there is in its place then, or
// where a file system cannot do that at once, in tmp.
func (s *Store) swapIn(whole, path string) error {
	err := withParent(path, func() error { return renameNew(whole, path) })
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if unix.Renameat2(unix.AT_FDCWD, whole, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) == nil {
		return nil
	}
	if _, err := s.discard(path); err != nil {
		return err
	}
	return renameNew(whole, path)
}

// PruneCaches removes the caches that want chooses, but for those that steps
// have; a retired one may be in use as long as anybody builds. It never waits.
func (s *Store) PruneCaches(want func(CacheInfo) bool) (removed []CacheInfo, busy int, err error) {
	list, err := s.CacheMounts()
	if err != nil {
		return nil, 0, err
	}
	for _, c := range list {
		if !want(c) {
			continue
		}
		gone, err := s.pruneCache(c)
		if err != nil {
			return removed, busy, fmt.Errorf("cache mounts: %w", err)
		}
		if !gone {
			busy++
			continue
		}
		removed = append(removed, c)
	}
	return removed, busy, nil
}

func (s *Store) pruneCache(c CacheInfo) (gone bool, err error) {
	var lock *Lock
	if c.Retired {
		lock, err = s.tryLockPath(s.path(lockDir, lockUse), flock.Exclusive)
	} else {
		lock, err = s.tryCache(cacheName(c.Name, c.Number), flock.Exclusive)
	}
	if lock == nil || err != nil {
		return false, err
	}
	trashed, err := s.trash(c.path)
	if err = errors.Join(err, lock.Close()); err != nil || trashed == "" {
		return true, err
	}
	_, err = s.removeTree(trashed)
	return true, err
}
