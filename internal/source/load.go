package source

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// loader is OpenFile and Verify for many files of one folder after the other: it
// keeps the folder open, and no os.File is made of a file.
type loader struct {
	c    *Context
	dir  string
	node *node
	fd   int // of dir; -1 is none
}

// Loader returns an entry.Loader, whose files are verified. It digests those that Scan
// has left.
func (c *Context) Loader() entry.Loader { return &loader{c: c, fd: -1} }

// Close implements entry.Loader.
func (l *loader) Close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

// Load implements entry.Loader. It is an error, ErrChanged, if the content is
// not what it was when it was scanned.
func (l *loader) Load(path string, data []byte) error {
	start := l.c.now()
	n, fd, err := l.open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for rest := data; len(rest) > 0; {
		k, err := unix.Read(fd, rest)
		if err == unix.EINTR {
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) { // a pipe now
			return pathError("read", path, err)
		}
		if k <= 0 {
			return pathError("read", path, ErrChanged)
		}
		rest = rest[k:]
	}
	l.c.mu.RLock()
	late, size := n.flags&hasDigest == 0, n.size
	l.c.mu.RUnlock()
	if size != int64(len(data)) { // somebody has read it as another one meanwhile
		return pathError("read", path, ErrChanged)
	}
	if late {
		return l.c.learn(n, path, fd, data, start)
	}
	return l.c.verify(n, path, fd)
}

// open opens the file at path. That it is the one that was scanned is to be
// verified when it is read: a pipe or a device has no content that is waited
// for.
func (l *loader) open(path string) (*node, int, error) {
	dir := entry.Parent(path)
	if l.fd < 0 || dir != l.dir {
		l.enter(dir)
	}
	base := path
	if dir != "." {
		base = path[len(dir)+1:]
	}
	if l.fd >= 0 {
		l.c.mu.RLock()
		n := l.node.kid(base)
		l.c.mu.RUnlock()
		if n != nil && n.isRegular() {
			if fd, err := openat(l.fd, base, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC); err == nil {
				return n, fd, nil
			}
		}
	}
	fd, n, err := l.c.open(path)
	return n, fd, err
}

// enter opens a folder that was scanned; without one, files are opened from the
// root.
func (l *loader) enter(dir string) {
	l.Close()
	l.c.mu.RLock()
	n, _ := l.c.find(dir)
	l.c.mu.RUnlock()
	if n == nil || !n.isDir() {
		return
	}
	fd, err := openBeneath(l.c.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	l.dir, l.node, l.fd = dir, n, fd
}
