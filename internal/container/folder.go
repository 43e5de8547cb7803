package container

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// FolderOptions say how WriteFolder and WriteTar write.
type FolderOptions struct {
	Epoch *time.Time // of all files; nil means their own times
	Under string     // of WriteFolder: the name of a folder in the output that all files go to; "" is none
}

// WriteFolder writes all files of fsys into the folder dest on the host, with
// the rules of CopyFrom: they belong to the caller, no link of dest is
// followed, nothing but files and links is replaced, and no set-id bits are
// set. A dest that is not there gets all files or is not made; in one that is
// there, each file is replaced whole, and a crash may leave some of them, and
// files called .whittle-*. The same holds of the folder Under in it. What is made
// for the files gets the mode that the umask gives.
func WriteFolder(ctx context.Context, fsys entry.FS, dest string, o FolderOptions) (Written, error) {
	x := extraction{fs: fsys, until: ctx}
	if o.Epoch != nil {
		x.at = &entry.Time{Sec: o.Epoch.Unix()}
	}
	write := func(root *os.Root) error {
		top, err := fsys.Lstat(".")
		if err != nil {
			return err
		}
		x.root = root
		return x.tree(top, ".")
	}
	if o.Under == "" {
		err := inFolder(dest, write)
		return x.Written, err
	}
	err := inFolder(dest, func(root *os.Root) error { return within(root, o.Under, write) })
	return x.Written, err
}

// inFolder runs do in the folder dest of the host.
func inFolder(dest string, do func(*os.Root) error) (err error) {
	if dest, err = filepath.Abs(dest); err != nil {
		return err
	}
	if _, err := os.Stat(dest); errors.Is(err, fs.ErrNotExist) {
		return inNewFolder(dest, do)
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root)
}

// inNewFolder makes the folder dest, and those above that are missing. When do fails
// none of them is left.
func inNewFolder(dest string, do func(*os.Root) error) (err error) {
	undo, err := fsroot.MakeAll(filepath.Dir(dest))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	root, err := os.OpenRoot(filepath.Dir(dest))
	if err != nil {
		return err
	}
	defer root.Close()
	return within(root, filepath.Base(dest), do)
}

// within runs do in a folder of root, and not where a link of that name leads. A folder
// that is not there is made when do has ended well.
func within(root *os.Root, name string, do func(*os.Root) error) (err error) {
	into := name
	st, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		into = ".whittle-" + rand.Text()[:12]
		if err := root.Mkdir(into, 0o777); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = root.Rename(into, name)
			}
			if err != nil {
				root.RemoveAll(into)
			}
		}()
	case err != nil:
		return err
	case !st.IsDir():
		return &Error{Msg: fmt.Sprintf("%s: is not a folder, and none replaces it", filepath.Join(root.Name(), name)), Way: "remove it, or choose another folder"}
	}
	sub, err := root.OpenRoot(into)
	if err != nil {
		return err
	}
	defer sub.Close()
	return do(sub)
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
