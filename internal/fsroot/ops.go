package fsroot

import (
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// Mkdir makes a directory with exactly these permission bits: the umask of
// the process does not count.
func (r *Root) Mkdir(name string, mode uint32) error {
	return r.in("mkdir", name, func(dir int, base string) error {
		if err := unix.Mkdirat(dir, base, mode&0o777); err != nil {
			return err
		}
		return chmodAt(dir, base, mode)
	})
}

// MkdirAll makes name and what is missing above it. What is there stays as it
// is, and must be a directory.
func (r *Root) MkdirAll(name string, mode uint32) error {
	err := r.Mkdir(name, mode)
	switch errno(err) {
	case 0:
		return nil
	case unix.EEXIST:
		return r.isDir(name)
	case unix.ENOENT:
		if dir, _, _ := split(name); dir != "." {
			if err := r.MkdirAll(dir, mode); err != nil {
				return err
			}
			return r.MkdirAll(name, mode)
		}
	}
	return err
}

func (r *Root) isDir(name string) error {
	i, err := r.Lstat(name)
	if err != nil {
		return err
	}
	if i.Kind != entry.Dir {
		return r.wrap("mkdir", name, unix.ENOTDIR)
	}
	return nil
}

// Symlink makes name a link to target, which may be any text.
func (r *Root) Symlink(target, name string) error {
	return r.in("symlink", name, func(dir int, base string) error {
		return unix.Symlinkat(target, dir, base)
	})
}

// Mknod makes a device, FIFO or socket. mode holds the type and exactly the
// permission bits that the file gets.
func (r *Root) Mknod(name string, mode uint32, major, minor uint32) error {
	return r.in("mknod", name, func(dir int, base string) error {
		if err := unix.Mknodat(dir, base, mode, int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
		return chmodAt(dir, base, mode&0o7777)
	})
}

// Link makes name another name of the file old; a symlink is not followed.
func (r *Root) Link(old, name string) error {
	return r.in("link", old, func(from int, oldBase string) error {
		return r.in("link", name, func(to int, base string) error {
			return unix.Linkat(from, oldBase, to, base, 0)
		})
	})
}

// LinkFile makes name another name of an open file, wherever that is on the
// same file system.
func (r *Root) LinkFile(f *os.File, name string) error {
	defer runtime.KeepAlive(f)
	return r.in("link", name, func(dir int, base string) error {
		return unix.Linkat(unix.AT_FDCWD, procPath(int(f.Fd()), ""), dir, base, unix.AT_SYMLINK_FOLLOW)
	})
}

// Rename moves old to name, replacing what is there if rename(2) would.
func (r *Root) Rename(old, name string) error {
	return r.in("rename", old, func(from int, oldBase string) error {
		return r.in("rename", name, func(to int, base string) error {
			return unix.Renameat(from, oldBase, to, base)
		})
	})
}

// Remove removes a file, a symlink (never its target) or an empty directory.
func (r *Root) Remove(name string) error {
	return r.in("remove", name, removeAt)
}

func removeAt(dir int, base string) error {
	err := unix.Unlinkat(dir, base, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	if rm := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); rm != unix.ENOTDIR {
		return rm
	}
	return err
}

// RemoveAll removes name and everything below it. A missing name is no
// error. The root itself is emptied, not removed.
func (r *Root) RemoveAll(name string) error {
	if relative(name) == "." {
		return r.wrapNil("remove", name, emptyDir(int(r.dir.Fd()), "."))
	}
	err := r.in("remove", name, removeTree)
	if errno(err) == unix.ENOENT {
		return nil
	}
	return err
}

// removeTree removes dir/base. It holds one handle for each level, so its
// depth is bounded by the process's limit of open files.
func removeTree(dir int, base string) error {
	err := removeAt(dir, base)
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	if err := emptyDir(dir, base); err != nil {
		return err
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

func emptyDir(dir int, base string) error {
	fd, err := open2(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, physical)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		names, err := dirNames(fd)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, n := range names {
			if err := removeTree(fd, n); err != nil && err != unix.ENOENT {
				return err
			}
		}
	}
}

// Chown sets owner and group; a symlink's own.
func (r *Root) Chown(name string, uid, gid uint32) error {
	return r.in("chown", name, func(dir int, base string) error {
		return unix.Fchownat(dir, base, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Chmod sets the permission bits. For a symlink, which has none, it is the
// error EOPNOTSUPP.
func (r *Root) Chmod(name string, mode uint32) error {
	return r.in("chmod", name, func(dir int, base string) error { return chmodAt(dir, base, mode) })
}

// chmodAt never follows a symlink. Before fchmodat2 (kernel 6.6) that takes a
// handle that is no link.
func chmodAt(dir int, base string, mode uint32) error {
	err := unix.Fchmodat(dir, base, mode&0o7777, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS && err != unix.EPERM {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return unix.Chmod(procPath(fd, ""), mode&0o7777)
}

// Utimes sets the modification and access time; a symlink's own.
func (r *Root) Utimes(name string, t entry.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(0), unix.NsecToTimespec(0)}
	for i := range ts {
		ts[i].Sec, ts[i].Nsec = t.Sec, int64(t.Nsec)
	}
	return r.in("utimes", name, func(dir int, base string) error {
		return unix.UtimesNanoAt(dir, base, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// Readlink returns the target of a symlink as it is written.
func (r *Root) Readlink(name string) (target string, err error) {
	err = r.in("readlink", name, func(dir int, base string) error {
		target, err = readlinkAt(dir, base)
		return err
	})
	return target, err
}

func readlinkAt(dir int, base string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(dir, base, b)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}

// dirNames lists an open directory from its start, without "." and "..".
func dirNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// ReadDir lists the names in a directory, sorted.
func (r *Root) ReadDir(name string) ([]string, error) {
	fd, err := r.openPhysical(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, r.wrap("readdir", name, err)
	}
	defer unix.Close(fd)
	names, err := dirNames(fd)
	if err != nil {
		return nil, r.wrap("readdir", name, err)
	}
	slices.Sort(names)
	return names, nil
}
