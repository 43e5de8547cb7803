package fsroot

import (
	"io"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// Loader implements entry.Loader's maker: files are reached from their
// directory, which stays open.
func (t tree) Loader() entry.Loader { return &loader{t: t, fd: -1} }

type loader struct {
	t   tree
	dir string
	fd  int // of dir; -1 is none
}

// Close implements entry.Loader.
func (l *loader) Close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

// Load implements entry.Loader. That path was listed as a regular file is relied
// on for one thing: opening what is none could do anything.
func (l *loader) Load(path string, data []byte) error {
	dir, base, ok := split(path)
	if !ok {
		return l.t.r.wrap("open", path, unix.EINVAL)
	}
	if err := l.enter(dir); err != nil {
		return l.t.r.wrap("open", path, err)
	}
	defer runtime.KeepAlive(l.t.r)
	at := l.fd
	if dir == "." {
		at = int(l.t.r.dir.Fd())
	}
	fd, err := open2(at, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0, physical)
	if err != nil {
		return l.t.r.wrap("open", path, err)
	}
	defer unix.Close(fd)
	for len(data) > 0 {
		n, err := unix.Read(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return l.t.r.wrap("read", path, err)
		}
		if n == 0 {
			return l.t.r.wrap("read", path, io.ErrUnexpectedEOF)
		}
		data = data[n:]
	}
	return nil
}

func (l *loader) enter(dir string) error {
	if dir == "." || l.fd >= 0 && dir == l.dir {
		return nil
	}
	l.Close()
	fd, err := l.t.r.openPhysical(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		l.dir, l.fd = dir, fd
	}
	return err
}
