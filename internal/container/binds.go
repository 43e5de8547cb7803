package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// bind is a mount of a container as who copies sees it: what lies there is not
// among the container's own files, but among those of the host.
type bind struct {
	Mount
	at   string       // where it is in the container, physically
	root *fsroot.Root // the folder, or the one that holds the file; nil for a tmpfs and for what cannot be reached
	file string       // its name in root; "" for a folder
	err  error        // why there is no root, of what is no tmpfs
}

// seen is the file system of a container with what is mounted in it. Only the
// running container sees a tmpfs: here it is an empty folder.
type seen struct {
	own   entry.FS
	binds []bind
}

// see shows the mounts of a container in its own files.
func see(own entry.FS, list []Mount) (*seen, error) {
	s := &seen{own: own}
	for _, m := range list {
		at, err := entry.Resolve(s, m.Target, true)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("mount %s: %w", m.Target, err), s.close())
		}
		b := bind{Mount: m, at: at}
		if m.Source != "" {
			b.err = b.open() // told when it is asked for
		}
		s.binds = append(s.binds, b)
	}
	return s, nil
}

func (b *bind) open() error {
	st, err := os.Stat(b.Source)
	if err != nil {
		return err
	}
	dir := b.Source
	if !st.IsDir() {
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return err
		}
		dir, b.file = filepath.Split(dir)
	}
	root, err := fsroot.Open(dir)
	if err == nil {
		b.root = root
	}
	return err
}

func (s *seen) close() error {
	var errs []error
	for _, b := range s.binds {
		if b.root != nil {
			errs = append(errs, b.root.Close())
		}
	}
	return errors.Join(errs...)
}

// over is the mount that p lies in; nil when it is one of the own files. A
// later mount hides an earlier one.
func (s *seen) over(p string) *bind {
	for i := len(s.binds) - 1; i >= 0; i-- {
		if at := s.binds[i].at; at == p || at == "." || strings.HasPrefix(p, at+"/") {
			return &s.binds[i]
		}
	}
	return nil
}

// inner is the name in b.root of a path of the container.
func (b *bind) inner(p string) (string, error) {
	in := entry.Clean(below(b.at, p))
	switch {
	case b.root == nil || b.file != "" && in != ".":
		return "", entry.NotExist("lstat", p)
	case b.file != "":
		return b.file, nil
	}
	return in, nil
}

// shown is an entry of a mount as one of the container. Its inode says nothing
// here: files of several file systems may have the same one.
func shown(e entry.Entry, p string) entry.Entry {
	e.Path, e.Inode = p, 0
	return e
}

// Lstat describes a path.
func (s *seen) Lstat(p string) (entry.Entry, error) {
	b := s.over(p)
	switch {
	case b == nil:
		return s.own.Lstat(p)
	case p == b.at && b.Source == "":
		return entry.Entry{Path: p, Kind: entry.Dir, Mode: 0o755}, nil
	}
	in, err := b.inner(p)
	if err != nil {
		return entry.Entry{}, err
	}
	e, err := b.root.FS().Lstat(in)
	return shown(e, p), err
}

// ReadDir lists a directory, with the places of mounts in it.
func (s *seen) ReadDir(p string) ([]entry.Entry, error) {
	list, err := s.readDir(p)
	if err != nil {
		return nil, err
	}
	for i := range s.binds {
		b := &s.binds[i]
		if b.at == "." || entry.Parent(b.at) != p || s.over(b.at) != b {
			continue
		}
		e, err := s.Lstat(b.at)
		if err != nil {
			continue // its source is not there
		}
		list = slices.DeleteFunc(list, func(have entry.Entry) bool { return have.Path == b.at })
		list = append(list, e)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Base() < list[j].Base() })
	return list, nil
}

func (s *seen) readDir(p string) ([]entry.Entry, error) {
	b := s.over(p)
	switch {
	case b == nil:
		return s.own.ReadDir(p)
	case p == b.at && b.Source == "":
		return nil, nil
	}
	in, err := b.inner(p)
	if err != nil {
		return nil, err
	}
	list, err := b.root.FS().ReadDir(in)
	for i, e := range list {
		list[i] = shown(e, entry.Join(p, e.Base()))
	}
	return list, err
}

// Open reads a regular file.
func (s *seen) Open(p string) (io.ReadCloser, error) {
	b := s.over(p)
	if b == nil {
		return s.own.Open(p)
	}
	in, err := b.inner(p)
	if err != nil {
		return nil, err
	}
	return b.root.FS().Open(in)
}

// hidden is an error for a path in a mount that cannot be reached from here.
func (s *seen) hidden(c *Container, name, p string) error {
	b := s.over(p)
	switch {
	case b == nil || b.root != nil:
		return nil
	case b.Source == "":
		return &Error{Msg: fmt.Sprintf("%s:%s: lies in the tmpfs at %s, which only the running container sees", c.Name, name, b.Target),
			Way: fmt.Sprintf("exec -i %s tar copies from there and to there", c.Name)}
	}
	e := &Error{Msg: fmt.Sprintf("%s:%s: is %s of this machine, which cannot be read", c.Name, name, b.hostPath(p)), Way: "is this user allowed to?", Err: b.err}
	if errors.Is(b.err, fs.ErrNotExist) {
		e.Msg, e.Way = fmt.Sprintf("%s:%s: is %s of this machine, which is not there", c.Name, name, b.hostPath(p)), "make it: mkdir -p "+b.Source
	}
	return e
}

// hostPath is where on the host a path of the container lies.
func (b *bind) hostPath(p string) string { return path.Join(b.Source, below(b.at, p)) }

// spot is a path of a container at which something is to be written, and the
// folder and name by which it is reached.
type spot struct {
	path string
	root *fsroot.Root
	name string // "." is a mount itself
}

// spot says where p is to be written, and refuses what is not to change.
func (s *seen) spot(root *fsroot.Root, c *Container, p string) (spot, error) {
	b := s.over(p)
	switch {
	case b == nil && c.Spec.ReadOnly:
		return spot{}, &Error{Msg: fmt.Sprintf("container %s has a read-only root", c.Name), Way: "create it without --read-only, or mount a folder with -v"}
	case b == nil:
		return spot{p, root, p}, nil
	case b.root == nil:
		return spot{}, s.hidden(c, "/"+p, p)
	case b.ReadOnly:
		return spot{}, &Error{Msg: fmt.Sprintf("is %s of this machine, which is mounted read-only", b.hostPath(p)), Way: "copy it without whittle, or create the container without :ro"}
	case b.file != "":
		return spot{}, &Error{Msg: fmt.Sprintf("is the file %s of this machine, which is mounted there", b.Source), Way: "write to that file: nothing can take its place in the container"}
	}
	in, err := b.inner(p)
	return spot{p, b.root, in}, err
}
