package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/flock"
)

// Temp is a folder for unfinished work. Its inode is locked (flock) while its
// owner lives; that is how others know a dead owner's.
type Temp struct {
	Path string
	s    *Store
	lock *os.File
}

// Lock is the open file that says that the folder is in use.
func (t *Temp) Lock() *os.File { return t.lock }

// Temp makes a new, empty, private folder below tmp/, on the file system of
// the store. prefix is a word that says what for. The owner calls Remove, or
// gives it to CommitLayer.
func (s *Store) Temp(prefix string) (*Temp, error) {
	if prefix == "" || strings.ContainsAny(prefix, "/.\x00") {
		return nil, fmt.Errorf("temporary folder %q: not a plain word", prefix)
	}
	f, err := s.newLocked(s.path(tmpDir, prefix), func(path string) (*os.File, error) {
		if err := os.Mkdir(path, folderMode); err != nil {
			return nil, err
		}
		return os.Open(path)
	})
	if err != nil {
		return nil, err
	}
	return &Temp{Path: f.Name(), s: s, lock: f}, nil
}

// Remove removes the folder and all that is in it. It may be called again,
// and does nothing once the folder became a layer.
func (t *Temp) Remove() error {
	if t.lock == nil {
		return nil
	}
	_, err := t.s.removeTree(t.Path)
	return errors.Join(err, t.release())
}

func (t *Temp) release() error {
	err := t.lock.Close()
	t.lock = nil
	return err
}

// tempFile is a file in tmp/, locked like a Temp.
type tempFile struct {
	*os.File
	moved bool
}

func (s *Store) tempFile(prefix string) (*tempFile, error) {
	f, err := s.newLocked(s.path(tmpDir, prefix), createNew)
	if err != nil {
		return nil, err
	}
	return &tempFile{File: f}, nil
}

// drop ends the file's life, unless it was moved to its place.
func (f *tempFile) drop() {
	if !f.moved {
		os.Remove(f.Name())
	}
	f.Close()
}

// moveTo is the commit point of a file: it replaces what is at path.
func (f *tempFile) moveTo(path string) error {
	err := withParent(path, func() error { return os.Rename(f.Name(), path) })
	f.moved = err == nil
	return err
}

// newLocked makes something under a name of its own that begins with stem,
// and locks it. A sweep may come between the making and the lock; then the
// name is gone, and another is tried.
func (s *Store) newLocked(stem string, create func(path string) (*os.File, error)) (*os.File, error) {
	for {
		path := stem + "-" + randomName()
		var f *os.File
		err := withParent(path, func() (err error) {
			f, err = create(path)
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept between the making and the opening
		}
		if err != nil {
			return nil, s.Explain(err)
		}
		locked, err := flock.Try(f, flock.Exclusive)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if locked && linked(f) {
			return f, nil
		}
		os.Remove(path)
		f.Close()
	}
}

func createNew(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
}

// write puts b at path: temporary file, complete, rename.
func (s *Store) write(what, path string, b []byte) error {
	return s.writeWith(what, path, writeBytes(b))
}

func writeBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// writeWith is write for what is not in memory.
func (s *Store) writeWith(what, path string, fn func(io.Writer) error) error {
	f, err := s.tempFile(what)
	if err != nil {
		return err
	}
	defer f.drop()
	if err := fn(f); err != nil {
		return s.Explain(err)
	}
	crash.Point("store." + what + ".written")
	if err := f.moveTo(path); err != nil {
		return s.Explain(err)
	}
	crash.Point("store." + what + ".renamed")
	s.wrote()
	return nil
}

// trash moves path into tmp/, the first half of every removal of a folder: a
// crash in the second half leaves rubbish only there. It returns "" when
// path is not there.
func (s *Store) trash(path string) (string, error) {
	to := s.path(tmpDir, "trash-"+randomName())
	err := withParent(to, func() error { return os.Rename(path, to) })
	if err == nil {
		return to, nil
	}
	if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
		return "", nil
	}
	return "", err
}

// discard removes a folder of the store, in both halves.
func (s *Store) discard(path string) (freed int64, err error) {
	to, err := s.trash(path)
	if err != nil || to == "" {
		return 0, err
	}
	crash.Point("store.discard.trashed")
	return s.removeTree(to)
}

// Sweep removes from tmp/ and locks/ what processes that no longer live have
// left there. It is cheap, never waits, and may run beside anything.
func (s *Store) Sweep() (removed int, freed int64, err error) {
	names, err := readNames(s.path(tmpDir))
	if err := ignoreAbsent(err); err != nil {
		return 0, 0, err
	}
	var errs []error
	for _, n := range names {
		gone, bytes, err := s.sweepOne(s.path(tmpDir, n))
		if err != nil {
			errs = append(errs, err)
		}
		if gone {
			removed++
		}
		freed += bytes
	}
	errs = append(errs, s.sweepLocks())
	return removed, freed, errors.Join(errs...)
}

// sweepOne removes one thing of tmp/ unless its owner lives.
func (s *Store) sweepOne(path string) (gone bool, freed int64, err error) {
	if resting(path) {
		return false, 0, nil
	}
	f, err := openAnything(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, 0, nil
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return true, 0, ignoreAbsent(os.Remove(path)) // a link, socket or device: nothing that the store makes
	case err != nil:
		return false, 0, err
	}
	defer f.Close()
	locked, err := flock.Try(f, flock.Exclusive)
	if err != nil || !locked || !linked(f) {
		return false, 0, err
	}
	freed, err = s.removeTree(path)
	return err == nil, freed, err
}

// ownerDead reports whether nobody holds what is at path in tmp/.
func ownerDead(path string) bool {
	f, err := openAnything(path)
	if err != nil {
		return true
	}
	defer f.Close()
	locked, err := flock.Try(f, flock.Shared)
	return err == nil && locked
}

// openAnything opens a file or folder without following a link at its end
// and without waiting for the other end of a fifo.
func openAnything(path string) (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0)
	if !errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, path, folderMode, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return os.OpenFile(path, flags, 0)
}

func randomName() string {
	var b [10]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// withParent runs do, and once more after making path's folder when that is
// what was missing: shards are made when they are needed first.
func withParent(path string, do func() error) error {
	err := do()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(path[:strings.LastIndexByte(path, '/')], folderMode); err != nil {
		return err
	}
	return do()
}
