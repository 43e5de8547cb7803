package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
)

// extraction writes files of a container to the host. Their names and links
// come from the container, and os.Root keeps what they do inside of root.
type extraction struct {
	root    *os.Root
	fs      entry.FS
	owner   bool
	skipped int
	dirs    []entry.Entry // whose modes come last: they may forbid writing
}

// tree writes e and all below it under the name base.
func (x *extraction) tree(e entry.Entry, base string) error {
	top := e.Path
	err := entry.Walk(x.fs, top, func(e entry.Entry) error {
		return x.one(e, path.Join(base, below(top, e.Path)))
	})
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		err = errors.Join(err, x.root.Chmod(d.Path, fs.FileMode(d.Mode&0o777)), x.times(d.Path, d.Mtime))
	}
	return err
}

func (x *extraction) one(e entry.Entry, name string) error {
	switch e.Kind {
	case entry.Dir:
		if name == "." {
			return nil // the content goes into what is there
		}
		if err := x.dir(name); err != nil {
			return err
		}
		x.dirs = append(x.dirs, entry.Entry{Path: name, Mode: e.Mode, Mtime: e.Mtime})
	case entry.Symlink:
		if err := x.clear(name); err != nil {
			return err
		}
		if err := x.root.Symlink(e.Link, name); err != nil {
			return err
		}
	case entry.File:
		if err := x.clear(name); err != nil {
			return err
		}
		if err := x.file(e, name); err != nil {
			return err
		}
	default:
		x.skipped++
		return nil
	}
	if x.owner {
		return x.root.Lchown(name, int(e.UID), int(e.GID))
	}
	return nil
}

func (x *extraction) dir(name string) error {
	err := x.root.Mkdir(name, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := x.root.Lstat(name)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s: is no directory, and one does not replace it", x.shown(name))
	}
	return err
}

// clear makes way for a file or a link.
func (x *extraction) clear(name string) error {
	st, err := x.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch st.Mode().Type() {
	case 0, fs.ModeSymlink:
		return x.root.Remove(name)
	case fs.ModeDir:
		return fmt.Errorf("%s: is a directory, and a file does not replace it", x.shown(name))
	}
	return fmt.Errorf("%s: is a device, a socket or a fifo, and a file does not replace it", x.shown(name))
}
func (x *extraction) shown(name string) string { return path.Join(x.root.Name(), name) }

func (x *extraction) file(e entry.Entry, name string) (err error) {
	in, err := x.fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err == nil {
			err = x.times(name, e.Mtime)
		}
	}()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("%s: %w", x.shown(name), err)
	}
	// Without set-id bits: they would be the caller's.
	return out.Chmod(fs.FileMode(e.Mode & 0o777))
}

func (x *extraction) times(name string, m entry.Time) error {
	t := time.Unix(m.Sec, int64(m.Nsec))
	return x.root.Chtimes(name, t, t)
}
