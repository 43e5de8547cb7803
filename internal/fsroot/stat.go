package fsroot

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// Info is what lstat(2) says of a file. Its Entry has no Xattrs, and its
// Inode is set for regular files with more than one name.
type Info struct {
	entry.Entry
	Dev   uint64
	Ino   uint64
	Nlink uint64
	Ctime entry.Time
}

// Lstat describes a physical path. The Path of the result is name.
func (r *Root) Lstat(name string) (Info, error) {
	var i Info
	err := r.in("lstat", name, func(dir int, base string) error {
		var err error
		i, err = lstatAt(dir, base)
		return err
	})
	i.Path = entry.Clean(name)
	return i, err
}

func lstatAt(dir int, base string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Info{}, err
	}
	i := infoOf(&st)
	if i.Kind != entry.Symlink {
		return i, nil
	}
	var err error
	i.Link, err = readlinkAt(dir, base)
	return i, err
}

// Stat describes an open file, extended attributes included. The result has
// no Path.
func Stat(f *os.File) (Info, error) {
	defer runtime.KeepAlive(f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Info{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	attrs, err := xattrsOf(f)
	if err != nil {
		return Info{}, &fs.PathError{Op: "getxattr", Path: f.Name(), Err: err}
	}
	i := infoOf(&st)
	i.Xattrs = attrs
	return i, nil
}

func infoOf(st *unix.Stat_t) Info {
	i := Info{
		Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint64(st.Nlink),
		Ctime: entry.Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
	}
	i.Kind = kindOf(st.Mode)
	i.Mode = st.Mode & 0o7777
	i.UID, i.GID = st.Uid, st.Gid
	i.Mtime = entry.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
	switch i.Kind {
	case entry.File:
		i.Size = st.Size
		if st.Nlink > 1 {
			i.Inode = st.Ino
		}
	case entry.Char, entry.Block:
		i.Major, i.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return i
}

func kindOf(mode uint32) entry.Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return entry.Dir
	case unix.S_IFLNK:
		return entry.Symlink
	case unix.S_IFCHR:
		return entry.Char
	case unix.S_IFBLK:
		return entry.Block
	case unix.S_IFIFO:
		return entry.Fifo
	case unix.S_IFSOCK:
		return entry.Socket
	}
	return entry.File
}

// errno returns the system's error number in err, or 0.
func errno(err error) unix.Errno {
	var n unix.Errno
	errors.As(err, &n)
	return n
}

func (r *Root) wrapNil(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return r.wrap(op, name, err)
}

// ReadFile reads a small file such as etc/passwd, following links inside the
// root. It refuses everything that is not a regular file without opening it
// (a FIFO would hang, a device may do anything) and files longer than limit.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	h, err := r.Open(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	f, err := reopen(h)
	if err != nil {
		return nil, r.wrap("read", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, r.wrap("read", name, ErrTooLarge)
	}
	return b, nil
}

// reopen opens the regular file behind an O_PATH handle for reading.
func reopen(h *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, ErrNotRegular
	}
	fd, err := unix.Open(procPath(int(h.Fd()), ""), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), h.Name()), nil
}
