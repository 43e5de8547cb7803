package source

import (
	"context"
	"crypto/sha256"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
)

// Who copies a folder for the first time reads all of it in any case: its digests may
// then come from the same reading. A large file is read by the scan: it is streamed, not
// loaded.
const (
	largestLater = 256 << 10
	fewestLater  = 512
)

// putOff keeps for later what of todo may wait, and returns what may not.
func (c *Context) putOff(todo []unread) []unread {
	if !c.later || len(todo) < fewestLater {
		return todo
	}
	var now []unread
	wait := todo[:0] // of a million files it is large
	for _, f := range todo {
		if f.n.flags&mayWait != 0 {
			wait = append(wait, f)
		} else {
			now = append(now, f)
		}
	}
	if len(c.rest) > 0 {
		wait = append(c.rest, wait...)
	}
	if len(wait) > 0 {
		c.rest = wait
	}
	return now
}

// mayWait says of a file whether it need not be read by the scan: it is small, has one
// name, and can be read.
func (c *Context) mayWait(st *unix.Stat_t) bool {
	if !c.later || st.Size >= largestLater || st.Nlink > 1 {
		return false
	}
	uid := os.Geteuid()
	return uid == 0 || st.Mode&0o004 != 0 && int(st.Uid) != uid || st.Mode&0o400 != 0 && int(st.Uid) == uid
}

// attributes finds out which of the files in the folder that fd is have attributes: those
// are read by the scan, whose business they are. Where that cannot be told without
// opening them, all are.
func (l *lister) attributes(fd int, kids []*node) {
	var list [512]byte
	for _, k := range kids {
		if k.flags&mayWait == 0 {
			continue
		}
		n, err := l.listXattrs(fd, k.name, list[:])
		if err != nil && err != unix.EOPNOTSUPP || n > 0 && slices.ContainsFunc(strings.Split(string(list[:n]), "\x00"), keepXattr) {
			k.flags &^= mayWait
			continue
		}
		k.flags |= hasXattrs
	}
}

// listXattrs lists the names of the attributes of a file in the folder that fd is, links
// not followed: by listxattrat(2), since Linux 6.13, which takes half as long as the way
// through /proc.
func (l *lister) listXattrs(fd int, name string, buf []byte) (int, error) {
	if !l.oldKernel {
		path, err := unix.BytePtrFromString(name)
		if err != nil {
			return 0, err
		}
		n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(fd), uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.ENOSYS, unix.EPERM: // the second of a sandbox that does not know it
			l.oldKernel = true
		default:
			return 0, errno
		}
	}
	return unix.Llistxattr("/proc/self/fd/"+strconv.Itoa(fd)+"/"+name, buf)
}

// Unread says whether Scan has left files unread that nobody has read since.
func (c *Context) Unread() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.rest, unread.waits) {
		c.rest = nil
	}
	return c.rest != nil
}

func (f unread) waits() bool { return f.n.flags&hasDigest == 0 }

// Moved counts the files that turned out, when their digests were found, to have changed
// since they were listed.
func (c *Context) Moved() int64 { return c.moved.Load() }

// ReadRest reads what Scan has left and nobody has read since, in parallel.
func (c *Context) ReadRest(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var todo []unread
	for _, f := range c.rest {
		if f.waits() {
			todo = append(todo, f)
		}
	}
	if err := c.hashAll(ctx, todo); err != nil {
		return err
	}
	c.rest = nil
	return nil
}

// learn digests the content of a file that Scan has left, which was read from fd since
// start, if the file is what it was when it was scanned.
func (c *Context) learn(n *node, path string, fd int, data []byte, start time.Time) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("stat", path, err)
	}
	sum := digest.Digest(sha256.Sum256(data))
	c.mu.Lock()
	defer c.mu.Unlock()
	if !n.same(&st) || st.Size != int64(len(data)) {
		return pathError("read", path, ErrChanged)
	}
	if n.flags&hasDigest != 0 {
		return nil // somebody was faster
	}
	n.digest = sum
	n.flags |= hasDigest | c.trust(n, &st, fd, start)
	c.dirty = c.dirty || n.flags&isTrusted != 0
	return nil
}
