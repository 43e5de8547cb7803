package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// FullError says that a file system has no room, which one it is, and what it
// has left.
type FullError struct {
	Mount string // where the file system is mounted
	Free  int64  // bytes that this process may still use
	Size  int64  // bytes in all
	Files int64  // files that can still be made; -1 when that is not limited
	Err   error
}

func (e *FullError) Error() string {
	// What is free now may be more: what was half written is gone again.
	left := bytesText(e.Size) + " in all"
	if e.Files == 0 {
		left += ", no file can be made"
	}
	return fmt.Sprintf("%v: the file system at %s is full (%s)", e.Err, e.Mount, left)
}

func (e *FullError) Unwrap() error { return e.Err }

// Hint returns the way out.
func (e *FullError) Hint() string {
	return "free some room, for example with whittle prune, or give a folder on a larger file system with --root"
}

// Explain turns an error that comes from a full disk or an exhausted quota
// into a *FullError about the store's file system; others stay as they are.
// It is for those who write into folders that the store gave them.
func (s *Store) Explain(err error) error {
	var done *FullError
	if err == nil || errors.As(err, &done) {
		return err
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	e := &FullError{Mount: mountOf(s.dir), Files: -1, Err: err}
	var st unix.Statfs_t
	if unix.Statfs(e.Mount, &st) == nil {
		e.Free, e.Size = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
		if st.Files > 0 {
			e.Files = int64(st.Ffree)
		}
	}
	return e
}

// Free returns the bytes that may still be written to the store's file system.
func (s *Store) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// mountOf walks up from dir to the last folder on the same file system.
func mountOf(dir string) string {
	var here, up unix.Stat_t
	for dir != "/" && unix.Stat(dir, &here) != nil {
		dir = filepath.Dir(dir)
	}
	for dir != "/" {
		parent := filepath.Dir(dir)
		if unix.Stat(parent, &up) != nil || up.Dev != here.Dev {
			return dir
		}
		dir = parent
	}
	return dir
}

func bytesText(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.3g %cB", f, units[i])
}
