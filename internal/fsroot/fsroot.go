// Package fsroot owns the opening, making and walking of paths inside a
// directory whose content is not trusted: the root file system of an image,
// what a build step left behind, a build context.
//
// Every call works from a directory handle and through openat2(2), so no
// name, link or race inside the directory reaches a file outside it. There are
// two ways to read a path. Open and ReadFile follow links as a process whose
// root is the directory would: absolute links and ".." stay inside. All other
// calls take physical paths, in which any element that is a symlink is an
// error; only the last one may be a link, and it is then worked on itself.
//
// Paths are those of package entry: slash-separated, relative, "." is the
// root. A leading slash is ignored. fsroot knows nothing of layers, overlays
// or whiteouts, and it does not protect against other writers of the same
// directory beyond never leaving it.
package fsroot

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a directory and everything below it. It may be used by several
// goroutines at once.
type Root struct {
	dir *os.File
}

// Open makes a Root of a directory of the host, following links in dir.
func Open(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{os.NewFile(uintptr(fd), dir)}, nil
}

// FromFd makes a Root of an open directory, which it takes over.
func FromFd(dir *os.File) *Root { return &Root{dir} }

// Close closes the directory's handle. Files opened through it stay open.
func (r *Root) Close() error { return r.dir.Close() }

// Dir returns the handle of the root directory, which stays with r.
func (r *Root) Dir() *os.File { return r.dir }

// Name returns the path that r was opened with, for messages only.
func (r *Root) Name() string { return r.dir.Name() }

// Open opens name, following links inside the root. flags are those of
// open(2); mode holds the permission bits of a file that O_CREAT makes.
// Opening a device or a FIFO does what it always does: see ReadFile.
func (r *Root) Open(name string, flags int, mode uint32) (*os.File, error) {
	defer runtime.KeepAlive(r)
	fd, err := open2(int(r.dir.Fd()), relative(name), flags, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, r.wrap("open", name, err)
	}
	return r.file(fd, name), nil
}

// OpenNoFollow opens a physical path: any element that is a symlink, the last
// one too, is the error ELOOP (with O_PATH|O_NOFOLLOW the last one is opened
// as a link), and ".." that leaves the root is the error EXDEV.
func (r *Root) OpenNoFollow(name string, flags int, mode uint32) (*os.File, error) {
	fd, err := r.openPhysical(name, flags, mode)
	if err != nil {
		return nil, r.wrap("open", name, err)
	}
	return r.file(fd, name), nil
}

// Sub returns the directory at a physical path as a Root of its own.
func (r *Root) Sub(name string) (*Root, error) {
	f, err := r.OpenNoFollow(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return FromFd(f), nil
}

func (r *Root) file(fd int, name string) *os.File {
	return os.NewFile(uintptr(fd), path.Join(r.dir.Name(), name))
}

func (r *Root) wrap(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join(r.dir.Name(), relative(name)), Err: err}
}

// relative makes name fit for openat2: not empty, no leading slash (which
// RESOLVE_BENEATH refuses).
func relative(name string) string {
	name = strings.TrimLeft(name, "/")
	if name == "" {
		return "."
	}
	return name
}

const physical = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// maxHop keeps the paths handed to the kernel below PATH_MAX; longer ones,
// which a step can make by mkdir and chdir, are walked in hops.
const maxHop = 2048

func (r *Root) openPhysical(name string, flags int, mode uint32) (int, error) {
	defer runtime.KeepAlive(r)
	at := int(r.dir.Fd())
	rest := relative(name)
	for len(rest) > maxHop {
		i := strings.LastIndexByte(rest[:maxHop], '/')
		if i <= 0 {
			return -1, unix.ENAMETOOLONG
		}
		next, err := open2(at, rest[:i], unix.O_PATH|unix.O_DIRECTORY, 0, physical)
		if at != int(r.dir.Fd()) {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at, rest = next, relative(rest[i+1:])
	}
	fd, err := open2(at, rest, flags, mode, physical)
	if at != int(r.dir.Fd()) {
		unix.Close(at)
	}
	return fd, err
}

// maxTries bounds the repeats of openat2 that lose a race with a rename
// somewhere on the machine (EAGAIN, openat2(2)).
const maxTries = 1000

func open2(at int, name string, flags int, mode uint32, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 {
		how.Mode = uint64(mode)
	}
	for range maxTries {
		fd, err := unix.Openat2(at, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// in calls fn with a handle of the directory that holds name and with name's
// last element.
func (r *Root) in(op, name string, fn func(dir int, base string) error) error {
	dir, base, ok := split(name)
	if !ok {
		return r.wrap(op, name, unix.EINVAL)
	}
	defer runtime.KeepAlive(r)
	fd := int(r.dir.Fd())
	if dir != "." {
		d, err := r.openPhysical(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return r.wrap(op, name, err)
		}
		defer unix.Close(d)
		fd = d
	}
	if err := fn(fd, base); err != nil {
		return r.wrap(op, name, err)
	}
	return nil
}

// split cuts name into its directory and last element, which must be a plain
// name: not "..", and "." only for the root itself.
func split(name string) (dir, base string, ok bool) {
	name = relative(strings.TrimRight(name, "/"))
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return ".", name, name != ".."
	}
	base = name[i+1:]
	return strings.TrimRight(name[:i], "/"), base, base != "." && base != ".."
}

// ErrNotRegular is returned by ReadFile and by the Open of FS for something
// that is not a regular file.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge is returned by ReadFile for a file over the limit.
var ErrTooLarge = errors.New("file is too large")
