package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A container's folder has two locks. The monitor holds the one of the run for
// as long as it lives. The one of changes is held by whoever starts, removes
// or writes into a container that does not run, so that these wait for each
// other. Both are locks of an open file description (fcntl(2), F_OFD_SETLK):
// they end with their process, and can be asked about without being taken,
// which would be in the way of somebody who wants to take them just then.
const (
	runLock    = "lock"
	changeLock = "change"
)

func tryLock(f *os.File) (bool, error) {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// locked says whether a monitor runs the container whose folder is dir.
func locked(dir string) bool {
	f, err := os.Open(filepath.Join(dir, runLock))
	if err != nil {
		return false
	}
	defer f.Close()
	return lockedIn(f)
}

// lockedIn says whether somebody else has the lock of f.
func lockedIn(f *os.File) bool {
	held := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held) == nil && held.Type != unix.F_UNLCK
}

// takeRun makes this process the monitor of the container in dir; ok is false
// when it has one. The caller holds the lock of changes.
func takeRun(dir string) (f *os.File, ok bool, err error) {
	f, err = os.OpenFile(filepath.Join(dir, runLock), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, false, err
	}
	if ok, err = tryLock(f); err != nil || !ok {
		f.Close()
		return nil, false, err
	}
	noteBegin(f)
	return f, true, nil
}

// lockPoll is how often a lock is tried that somebody else has.
const lockPoll = 5 * time.Millisecond

// change takes the lock of changes and brings c up to date. It is ErrNotFound
// when the container was removed meanwhile.
func (s *Set) change(ctx context.Context, c *Container) (*os.File, error) {
	dir, err := s.folder(c)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, changeLock), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound(c.Name)
	}
	if err != nil {
		return nil, err
	}
	if err := waitLock(ctx, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	now, err := s.get(c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		err = notFound(c.Name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	*c = *now
	return f, nil
}

func waitLock(ctx context.Context, f *os.File) error {
	for {
		ok, err := tryLock(f)
		if ok || err != nil {
			return err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
