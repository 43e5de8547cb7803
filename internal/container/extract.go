package container

import (
	"context"
	"crypto/rand"
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
// come from the container, and os.Root keeps what they do inside of root. A
// file is replaced whole: whoever reads it sees the old or the new one.
type extraction struct {
	root  *os.Root
	fs    entry.FS
	owner bool
	at    *entry.Time // all times; nil means those of the files
	until context.Context
	Written
	dirs  []entry.Entry     // whose modes come last: they may forbid writing
	names map[uint64]string // of files with several names: what the first was written as
}

// Written is what was written to the host.
type Written struct {
	Files   int // and links
	Bytes   int64
	Skipped int // devices, sockets and fifos
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
	if x.until.Err() != nil {
		return context.Cause(x.until)
	}
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
		return x.replace(e, name, func(tmp string) error { return x.root.Symlink(e.Link, tmp) })
	case entry.File:
		if first, ok := x.names[e.Inode]; ok {
			return x.again(e, first, name)
		}
		return x.first(e, name)
	default:
		x.Skipped++
		return nil
	}
	return x.own(e, name)
}

// first writes a file, or the first name of one that has several.
func (x *extraction) first(e entry.Entry, name string) error {
	err := x.replace(e, name, func(tmp string) error { return x.file(e, name, tmp) })
	if err != nil || e.Inode == 0 {
		return err
	}
	if x.names == nil {
		x.names = map[uint64]string{}
	}
	x.names[e.Inode] = name
	return nil
}

// again writes one more name of a file. Where there can be no link it is a file
// of its own.
func (x *extraction) again(e entry.Entry, first, name string) error {
	link := e
	link.Size = 0
	err := x.replace(link, name, func(tmp string) error { return x.root.Link(first, tmp) })
	var no *os.LinkError
	if errors.As(err, &no) {
		return x.first(e, name)
	}
	return err
}

func (x *extraction) own(e entry.Entry, name string) error {
	if x.owner {
		return x.root.Lchown(name, int(e.UID), int(e.GID))
	}
	return nil
}

// replace puts what make makes in the place of name, unless that is no file or
// link.
func (x *extraction) replace(e entry.Entry, name string, make func(tmp string) error) error {
	if err := x.replaceable(name); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(name), ".whittle-"+rand.Text()[:12])
	err := make(tmp)
	if err == nil {
		err = x.own(e, tmp)
	}
	if err == nil {
		err = x.root.Rename(tmp, name)
	}
	if err != nil {
		x.root.Remove(tmp) // which may not be there
		return err
	}
	x.Files++
	x.Bytes += e.Size
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

// replaceable says whether a file or a link may take the place of name.
func (x *extraction) replaceable(name string) error {
	st, err := x.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch st.Mode().Type() {
	case 0, fs.ModeSymlink:
		return nil
	case fs.ModeDir:
		return fmt.Errorf("%s: is a directory, and a file does not replace it", x.shown(name))
	}
	return fmt.Errorf("%s: is a device, a socket or a fifo, and a file does not replace it", x.shown(name))
}

func (x *extraction) shown(name string) string { return path.Join(x.root.Name(), name) }

// file writes e, which will be name, to tmp.
func (x *extraction) file(e entry.Entry, name, tmp string) (err error) {
	in, err := x.fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := x.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err == nil {
			err = x.times(tmp, e.Mtime)
		}
	}()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("%s: %w", x.shown(name), err)
	}
	// Without set-id bits: they would be the caller's.
	return out.Chmod(fs.FileMode(e.Mode & 0o777))
}

func (x *extraction) times(name string, m entry.Time) error {
	if x.at != nil {
		m = *x.at
	}
	t := time.Unix(m.Sec, int64(m.Nsec))
	return x.root.Chtimes(name, t, t)
}
