package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDepth is how many folders a removal holds open. What lies deeper is
// moved up first, so that no depth of nesting runs out of descriptors.
const maxDepth = 100

// remover removes a tree that an untrusted step has left: it goes from folder
// to folder by descriptor, follows no link, and opens folders that forbid it.
type remover struct {
	top   int      // the folder that holds the tree
	deep  []string // names in top of subtrees that were moved up
	freed int64    // bytes of files whose last name went
}

// removeTree removes path, whatever it is, and returns the bytes that became
// free. Something that is not there, or that another process is removing at
// the same time, is no error. path lies in tmp/.
func (s *Store) removeTree(path string) (int64, error) {
	top, err := unix.Open(filepath.Dir(path), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(top)
	r := &remover{top: top, deep: []string{filepath.Base(path)}}
	for len(r.deep) > 0 {
		name := r.deep[len(r.deep)-1]
		r.deep = r.deep[:len(r.deep)-1]
		if err := r.remove(top, name, 0); err != nil {
			return r.freed, fmt.Errorf("removing %s: %w", path, err)
		}
	}
	return r.freed, nil
}

func (r *remover) remove(dir int, name string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return r.removeDir(dir, name, st.Mode, depth)
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%q: %w", name, err)
	}
	if st.Nlink <= 1 {
		r.freed += st.Blocks * 512
	}
	return nil
}

func (r *remover) removeDir(dir int, name string, mode uint32, depth int) error {
	if depth >= maxDepth {
		return r.moveUp(dir, name)
	}
	f, err := openDirAt(dir, name, mode)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody else removed it
		}
		if err != nil && err != io.EOF {
			return err
		}
		if len(names) == 0 {
			break
		}
		for _, n := range names {
			if err := r.remove(int(f.Fd()), n, depth+1); err != nil {
				return err
			}
		}
		// Where a folder is read on after its names have changed is up to
		// the file system (readdir(3)): begin again.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

func (r *remover) moveUp(dir int, name string) error {
	to := "trash-" + randomName()
	err := unix.Renameat(dir, name, r.top, to)
	if err == unix.ENOENT {
		return nil // somebody else moved or removed it
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	r.deep = append(r.deep, to)
	return nil
}

// openDirAt opens a folder for reading and changing it, even if its mode says
// no: who may change the mode may do both. A link is never opened.
func openDirAt(dir int, name string, mode uint32) (*os.File, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_RDONLY | unix.O_CLOEXEC
	if mode&0o700 != 0o700 {
		allow(dir, name, mode)
	}
	fd, err := unix.Openat(dir, name, flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// allow gives the owner all rights on a folder. When that cannot be done the
// call that needs them says so.
func allow(dir int, name string, mode uint32) {
	mode = mode&0o7777 | 0o700
	err := unix.Fchmodat(dir, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP {
		return
	}
	// Before Linux 6.6 only /proc changes a mode without following a link.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// measure returns the bytes that the tree at path takes on disk and the
// number of its entries. A file with several names counts in equal parts for
// each, so that sums over trees that share files are right. Parts that cannot
// be read count as nothing.
func measure(path string) (bytes int64, entries int, err error) {
	var m measurer
	err = m.add(unix.AT_FDCWD, path)
	return m.bytes, m.entries, err
}

type measurer struct {
	bytes   int64
	entries int
	depth   int
}

func (m *measurer) add(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	m.entries++
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		m.bytes += st.Blocks * 512 / max(int64(st.Nlink), 1)
		return nil
	}
	m.bytes += st.Blocks * 512
	if m.depth >= 10*maxDepth {
		return nil // a measure, not a check: the rest of such a tree is not worth the descriptors
	}
	fd, err := unix.Openat(dir, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreUnreadable(err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	m.depth++
	defer func() { m.depth-- }()
	for {
		names, err := f.Readdirnames(1024)
		if err != nil {
			return ignoreEnd(err)
		}
		for _, n := range names {
			if err := m.add(fd, n); err != nil {
				return err
			}
		}
	}
}

func ignoreUnreadable(err error) error {
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EMFILE) {
		return nil
	}
	return err
}

// ignoreEnd drops the end of a folder, and of one that is removed meanwhile.
func ignoreEnd(err error) error {
	if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
