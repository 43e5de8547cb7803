package fsroot

import (
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// FS returns the tree as entries, as it lies there: a whiteout is a character
// device, all extended attributes are shown. Entries with the same Inode are
// names of one file, provided that the whole tree is on one file system.
//
// The tree must not change while it is used.
func (r *Root) FS() entry.FS { return tree{r} }

type tree struct{ r *Root }

func (t tree) Lstat(name string) (e entry.Entry, err error) {
	err = t.r.in("lstat", name, func(dir int, base string) error {
		e, err = entryAt(dir, base)
		return err
	})
	e.Path = entry.Clean(name)
	return e, notDirIsMissing(err)
}

func entryAt(dir int, base string) (entry.Entry, error) {
	i, err := lstatAt(dir, base)
	if err != nil {
		return entry.Entry{}, err
	}
	i.Xattrs, err = xattrsAt(dir, base)
	return i.Entry, err
}

func (t tree) ReadDir(name string) ([]entry.Entry, error) {
	fd, err := t.r.openPhysical(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, notDirIsMissing(t.r.wrap("readdir", name, err))
	}
	defer unix.Close(fd)
	names, err := dirNames(fd)
	if err != nil {
		return nil, t.r.wrap("readdir", name, err)
	}
	slices.Sort(names)
	dir := entry.Clean(name)
	out := make([]entry.Entry, 0, len(names))
	for _, n := range names {
		e, err := entryAt(fd, n)
		if err != nil {
			return nil, t.r.wrap("lstat", entry.Join(dir, n), err)
		}
		e.Path = entry.Join(dir, n)
		out = append(out, e)
	}
	return out, nil
}

// Open opens a regular file; the result is an *os.File. A link, a device or
// anything else is ErrNotRegular or ELOOP.
func (t tree) Open(name string) (io.ReadCloser, error) {
	i, err := t.r.Lstat(name)
	if err != nil {
		return nil, notDirIsMissing(err)
	}
	if i.Kind != entry.File {
		return nil, t.r.wrap("open", name, ErrNotRegular)
	}
	f, err := t.r.OpenNoFollow(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, notDirIsMissing(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || kindOf(st.Mode) != entry.File {
		f.Close()
		return nil, t.r.wrap("open", name, ErrNotRegular)
	}
	return f, nil
}

// notDirIsMissing turns a path through a file or a link into one that does
// not exist, as entry.FS promises.
func notDirIsMissing(err error) error {
	switch errno(err) {
	case unix.ENOTDIR, unix.ELOOP:
		return pathErr{err}
	}
	return err
}

// pathErr is a path error that counts as fs.ErrNotExist besides.
type pathErr struct{ error }

func (e pathErr) Unwrap() error { return e.error }

func (e pathErr) Is(target error) bool { return target == fs.ErrNotExist }
