package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// longPath is below the kernel's PATH_MAX; longer paths are walked.
const longPath = 4000

// maxTries bounds the repeats of openat2, to about a minute: by then the kernel
// has broken any lease (/proc/sys/fs/lease-break-time is 45 s).
const maxTries = 60_000

// openBeneath opens path, which has no "." or ".." elements, below the
// directory root. No element may be a symlink: what is a link now was a
// directory or a file when it was listed.
func openBeneath(root int, path string, flags int) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if len(path) > longPath {
		return openEach(root, path, flags)
	}
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for try := range maxTries {
		fd, err := unix.Openat2(root, path, &how)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			// A rename somewhere came between, or somebody has a lease on the
			// file and is asked to give it back (fcntl(2), F_SETLEASE).
			if try > 100 {
				time.Sleep(time.Millisecond)
			}
			continue
		case unix.ENOSYS, unix.EPERM: // old container runtimes filter openat2
			return openEach(root, path, flags)
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

// openEach does openBeneath's work one element at a time.
func openEach(root int, path string, flags int) (int, error) {
	at := root
	for {
		el, rest, more := strings.Cut(path, "/")
		mode := flags
		if more {
			mode = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := openat(at, el, mode)
		if at != root {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

func openat(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readNames calls fn for each name in the open directory fd with its type
// (DT_UNKNOWN where the file system does not tell). name is a part of buf.
func readNames(fd int, buf []byte, fn func(name []byte, kind byte) error) error {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		for b := buf[:n]; len(b) > 0; {
			name, kind, size := dirent(b)
			if size <= 0 || size > len(b) {
				return unix.EIO
			}
			b = b[size:]
			if string(name) != "" && string(name) != "." && string(name) != ".." {
				if err := fn(name, kind); err != nil {
					return err
				}
			}
		}
	}
}

// dirent reads one struct linux_dirent64 (getdents64(2)): d_ino and d_off of
// eight bytes each, d_reclen of two, d_type of one, then the name and a NUL.
func dirent(b []byte) (name []byte, kind byte, size int) {
	const head = 19
	if len(b) < head {
		return nil, 0, 0
	}
	size = int(binary.NativeEndian.Uint16(b[16:]))
	if size < head || size > len(b) {
		return nil, 0, 0
	}
	name = b[head:size]
	for i, c := range name {
		if c == 0 {
			return name[:i], b[18], size
		}
	}
	return name, b[18], size
}

// readlink reads the target of the symlink name in the directory fd.
func readlink(fd int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// keepXattr says which extended attributes travel: capabilities and the
// user's own, less those by which a file would steer overlayfs.
func keepXattr(name string) bool {
	if name == "security.capability" {
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// readXattrs returns the attributes of an open file that travel. Errors mean
// none, as in the reference: not every file system has them.
func readXattrs(fd int) map[string]string {
	var small [512]byte
	list := small[:]
	n, err := unix.Flistxattr(fd, list)
	for err == unix.ERANGE && len(list) < 1<<20 {
		list = make([]byte, 8*len(list))
		n, err = unix.Flistxattr(fd, list)
	}
	if err != nil || n <= 0 {
		return nil
	}
	var out map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !keepXattr(name) {
			continue
		}
		buf := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, buf)
		if err != nil {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(buf[:n])
	}
	return out
}

// frozenClock reports a file system whose times are those of an image, not of
// changes: another image mounted in its place may show the same ones.
func frozenClock(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.ISOFS_SUPER_MAGIC, unix.CRAMFS_MAGIC:
		return true
	}
	return false
}

// unreadable is a file that this user may not read; a way out comes with it.
type unreadable struct {
	path, what, way string
	err             error
}

func (e *unreadable) Error() string {
	cause := e.err
	if p := (*fs.PathError)(nil); errors.As(e.err, &p) {
		cause = p.Err // the path is said
	}
	return fmt.Sprintf("%s: %s, and not readable: %v", e.path, e.what, cause)
}

func (e *unreadable) Hint() string  { return e.way }
func (e *unreadable) Unwrap() error { return e.err }

// isGone is true for a path that does not exist (any more).
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG)
}

// pathError names path, in a form that cannot play with a terminal.
func pathError(op, path string, err error) error {
	if errors.Is(err, unix.ELOOP) {
		err = errors.New("replaced by a symlink while it was scanned")
	}
	if errors.Is(err, fs.ErrPermission) {
		return &unreadable{show(path), "in the build context",
			"let this user read it (chmod), or leave it out of the context with a line in .dockerignore", err}
	}
	return &fs.PathError{Op: op, Path: show(path), Err: err}
}

// show quotes a path with characters that are not printable.
func show(path string) string {
	q := strconv.Quote(path)
	if q[1:len(q)-1] == path {
		return path
	}
	return q
}
