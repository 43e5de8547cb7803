package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/sandbox/initproc"
	"github.com/whittle-build/whittle/internal/sandbox/supervisor"
)

// mount puts m at its target.
func (f *fitting) mount(m boxMount) error {
	switch {
	case m.Content != nil:
		return f.content(m)
	case len(m.Path) == 0:
		return f.tmpfs(m)
	case m.ReadOnly:
		return f.copied(m)
	}
	return f.moved(m)
}

// content makes the place of a file that is in memory only.
func (f *fitting) content(m boxMount) error {
	name, err := f.place(string(m.Target), false)
	if err != nil {
		return err
	}
	err = f.put(name, func(dir int, base string) error {
		return unix.Mknodat(dir, base, unix.S_IFREG|0o444, 0)
	}, nil)
	c := m.Content
	f.config.Files = append(f.config.Files, supervisor.File{Path: "/" + name, Content: c.Content, Mode: c.Mode, UID: c.UID, GID: c.GID})
	return err
}

// tmpfs makes an empty folder. One that says no mode has that of the folder
// which it hides, as runc does.
func (f *fitting) tmpfs(m boxMount) error {
	mode, uid, gid := int64(-1), int64(0), int64(0)
	for _, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		var err error
		switch key {
		case "mode":
			mode, err = strconv.ParseInt(value, 8, 32)
		case "uid":
			uid, err = strconv.ParseInt(value, 10, 32)
		case "gid":
			gid, err = strconv.ParseInt(value, 10, 32)
		case "size", "nr_inodes": // the disk has what it has
		default:
			err = errors.New("unknown")
		}
		if err != nil || value == "" {
			return fmt.Errorf("tmpfs option %q: want size=, mode=, uid=, gid= or nr_inodes=", o)
		}
	}
	if mode < 0 {
		mode = 0o1777
		if fd, err := initproc.In(fdBoxRoot, string(m.Target), unix.O_PATH|unix.O_DIRECTORY); err == nil {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err == nil {
				mode = int64(st.Mode & 0o7777)
			}
			unix.Close(fd)
		}
	}
	name, err := f.place(string(m.Target), true)
	if err != nil {
		return err
	}
	return f.put(name, func(dir int, base string) error {
		if err := unix.Mkdirat(dir, base, 0o700); err != nil {
			return err
		}
		if err := unix.Fchownat(dir, base, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return unix.Fchmodat(dir, base, uint32(mode), 0)
	}, nil)
}

// source opens what m mounts.
func source(m boxMount) (*os.File, error) {
	fd, err := unix.Open(string(m.Path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Path, err)
	}
	if len(m.Sub) == 0 {
		return os.NewFile(uintptr(fd), string(m.Path)), nil
	}
	defer unix.Close(fd)
	sub, err := initproc.In(fd, string(m.Sub), unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", m.Sub, err)
	}
	return os.NewFile(uintptr(sub), string(m.Path)), nil
}

// away is a folder or file that was moved to its target.
type away struct{ path, home, target string }

// source opens what m mounts, and says where that is. What was moved for
// another mount, or has a part that was, is not there to be mounted again.
func (f *fitting) source(m boxMount) (*os.File, string, error) {
	src, err := source(m)
	if err != nil {
		for _, a := range f.away {
			if a.path == string(m.Path) && errors.Is(err, unix.ENOENT) {
				return nil, "", a.error()
			}
		}
		return nil, "", err
	}
	home, err := os.Readlink(fdPath(int(src.Fd())))
	for _, a := range f.away {
		if err == nil && strings.HasPrefix(a.home+"/", home+"/") {
			err = a.error()
		}
	}
	if err != nil {
		src.Close()
	}
	return src, home, err
}

func (a away) error() error {
	return fmt.Errorf("it, or a part of it, is at %s already, and can be in one place only in a chroot", a.target)
}

