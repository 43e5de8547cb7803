package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// All locks are those of package flock on an open file description that no child keeps,
// unless it is told to.

const (
	lockUse   = "use"   // shared by builds, exclusive for who must be alone
	lockGate  = "gate"  // see use.go
	lockPrune = "prune" // one pruner or checker at a time
	lockUsers = "users" // folder of the users' pin files
	lockKeys  = "keys"  // folder of the locks that come and go
)

// Lock is a held lock.
type Lock struct {
	mu    sync.Mutex
	file  *os.File
	brief bool   // the file goes when the lock does
	after func() // what else ends with the lock
}

// Close gives the lock back. It may be called again.
func (l *Lock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	if l.after != nil {
		l.after()
	}
	var err error
	if l.brief {
		err = ignoreAbsent(os.Remove(l.file.Name()))
	}
	err = errors.Join(err, flock.Unlock(l.file), l.file.Close())
	l.file = nil
	return err
}

// LockKey takes the lock of a key, so that one process runs its step while
// the others wait. waiting, if not nil, is called once when somebody else
// holds it. It fails only when ctx ends or the store cannot be written.
func (s *Store) LockKey(ctx context.Context, key digest.Digest, waiting func()) (*Lock, error) {
	l, err := s.lock(ctx, s.briefPath("key", key.Hex()), flock.Exclusive, true, waiting)
	if err != nil {
		return nil, fmt.Errorf("lock of key %s: %w", key.Short(), err)
	}
	return l, nil
}

// Exclusive takes the store for this process alone, when the last Use lock is
// gone. Builds that keep coming can make it wait for ever; ctx ends that.
// Pruning does not need it.
func (s *Store) Exclusive(ctx context.Context) (*Lock, error) {
	l, err := s.lock(ctx, s.path(lockDir, lockUse), flock.Exclusive, false, nil)
	if err != nil {
		return nil, fmt.Errorf("exclusive lock of store %s: %w", s.dir, err)
	}
	return l, nil
}

// briefPath is the file of a lock on one of many things. what and hex are
// safe as parts of a file name.
func (s *Store) briefPath(what, hex string) string {
	return s.path(lockDir, lockKeys, what+"-"+hex)
}

// lock waits for a lock. A brief lock's file is removed by its holder; who
// gets the lock of a removed file begins again with the new one.
func (s *Store) lock(ctx context.Context, path string, how int, brief bool, waiting func()) (*Lock, error) {
	if waiting != nil {
		waiting = sync.OnceFunc(waiting)
	}
	for {
		f, err := openLock(path)
		if err != nil {
			return nil, s.Explain(err)
		}
		if err := flock.Wait(ctx, f, how, waiting); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !brief || linked(f) {
			return &Lock{file: f, brief: brief}, nil
		}
		f.Close()
	}
}

// tryLockPath takes a lock if nobody holds it; else it returns nil.
func (s *Store) tryLockPath(path string, how int) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, s.Explain(err)
	}
	locked, err := flock.Try(f, how)
	if err != nil || !locked {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{file: f}, nil
}

func openLock(path string) (f *os.File, err error) {
	err = withParent(path, func() error {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, fileMode)
		return err
	})
	return f, err
}

// linked reports whether f is still what its name stands for. What is locked
// after another process removed it protects nothing.
func linked(f *os.File) bool {
	var open, named unix.Stat_t
	return unix.Fstat(int(f.Fd()), &open) == nil && unix.Lstat(f.Name(), &named) == nil &&
		open.Ino == named.Ino && open.Dev == named.Dev
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// sweepLocks removes lock files that no living process holds.
func (s *Store) sweepLocks() error {
	var errs []error
	for _, dir := range []string{lockKeys, lockUsers} {
		names, err := readNames(s.path(lockDir, dir))
		if err := ignoreAbsent(err); err != nil {
			errs = append(errs, err)
		}
		for _, n := range names {
			errs = append(errs, sweepLock(filepath.Join(s.path(lockDir, dir), n)))
		}
	}
	return errors.Join(errs...)
}

func sweepLock(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer f.Close()
	locked, err := flock.Try(f, flock.Exclusive)
	if err != nil || !locked || !linked(f) {
		return err
	}
	return ignoreAbsent(os.Remove(path))
}
