package container

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
	"golang.org/x/sys/unix"
)

// FolderOptions say how WriteFolder and WriteTar write.
type FolderOptions struct {
	Epoch *time.Time // of all files; nil means their own times
	Under string     // of WriteFolder: a folder inside of the output that all files go to; "" is none
}

// WriteFolder writes all files of fsys into the folder dest on the host, with
// the rules of CopyFrom: they belong to the caller, no link of dest is
// followed, nothing but files and links is replaced, and no set-id bits are
// set. A dest that is not there gets all files or is not made; in one that is
// there, each file is replaced whole, and a crash may leave some of them, and
// files called .whittle-*.
func WriteFolder(ctx context.Context, fsys entry.FS, dest string, o FolderOptions) (_ Written, err error) {
	dest, err = filepath.Abs(filepath.Join(dest, o.Under))
	if err != nil {
		return Written{}, err
	}
	into := dest
	if _, there := os.Stat(dest); errors.Is(there, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return Written{}, err
		}
		if into, err = os.MkdirTemp(filepath.Dir(dest), ".whittle-*"); err != nil {
			return Written{}, err
		}
		defer func() {
			if err == nil {
				err = errors.Join(os.Chmod(into, 0o755), moveNew(into, dest))
			}
			if err != nil {
				os.RemoveAll(into)
			}
		}()
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return Written{}, err
	}
	defer root.Close()
	top, err := fsys.Lstat(".")
	if err != nil {
		return Written{}, err
	}
	x := extraction{root: root, fs: fsys, until: ctx}
	if o.Epoch != nil {
		x.at = &entry.Time{Sec: o.Epoch.Unix()}
	}
	err = x.tree(top, ".")
	return x.Written, err
}

// Tree is a file system, with the folder of an output that its files go to; "" is none.
type Tree struct {
	Files entry.FS
	Under string
}

// WriteTar writes all files of trees to w as a tar, with their owners, modes and
// extended attributes. Sockets are left out.
func WriteTar(ctx context.Context, w io.Writer, o FolderOptions, trees ...Tree) (Written, error) {
	a := archiver{tw: tar.NewWriter(w), until: ctx}
	if o.Epoch != nil {
		a.at = &entry.Time{Sec: o.Epoch.Unix()}
	}
	for _, t := range trees {
		top, err := t.Files.Lstat(".")
		if err == nil {
			a.fs, a.links = t.Files, map[uint64]string{}
			err = a.tree(top, t.Under)
		}
		if err != nil {
			return a.Written, err
		}
	}
	return a.Written, a.tw.Close()
}

// moveNew renames without replacing, where the file system can promise that.
func moveNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		err = os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
