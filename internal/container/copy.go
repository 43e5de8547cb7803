package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// CopyOptions say how to copy.
type CopyOptions struct {
	Follow bool // the source, when it is a symlink
	Owner  bool // keep numeric owners; else it belongs to the caller, or to the container's root
}

// CopyFrom copies path of the container to dest on the host, as docker cp
// does: into dest when it is a directory, else to that name. It returns how
// many devices, sockets and fifos it left out.
func (s *Set) CopyFrom(c *Container, name, dest string, o CopyOptions) (skipped int, err error) {
	fsys, done, err := s.sees(c)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	e, err := find(fsys, c, name, o.Follow)
	if err != nil {
		return 0, err
	}
	switch e.Kind {
	case entry.File, entry.Dir, entry.Symlink:
	default:
		return 0, &Error{Msg: fmt.Sprintf("%s:%s: is a %s", c.Name, name, e.Kind), Way: "only files, folders and links are copied; with - as destination it is put into a tar"}
	}
	dir, base, err := hostTarget(dest, baseName(name), e.Kind == entry.Dir)
	if err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	x := extraction{root: root, fs: fsys, owner: o.Owner, until: context.Background()}
	err = x.tree(e, base)
	return x.Skipped, err
}

// hostTarget says where on the host something of this name lands: the folder,
// which must be there, and the name in it.
func hostTarget(dest, base string, isDir bool) (dir, name string, err error) {
	if dest == "" {
		return "", "", &Error{Msg: "the destination is empty", Way: "write . for this directory"}
	}
	missing := func(dir string) error {
		return &Error{Msg: fmt.Sprintf("%s: no such directory", dir), Way: "make it first: mkdir -p " + dir}
	}
	st, err := os.Stat(dest)
	switch {
	case err == nil && st.IsDir():
		return dest, base, nil
	case err == nil && (isDir || endsInSlash(dest)):
		return "", "", &Error{Msg: fmt.Sprintf("%s: is not a directory", dest), Way: "choose another destination, or remove what is there"}
	case err == nil && !st.Mode().IsRegular():
		return "", "", &Error{Msg: fmt.Sprintf("%s: is a device, a socket or a fifo", dest), Way: "with - as destination a tar is written to standard output"}
	case err == nil:
		// Through a link to what it leads to.
		if dest, err = filepath.EvalSymlinks(dest); err != nil {
			return "", "", err
		}
		return filepath.Dir(dest), filepath.Base(dest), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case !isDir && endsInSlash(dest):
		return "", "", missing(dest)
	}
	if to, err := os.Readlink(dest); err == nil {
		return "", "", &Error{Msg: fmt.Sprintf("%s: is a link to %s, which is not there", dest, to), Way: "remove the link, or make what it leads to"}
	}
	dir = filepath.Dir(filepath.Clean(dest))
	if _, err := os.Stat(dir); err != nil {
		return "", "", missing(dir)
	}
	return dir, filepath.Base(dest), nil
}

// CopyTo copies src of the host to dest in the container, as docker cp does.
func (s *Set) CopyTo(ctx context.Context, c *Container, src, dest string, o CopyOptions) (err error) {
	root, e, err := hostSource(src, o.Follow)
	if err != nil {
		return err
	}
	defer root.Close()
	base, err := hostBase(src)
	if err != nil {
		return err
	}
	dir, name, err := s.target(c, dest, base, e.Kind == entry.Dir)
	if err != nil {
		return err
	}
	from := root.FS()
	if !o.Owner {
		from = owned{from}
		if e, err = from.Lstat(e.Path); err != nil {
			return err
		}
	}
	for {
		// What the end of a container cut off is done again, without it.
		err := s.copyTo(ctx, c, from, e, dir, name)
		if !errors.Is(err, errEnded) {
			return err
		}
	}
}

func (s *Set) copyTo(ctx context.Context, c *Container, from entry.FS, e entry.Entry, dir, name string) error {
	return piped(
		func(w io.Writer) error { return archive(w, from, e, name) },
		func(r io.Reader) error { return s.unpack(ctx, c, r, dir) },
	)
}

// piped lets one read what the other writes.
func piped(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() { // ends when r is closed
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	r.Close()
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr // and not what a torn archive led to
	}
	return err
}

// owned shows a file system as root's, without what only its owner could set.
type owned struct{ entry.FS }

func (o owned) Lstat(p string) (entry.Entry, error) {
	e, err := o.FS.Lstat(p)
	return disown(e), err
}

func (o owned) ReadDir(p string) ([]entry.Entry, error) {
	list, err := o.FS.ReadDir(p)
	for i := range list {
		list[i] = disown(list[i])
	}
	return list, err
}

func disown(e entry.Entry) entry.Entry {
	e.UID, e.GID, e.Xattrs = 0, 0, nil
	return e
}

