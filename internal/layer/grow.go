package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// Grow writes the merged file system fsys into the folder to, which is made or
// empty: files with their content, owners, modes, times, attributes and hard
// links. Files share their blocks with fsys where the file system can do that,
// and never an inode. It uses all processors. After an error, or a crash, the
// caller removes the folder.
//
// What this process may not make is left out: devices, and extended attributes,
// of which those that a file should have are returned by its path.
func Grow(ctx context.Context, fsys entry.FS, to string) (lacks map[string]map[string]string, err error) {
	root, err := emptyRoot(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	top, err := fsys.Lstat(".")
	if err != nil {
		return nil, err
	}
	u := newUnpacker(root, newPlanter(UnpackOptions{}))
	u.list = listerOf(fsys)
	if err := u.run(ctx, top); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	return u.p.side.s.Xattrs, nil
}

// Lay writes the layer v, as a view of that layer alone, over what is in the
// folder to: what it deletes is removed, what it has replaces what is there.
// The folder's content is not trusted. Else it is like Grow.
func Lay(ctx context.Context, v *View, to string) (lacks map[string]map[string]string, err error) {
	root, err := fsroot.Open(to)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	top, err := v.Lstat(".")
	if err != nil {
		return nil, err
	}
	if top.Opaque {
		if err := root.RemoveAll("."); err != nil {
			return nil, err
		}
	}
	if v.RootImplied() {
		i, err := root.Lstat(".")
		if err != nil {
			return nil, err
		}
		if i.Xattrs, err = root.Getxattrs("."); err != nil {
			return nil, err
		}
		top = i.Entry
	}
	top.Opaque = false
	u := newUnpacker(root, newPlanter(UnpackOptions{}))
	u.list, u.over = listerOf(v), true
	// Nothing is inherited: no group of a folder with the set-group-id bit, no
	// access list.
	u.p.uid, u.p.gid = nobody, nobody
	if err := u.dropXattrs(root, "."); err != nil {
		return nil, err
	}
	if err := u.run(ctx, top); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	return u.p.side.s.Xattrs, nil
}

// nobody is an owner that no file has.
const nobody = ^uint32(0)

// listerOf lists all but sockets, which layers cannot have and trees may.
func listerOf(fsys entry.FS) lister {
	return func(dir string, fn func(*entry.Entry, func(*os.File) error) error) error {
		list, err := fsys.ReadDir(dir)
		if err != nil {
			return err
		}
		for i := range list {
			e := &list[i]
			if e.Kind == entry.Socket {
				continue
			}
			err := fn(e, func(f *os.File) error {
				r, err := fsys.Open(e.Path)
				if err != nil {
					return err
				}
				return errors.Join(cloneIn(f, r, e.Size), r.Close())
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// makeWay removes what is in the place of e, but for a directory where e is
// one: done says that there is nothing more to make.
func (u *unpacker) makeWay(dir *fsroot.Root, e *entry.Entry) (done bool, err error) {
	if e.Kind == entry.Whiteout {
		return true, dir.RemoveAll(e.Base())
	}
	opaque := e.Opaque
	e.Opaque = false // overlayfs's word
	i, err := dir.Lstat(e.Base())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case e.Kind != entry.Dir || i.Kind != entry.Dir:
		return false, dir.RemoveAll(e.Base())
	case !opaque:
		return true, u.dropXattrs(dir, e.Base())
	}
	sub, err := dir.Sub(e.Base())
	if err != nil {
		return false, err
	}
	return true, errors.Join(sub.RemoveAll("."), sub.Close(), u.dropXattrs(dir, e.Base()))
}

// dropXattrs takes off a directory the attributes that a layer may have: it
// gets those of the layer.
func (u *unpacker) dropXattrs(dir *fsroot.Root, name string) error {
	attrs, err := dir.Getxattrs(name)
	if err != nil {
		return err
	}
	for n := range KeptXattrs(attrs) {
		if err := dir.Removexattr(name, n); err != nil {
			return err
		}
	}
	return nil
}

// KeptXattrs are those of a file's extended attributes that are part of a
// layer. Nil when there are none.
func KeptXattrs(attrs map[string]string) map[string]string {
	kept := keptXattrs(attrs)
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// smallCopy is up to which size a read and a write cost less than a copy
// within the kernel.
const smallCopy = 64 << 10

// cloneIn copies size bytes of r to a new file: by sharing its blocks, else
// within the kernel, else by hand.
func cloneIn(f *os.File, r io.Reader, size int64) error {
	var src *os.File
	var off int64
	switch r := r.(type) {
	case *os.File:
		if unix.IoctlFileClone(int(f.Fd()), int(r.Fd())) == nil {
			return nil
		}
		src = r
	case *content:
		src, off, _ = r.where()
	}
	if src == nil || size <= smallCopy {
		return copyIn(f, r, size)
	}
	n, err := copyRange(f, src, off, size)
	if n == 0 && (err == nil || unsupported(err)) {
		return copyIn(f, r, size)
	}
	if err == nil && n < size {
		err = fmt.Errorf("content ended %d bytes early: %w", size-n, io.ErrUnexpectedEOF)
	}
	return err
}

func copyRange(f, src *os.File, off, size int64) (n int64, err error) {
	const most = 1 << 30
	for n < size {
		k, err := unix.CopyFileRange(int(src.Fd()), &off, int(f.Fd()), nil, int(min(size-n, most)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return n, err
		}
		n += int64(k)
	}
	return n, nil
}

// unsupported says whether copy_file_range(2) does not work with these files.
func unsupported(err error) bool {
	for _, e := range []syscall.Errno{unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM, unix.EIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
