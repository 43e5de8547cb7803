// Package entry owns the description of one file as layers, build contexts
// and merged views share it, and the read-only file system made of such
// entries.
//
// Paths are those of io/fs: slash-separated, relative, without "." or ".."
// elements; the root is ".". Nothing here opens a file of the host.
package entry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// Kind says what sort of file an entry is.
type Kind uint8

// The kinds. Whiteout appears only in the view of a single layer, never in a
// context or a merged view: it says that the layers below have the file and
// that it is gone.
const (
	File Kind = iota
	Dir
	Symlink
	Char
	Block
	Fifo
	Socket
	Whiteout
)

var kindNames = [...]string{"file", "directory", "symlink", "character device", "block device", "fifo", "socket", "whiteout"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Entry is one file's metadata.
type Entry struct {
	Path  string // of the file system it came from; "." is its root
	Kind  Kind
	Mode  uint32 // the twelve permission bits: 07777, set-id and sticky with them
	UID   uint32
	GID   uint32
	Size  int64 // bytes; of regular files only
	Mtime Time
	Link  string // target of a symlink, as written
	Major uint32 // of devices
	Minor uint32
	// Xattrs are extended attributes by full name. Nil when there are none.
	Xattrs map[string]string
	// Inode is not zero for a regular file with several names: entries of one
	// file system with the same Inode are hard links of each other.
	Inode uint64
	// Opaque directories (of a single layer's view) hide what the layers below
	// have at the same path.
	Opaque bool
}

// Time is a moment as file systems keep it.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Base returns the last element of the entry's path.
func (e *Entry) Base() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// IsDir reports whether e is a directory.
func (e *Entry) IsDir() bool { return e.Kind == Dir }

// FS is a read-only file system of entries. Paths are physical: no call
// follows a symlink, in no element of the path; Resolve does that. A missing
// path gives an error that is fs.ErrNotExist; so does a path through
// something that is not a directory.
//
// An FS may be used by several goroutines at once.
type FS interface {
	// Lstat describes path.
	Lstat(path string) (Entry, error)
	// ReadDir lists path, sorted by name, each entry with its full path.
	ReadDir(path string) ([]Entry, error)
	// Open reads the content of a regular file.
	Open(path string) (io.ReadCloser, error)
}

// Appender is an FS that lists into memory which the caller has. What was in list stays; on an
// error nothing is returned.
type Appender interface {
	AppendDir(list []Entry, path string) ([]Entry, error)
}

// AppendDir appends what ReadDir gives to list, which stays the caller's own.
func AppendDir(fsys FS, list []Entry, path string) ([]Entry, error) {
	if a, ok := fsys.(Appender); ok {
		return a.AppendDir(list, path)
	}
	all, err := fsys.ReadDir(path)
	if err != nil {
		return nil, err
	}
	return append(list, all...), nil // all may be what fsys keeps
}

// Digester is an FS that can tell the SHA-256 of a regular file's content for
// less than reading it, from what it keeps. e came from the same FS.
type Digester interface {
	FileDigest(e Entry) (digest.Digest, error)
}

// Clean makes an FS path from any slash-separated path, the way a path is
// read inside a root: ".." stops at the root.
func Clean(name string) string {
	c := strings.TrimPrefix(path.Clean("/"+name), "/")
	if c == "" {
		return "."
	}
	return c
}

// Join appends name to dir.
func Join(dir, name string) string {
	if dir == "." {
		return name
	}
	if name == "." {
		return dir
	}
	return dir + "/" + name
}

// Parent returns the directory that holds p; the root is its own parent.
func Parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	}
	return path.Dir(p)
}

// maxLinks is how many symlinks one resolution follows, as the kernel's
// MAXSYMLINKS (path_resolution(7)).
const maxLinks = 40

// ErrLoop is returned by Resolve for a path with too many symlinks.
var ErrLoop = errors.New("too many levels of symbolic links")

// Resolve follows the symlinks of name inside fsys as a process whose root is
// fsys would, absolute links and ".." included, and returns the physical
// path. The last element is followed when follow is set. Elements that do
// not exist are kept as they are, so the result of a path that does not exist
// is where it would be made; a file used as a directory is kept likewise.
func Resolve(fsys FS, name string, follow bool) (string, error) {
	rest := strings.Split(strings.Trim(name, "/"), "/")
	cur, links := ".", 0
	for len(rest) > 0 {
		el := rest[0]
		rest = rest[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			cur = Parent(cur)
			continue
		}
		next := Join(cur, el)
		if len(rest) == 0 && !follow {
			return next, nil
		}
		e, err := fsys.Lstat(next)
		if err != nil && !isNotExist(err) {
			return "", err
		}
		if err != nil || e.Kind != Symlink {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: ErrLoop}
		}
		if strings.HasPrefix(e.Link, "/") {
			cur = "."
		}
		rest = append(strings.Split(strings.Trim(e.Link, "/"), "/"), rest...)
	}
	return cur, nil
}

// Walk calls fn for root and everything below it, parents first, names in
// order. fn may return fs.SkipDir for a directory.
func Walk(fsys FS, root string, fn func(Entry) error) error {
	e, err := fsys.Lstat(root)
	if err != nil {
		return err
	}
	err = walk(fsys, e, fn)
	if err == fs.SkipDir {
		return nil
	}
	return err
}

func walk(fsys FS, e Entry, fn func(Entry) error) error {
	if err := fn(e); err != nil || e.Kind != Dir {
		return err
	}
	kids, err := fsys.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, k := range kids {
		if err := walk(fsys, k, fn); err != nil && err != fs.SkipDir {
			return err
		}
	}
	return nil
}