// hostSource opens the folder that holds src, and describes src in it.
func hostSource(src string, follow bool) (*fsroot.Root, entry.Entry, error) {
	none := func(err error) (*fsroot.Root, entry.Entry, error) {
		if errors.Is(err, fs.ErrNotExist) {
			err = &Error{Msg: fmt.Sprintf("%s: no such file or directory", src), Way: "the source is a path of this machine", Err: err}
		}
		return nil, entry.Entry{}, err
	}
	if src == "" {
		return none(&Error{Msg: "the source is empty", Way: "write . for this directory"})
	}
	abs, err := filepath.Abs(src)
	if err == nil && (follow || endsInSlash(src)) {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return none(err)
	}
	root, err := fsroot.Open(filepath.Dir(abs))
	if err != nil {
		return none(err)
	}
	name := filepath.Base(abs)
	if abs == "/" {
		name = "."
	}
	e, err := root.FS().Lstat(name)
	if err == nil && e.Kind != entry.Dir && endsInSlash(src) {
		err = &Error{Msg: fmt.Sprintf("%s: is not a directory", src), Way: "leave the / and what follows it out"}
	}
	if err != nil {
		root.Close()
		return none(err)
	}
	return root, e, nil
}

// hostBase is the name by which src goes; "." stands for the content alone.
func hostBase(src string) (string, error) {
	if contentOnly(src) {
		return ".", nil
	}
	abs, err := filepath.Abs(src)
	if err != nil || abs == "/" {
		return ".", err
	}
	return filepath.Base(abs), nil
}

// target says where in the container something of this name lands: the
// directory, which must be there, and the name in it.
func (s *Set) target(c *Container, dest, base string, isDir bool) (dir, name string, err error) {
	fsys, done, err := s.sees(c)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, done()) }()
	p, err := entry.Resolve(fsys, path.Clean("/"+dest), true)
	if err != nil {
		return "", "", fmt.Errorf("%s:%s: %w", c.Name, dest, err)
	}
	if err := fsys.hidden(c, dest, p); err != nil {
		return "", "", err
	}
	e, err := fsys.Lstat(p)
	switch {
	case err == nil && e.Kind == entry.Dir:
		return p, base, nil
	case err == nil && (isDir || endsInSlash(dest)):
		return "", "", &Error{Msg: fmt.Sprintf("%s:%s: is not a directory", c.Name, dest), Way: "choose another destination"}
	case err == nil:
		return entry.Parent(p), path.Base(p), nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	}
	parent, perr := fsys.Lstat(entry.Parent(p))
	if perr != nil || parent.Kind != entry.Dir || !isDir && endsInSlash(dest) {
		return "", "", &Error{Msg: fmt.Sprintf("%s:%s: no such directory", c.Name, dest), Err: fs.ErrNotExist,
			Way: "make it first with exec and mkdir -p, or copy a folder from here under that name"}
	}
	return entry.Parent(p), path.Base(p), nil
}

// ArchiveTo unpacks a tar, which may be compressed, into the directory dir of
// the container.
func (s *Set) ArchiveTo(ctx context.Context, c *Container, r io.Reader, dir string) error {
	at, name, err := s.target(c, strings.TrimSuffix(dir, "/")+"/", ".", true)
	if err != nil {
		return err
	}
	if name != "." {
		return &Error{Msg: fmt.Sprintf("%s:%s: no such directory", c.Name, dir), Way: "a tar is unpacked into a directory that is there", Err: fs.ErrNotExist}
	}
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err = s.unpack(ctx, c, plain, at); err == nil {
		return plain.Close() // after a failure it may still be read
	}
	if errors.Is(err, errEnded) {
		return &Error{Msg: fmt.Sprintf("container %s ended before all was copied", c.Name), Way: "copy again: it does not have to run", Err: err}
	}
	return err
}

// unpack writes a tar into a directory. Only the monitor of a running
// container may: the upper directory of a mounted overlay is not to be changed
// by others.
func (s *Set) unpack(ctx context.Context, c *Container, r io.Reader, dir string) error {
	for {
		change, err := s.change(ctx, c)
		if err != nil {
			return err
		}
		if !c.Running {
			return errors.Join(s.putHere(ctx, c, r, dir), change.Close())
		}
		conn, err := s.dial(ctx, c)
		change.Close() // a slow stream keeps nobody from ending the container
		if errors.Is(err, errNotRunning) {
			continue // it has just ended
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		return sendArchive(ctx, conn, r, dir)
	}
}

// putHere writes into a container that does not run, and cannot be started
// meanwhile.
func (s *Set) putHere(ctx context.Context, c *Container, r io.Reader, dir string) error {
	folder, err := s.folder(c)
	if err != nil {
		return err
	}
	m, err := s.mount(ctx, c, folder)
	if err != nil {
		return err
	}
	defer m.Close()
	return put(fsroot.FromFd(m), c, dir, r)
}

func sendArchive(ctx context.Context, conn *net.UnixConn, in io.Reader, dir string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { // ends with in, or when nobody reads what it writes
		_, err := io.Copy(w, in)
		sent <- errors.Join(err, w.Close())
	}()
	rep, err := ask(ctx, conn, request{Op: "put", Dest: dir}, r)
	if err := errors.Join(err, r.Close(), rep.err()); err != nil {
		return err
	}
	return <-sent
}
