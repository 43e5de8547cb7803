package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
)

// view is the container's file system, read without mounting it; whether it
// runs does not matter. What is mounted in it is not seen.
func (s *Set) view(c *Container) (entry.FS, func() error, error) {
	image, err := s.Roots.View(context.Background(), c.Chain) // whose layers are here since it was made
	if err != nil {
		return nil, nil, err
	}
	dir, err := s.folder(c)
	if err != nil {
		return nil, nil, err
	}
	upper, err := layer.OpenTree(filepath.Join(dir, upperName))
	if errors.Is(err, fs.ErrNotExist) {
		return image, func() error { return nil }, nil // it never ran
	}
	if err != nil {
		return nil, nil, err
	}
	return layer.Merge(image, upper), upper.Close, nil
}

// sees is the same with what is mounted there, as far as it can be seen from
// here.
func (s *Set) sees(c *Container) (*seen, func() error, error) {
	own, done, err := s.view(c)
	if err != nil {
		return nil, nil, err
	}
	fsys, err := see(own, c.Spec.Mounts)
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return fsys, func() error { return errors.Join(fsys.close(), done()) }, nil
}

// Written is how many bytes the files have that the container wrote.
func (s *Set) Written(c *Container) (n int64, err error) {
	dir, err := s.folder(c)
	if err != nil {
		return 0, err
	}
	upper, err := layer.OpenTree(filepath.Join(dir, upperName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // it never ran
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, upper.Close()) }()
	return sizeBelow(upper, ".", map[uint64]bool{})
}

// sizeBelow sums up the files in a directory of a container that may run: what
// has gone meanwhile is left out.
func sizeBelow(fsys entry.FS, dir string, seen map[uint64]bool) (n int64, err error) {
	list, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, e := range list {
		switch {
		case e.Kind == entry.Dir:
			below, derr := sizeBelow(fsys, e.Path, seen)
			n, err = n+below, errors.Join(err, derr)
		case e.Kind == entry.File && !seen[e.Inode]:
			seen[e.Inode] = e.Inode != 0
			n += e.Size
		}
	}
	return n, err
}

// ArchiveFrom writes path of the container as a tar, named as docker cp does:
// the last element of the path first.
func (s *Set) ArchiveFrom(c *Container, name string, follow bool, w io.Writer) (err error) {
	fsys, done, err := s.sees(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	e, err := find(fsys, c, name, follow)
	if err != nil {
		return err
	}
	return archive(w, fsys, e, baseName(name))
}

// Export writes all files of the container as a tar.
func (s *Set) Export(c *Container, w io.Writer) (err error) {
	fsys, done, err := s.view(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	root, err := fsys.Lstat(".")
	if err != nil {
		return err
	}
	return archive(w, fsys, root, "")
}

// find describes what a path of a container leads to. The last element is
// followed with follow, or when the path ends in a slash.
func find(fsys *seen, c *Container, name string, follow bool) (entry.Entry, error) {
	slash := endsInSlash(name)
	p, err := entry.Resolve(fsys, path.Clean("/"+name), follow || slash)
	if err != nil {
		return entry.Entry{}, fmt.Errorf("%s:%s: %w", c.Name, name, err)
	}
	if err := fsys.hidden(c, name, p); err != nil {
		return entry.Entry{}, err
	}
	e, err := fsys.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return e, &Error{Msg: fmt.Sprintf("%s:%s: no such file or directory", c.Name, name), Way: "paths are those inside the container, from its / on", Err: err}
	}
	if err == nil && e.Kind != entry.Dir && slash {
		return e, &Error{Msg: fmt.Sprintf("%s:%s: is not a directory", c.Name, name), Way: "leave the / and what follows it out"}
	}
	return e, err
}

// endsInSlash reports whether name means a directory by its spelling.
func endsInSlash(name string) bool {
	return strings.HasSuffix(name, "/") || path.Base(name) == "." && name != ""
}

// baseName is the name by which a copied path of a container goes: "." of a
// path that ends in "/." stands for the content alone.
func baseName(name string) string {
	if clean := path.Clean("/" + name); clean != "/" && !contentOnly(name) {
		return path.Base(clean)
	}
	return "."
}

func contentOnly(name string) bool { return name == "." || strings.HasSuffix(name, "/.") }

// archive writes e and all below it as a tar under the name base; "" leaves e
// itself out.
func archive(w io.Writer, fsys entry.FS, e entry.Entry, base string) error {
	a := archiver{tw: tar.NewWriter(w), fs: fsys, links: map[uint64]string{}, until: context.Background()}
	return errors.Join(a.tree(e, base), a.tw.Close())
}

// below is p relative to the directory top that it is in; "" is top itself.
func below(top, p string) string {
	switch top {
	case p:
		return ""
	case ".":
		return p
	}
	return strings.TrimPrefix(strings.TrimPrefix(p, top), "/")
}

type archiver struct {
	tw    *tar.Writer
	fs    entry.FS
	links map[uint64]string // names of files that have several
	until context.Context
	at    *entry.Time // all times; nil means those of the files
	Written
}

// tree adds e and all below it under the name base; "" leaves e itself out.
func (a *archiver) tree(e entry.Entry, base string) error {
	top := e.Path
	return entry.Walk(a.fs, top, func(e entry.Entry) error {
		name := strings.Trim(base+"/"+below(top, e.Path), "/")
		if name == "" {
			return nil
		}
		return a.add(e, name)
	})
}

func (a *archiver) add(e entry.Entry, name string) error {
	if a.until.Err() != nil {
		return context.Cause(a.until)
	}
	if a.at != nil {
		e.Mtime = *a.at
	}
	h := &tar.Header{Name: name, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID), Format: tar.FormatPAX,
		ModTime: time.Unix(e.Mtime.Sec, int64(e.Mtime.Nsec)), PAXRecords: xattrRecords(e.Xattrs)}
	switch e.Kind {
	case entry.File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case entry.Dir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case entry.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case entry.Fifo:
		h.Typeflag = tar.TypeFifo
	case entry.Char:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case entry.Block:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	default:
		a.Skipped++
		return nil // a socket is nothing without its process
	}
	if e.Kind != entry.Dir {
		a.Files++
	}
	if first, ok := a.links[e.Inode]; ok && e.Inode != 0 {
		h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
	} else if e.Inode != 0 {
		a.links[e.Inode] = name
	}
	if err := a.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return a.content(e)
}

// content writes a file's bytes. A file of a running container may change
// meanwhile: as many bytes as were promised are written, or it is an error.
func (a *archiver) content(e entry.Entry) error {
	f, err := a.fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyN(a.tw, f, e.Size)
	a.Bytes += n
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("/%s: it became shorter while it was copied", e.Path)
	}
	return err
}

// xattrPrefix is the name under which tars hold extended attributes.
const xattrPrefix = "SCHILY.xattr."

func xattrRecords(attrs map[string]string) map[string]string {
	if len(attrs) == 0 {
		return nil
	}
	rec := make(map[string]string, len(attrs))
	for k, v := range attrs {
		rec[xattrPrefix+k] = v
	}
	return rec
}