func isFolder(f *os.File) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(f.Fd()), "", &st, unix.AT_EMPTY_PATH)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// moved moves what m mounts to its target, and back.
func (f *fitting) moved(m boxMount) error {
	src, home, err := f.source(m)
	if err != nil {
		return err
	}
	dir, err := isFolder(src)
	if err != nil {
		return err
	}
	from, err := os.OpenFile(path.Dir(home), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	name, err := f.place(string(m.Target), dir)
	if err != nil {
		return err
	}
	f.away = append(f.away, away{path: string(m.Path), home: home, target: string(m.Target)})
	return f.put(name, func(to int, base string) error {
		return unix.Renameat(int(from.Fd()), path.Base(home), to, base)
	}, func(to int, base string) error {
		defer src.Close()
		defer from.Close()
		return f.takeBack(src, from, path.Base(home), to, base)
	})
}

// takeBack moves src from where the step left it to its home.
func (f *fitting) takeBack(src, home *os.File, name string, dir int, base string) error {
	var its, there unix.Stat_t
	if err := unix.Fstatat(int(src.Fd()), "", &its, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	err := unix.Fstatat(int(home.Fd()), name, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && its.Dev == there.Dev && its.Ino == there.Ino {
		return nil // it has never left
	}
	err = unix.Fstatat(dir, base, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && its.Dev == there.Dev && its.Ino == there.Ino {
		return unix.Renameat(dir, base, int(home.Fd()), name)
	}
	// The step has moved or removed it, as it could not with a mount.
	text, err := os.Readlink(fdPath(int(src.Fd())))
	if err != nil {
		return err
	}
	in, ok := strings.CutPrefix(text, f.rootPath+"/")
	if ok && its.Nlink > 0 && !strings.HasSuffix(text, " (deleted)") {
		parent, err := f.root.OpenNoFollow(path.Dir(in), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer parent.Close()
		return unix.Renameat(int(parent.Fd()), path.Base(in), int(home.Fd()), name)
	}
	if its.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if err := unix.Mkdirat(int(home.Fd()), name, its.Mode&0o7777); err != nil {
		return err
	}
	return unix.Fchownat(int(home.Fd()), name, int(its.Uid), int(its.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// copied puts a copy of what m mounts at its target.
func (f *fitting) copied(m boxMount) error {
	src, home, err := f.source(m)
	if err != nil {
		return err
	}
	defer src.Close()
	dir, err := isFolder(src)
	if err != nil {
		return err
	}
	name, err := f.place(string(m.Target), dir)
	if err != nil {
		return err
	}
	from, err := fsroot.Open(path.Dir(home))
	if err != nil {
		return err
	}
	defer from.Close()
	err = f.put(name, func(int, string) error { return copyTree(from, path.Base(home), f.root, name) }, nil)
	if err == nil && !dir {
		f.config.ReadOnly = append(f.config.ReadOnly, "/"+name)
	}
	return err
}

// copyTree copies a file, or a folder with all that is in it, by reflinks
// where the file system has them.
func copyTree(from *fsroot.Root, old string, to *fsroot.Root, name string) error {
	i, err := from.Lstat(old)
	if err != nil {
		return err
	}
	switch i.Kind {
	case entry.Dir:
		if err := to.Mkdir(name, 0o700); err != nil {
			return err
		}
		names, err := from.ReadDir(old)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := copyTree(from, entry.Join(old, n), to, entry.Join(name, n)); err != nil {
				return err
			}
		}
	case entry.File:
		err = copyFile(from, old, to, name)
	case entry.Symlink:
		err = to.Symlink(i.Link, name)
	case entry.Fifo:
		err = to.Mknod(name, unix.S_IFIFO|0o600, 0, 0)
	case entry.Socket:
		err = to.Mknod(name, unix.S_IFSOCK|0o600, 0, 0)
	default:
		err = fmt.Errorf("%s: a device cannot be copied", old)
	}
	if err != nil {
		return err
	}
	return copyMeta(from, old, to, name, i)
}

func copyMeta(from *fsroot.Root, old string, to *fsroot.Root, name string, i fsroot.Info) error {
	if err := to.Chown(name, i.UID, i.GID); err != nil {
		return err
	}
	attrs, err := from.Getxattrs(old)
	if err != nil {
		return err
	}
	for attr, value := range attrs {
		if err := to.Setxattr(name, attr, value); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	if i.Kind != entry.Symlink {
		if err := to.Chmod(name, i.Mode); err != nil {
			return err
		}
	}
	return to.Utimes(name, i.Mtime)
}

func copyFile(from *fsroot.Root, old string, to *fsroot.Root, name string) (err error) {
	in, err := from.OpenNoFollow(old, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenNoFollow(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	_, err = io.Copy(out, in)
	return err
}
