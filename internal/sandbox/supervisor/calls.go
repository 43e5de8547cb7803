package supervisor

import (
	"cmp"
	"encoding/binary"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pathCall answers a call that takes a path. Those with structs answer in ones
// of this program's architecture.
type pathCall struct {
	do      func(*Server, *call) answer
	structs bool
}

const here = uint64(0xffffff9c) // AT_FDCWD

var pathCalls = map[string]pathCall{
	"open":    {do: func(s *Server, c *call) answer { return s.open(c, here, c.args[0], c.args[1], c.args[2]) }},
	"openat":  {do: func(s *Server, c *call) answer { return s.open(c, c.args[0], c.args[1], c.args[2], c.args[3]) }},
	"openat2": {do: (*Server).openat2},

	"readlink":   {do: func(s *Server, c *call) answer { return s.readlink(c, here, c.args[0], c.args[1], c.args[2]) }},
	"readlinkat": {do: func(s *Server, c *call) answer { return s.readlink(c, c.args[0], c.args[1], c.args[2], c.args[3]) }},

	"access":     {do: func(s *Server, c *call) answer { return s.access(c, here, c.args[0], c.args[1], 0) }},
	"faccessat":  {do: func(s *Server, c *call) answer { return s.access(c, c.args[0], c.args[1], c.args[2], 0) }},
	"faccessat2": {do: func(s *Server, c *call) answer { return s.access(c, c.args[0], c.args[1], c.args[2], c.args[3]) }},

	"stat": {do: func(s *Server, c *call) answer { return s.stat(c, here, c.args[0], c.args[1], 0) }, structs: true},
	"lstat": {do: func(s *Server, c *call) answer {
		return s.stat(c, here, c.args[0], c.args[1], unix.AT_SYMLINK_NOFOLLOW)
	}, structs: true},
	"newfstatat": {do: func(s *Server, c *call) answer { return s.stat(c, c.args[0], c.args[1], c.args[2], c.args[3]) }, structs: true},
	"fstatat":    {do: func(s *Server, c *call) answer { return s.stat(c, c.args[0], c.args[1], c.args[2], c.args[3]) }, structs: true},
	"statx":      {do: (*Server).statx, structs: true},

	"chmod":    {do: func(s *Server, c *call) answer { return s.chmod(c, here, c.args[0], c.args[1]) }},
	"fchmodat": {do: func(s *Server, c *call) answer { return s.chmod(c, c.args[0], c.args[1], c.args[2]) }},

	"execve":   {do: func(s *Server, c *call) answer { return s.execute(c, here, c.args[0]) }},
	"execveat": {do: func(s *Server, c *call) answer { return s.execute(c, c.args[0], c.args[1]) }},
}

// lookUp finds what the path at name leads to. There is nothing left to be
// done, and an answer, when that is the kernel's matter, because it lies in the
// root or is no path, or when there is no way to it.
func (s *Server) lookUp(c *call, dir, name uint64, follow, write bool) (n node, a answer, done bool) {
	path, err := c.path(name)
	if err != nil {
		return n, goOn, true // the kernel sees what is wrong with it
	}
	n = s.find(c, dir, path, follow)
	a, done = settled(n, write)
	return n, a, done
}

// settled says whether n is nothing that is served.
func settled(n node, write bool) (a answer, done bool) {
	switch {
	case n.kind == physical && n.file != nil && write:
		return fail(unix.EROFS), true
	case n.kind == physical || n.kind == link && n.real == "":
		return goOn, true
	case n.kind == wrong:
		return fail(n.err), true
	}
	return a, false
}

func (s *Server) open(c *call, dir, name, flags, mode uint64) answer {
	write := flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
	n, a, done := s.lookUp(c, dir, name, flags&unix.O_NOFOLLOW == 0, write)
	if done {
		return a
	}
	return s.openNode(c, n, int(flags), uint32(mode), write)
}

func (s *Server) openat2(c *call) answer {
	how := make([]byte, 24)
	if c.args[3] < 24 || c.read(c.args[2], how) != nil {
		return goOn
	}
	if binary.NativeEndian.Uint64(how[16:]) != 0 {
		return goOn // rules of its own, by which nobody expects a /proc
	}
	return s.open(c, c.args[0], c.args[1], binary.NativeEndian.Uint64(how), binary.NativeEndian.Uint64(how[8:]))
}

// openNode opens what n is and gives it to the thread.
func (s *Server) openNode(c *call, n node, flags int, mode uint32, write bool) answer {
	switch n.kind {
	case link:
		return fail(unix.ELOOP)
	case procTop, folder:
		return s.openFolder(c, n, flags, write)
	case through:
		return s.openThrough(c, n, flags, mode)
	}
	if flags&unix.O_DIRECTORY != 0 && n.kind != magic && !n.isFolder {
		return fail(unix.ENOTDIR)
	}
	if write && !n.writable && n.kind != magic && n.kind != terminal {
		return fail(unix.EROFS)
	}
	fd, err := s.descriptor(c, n, flags)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if !s.still(n) {
		return fail(unix.ENOENT)
	}
	return c.give(fd, flags&unix.O_CLOEXEC != 0)
}

// still says whether the process whose file n is, if it is one's, is served
// now that the file is open: its number may have become another's meanwhile.
func (s *Server) still(n node) bool {
	place := n.place
	if n.kind == magic {
		place = split(n.real)
	}
	if len(place) < 2 || place[0] != "proc" {
		return true
	}
	pid, err := strconv.Atoi(place[1])
	return err != nil || s.mine(pid)
}

func (s *Server) openFolder(c *call, n node, flags int, write bool) answer {
	if write || flags&unix.O_CREAT != 0 {
		return fail(unix.EISDIR)
	}
	var fd int
	var err error
	if n.kind == procTop {
		if err := s.refresh(); err != nil {
			return fail(err)
		}
		fd, err = s.beneath("proc", unix.O_RDONLY|unix.O_DIRECTORY)
	} else {
		fd, err = s.mirror(c, n)
	}
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	return c.give(fd, flags&unix.O_CLOEXEC != 0)
}

// opening are the flags that are passed on. A descriptor of O_PATH cannot be
// given away: it is one to read.
const opening = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_TRUNC | unix.O_DIRECTORY

// descriptor opens what n is for the thread.
func (s *Server) descriptor(c *call, n node, flags int) (int, error) {
	pass := flags & opening
	if flags&unix.O_PATH != 0 {
		pass = unix.O_RDONLY
	}
	pass |= unix.O_NOCTTY | unix.O_CLOEXEC
	switch n.kind {
	case masked:
		if n.isFolder {
			return s.emptyFolder()
		}
		return sealed(nil)
	case made:
		return sealed([]byte(n.text))
	}
	fd := -1
	err := c.as(func() (err error) {
		switch n.kind {
		case memory:
			fd, err = unix.Open(own(n.file.fd), pass, 0)
		case magic:
			fd, err = s.openMagic(n, pass)
		case terminal:
			fd, err = s.openTerminal(n, pass)
		case device:
			fd, err = openDevice(c, n, pass&^unix.O_TRUNC)
		default:
			fd, err = openReal(n, pass)
		}
		return err
	})
	return fd, err
}

// openThrough opens a file of the root, by a path without links.
func (s *Server) openThrough(c *call, n node, flags int, mode uint32) answer {
	w, err := c.creds()
	if err != nil {
		return fail(err)
	}
	if flags&unix.O_PATH != 0 {
		flags &^= unix.O_PATH | unix.O_ACCMODE
	}
	fd := -1
	err = c.as(func() (err error) {
		how := unix.OpenHow{
			Flags: uint64(flags&(opening|unix.O_CREAT|unix.O_EXCL)) | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC,
			// The links on the way have been followed; who puts new ones there
			// has his error.
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		if flags&unix.O_CREAT != 0 {
			how.Mode = uint64(mode&0o7777) &^ uint64(w.umask)
		}
		fd, err = unix.Openat2(s.root, cmp.Or(n.real, "."), &how)
		return err
	})
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&(unix.O_NONBLOCK|unix.O_APPEND)); err != nil {
		return fail(err)
	}
	return c.give(fd, flags&unix.O_CLOEXEC != 0)
}

// emptyFolder is a mirror of nothing.
func (s *Server) emptyFolder() (int, error) {
	s.mirrors.mu.Lock()
	defer s.mirrors.mu.Unlock()
	at, err := s.beneath(mirrorsAt, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	if err := unix.Mkdirat(at, "empty", 0o555); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return openat2(at, "empty", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
}

// openMagic opens anew what a process has open, as the kernel does for a link
// of /proc/PID/fd, but for files that it has from outside of the root: its
// program before it is the command, say.
func (s *Server) openMagic(n node, flags int) (int, error) {
	if err := s.checkMagic(n); err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Stat(n.real, &st); err != nil {
		return -1, err
	}
	// To open a FIFO could take as long as its other side pleases.
	fifo := st.Mode&unix.S_IFMT == unix.S_IFIFO && flags&unix.O_NONBLOCK == 0
	if fifo {
		flags |= unix.O_NONBLOCK
	}
	fd, err := unix.Open(n.real, flags, 0)
	if err != nil || !fifo {
		return fd, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_NONBLOCK); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// checkMagic refuses links to folders and programs that are not in the root.
func (s *Server) checkMagic(n node) error {
	place := split(n.real)
	before := place[len(place)-2]
	if before == "ns" {
		return unix.EACCES
	}
	_, in := s.inside(n.text)
	if in || before == "fd" {
		var st unix.Stat_t
		if err := unix.Stat(n.real, &st); err != nil {
			return err
		}
		if !in && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return unix.EACCES
		}
		return nil
	}
	return unix.EACCES
}

func (s *Server) readlink(c *call, dir, name, buf, size uint64) answer {
	if int32(size) <= 0 {
		return goOn
	}
	n, a, done := s.lookUp(c, dir, name, false, false)
	if done {
		return a
	}
	text := ""
	switch n.kind {
	case link:
		text = n.text
	case magic:
		text = s.shown(n.text)
	case through:
		var err error
		if text, err = readlinkIn(s.root, n.real); err != nil || text == "" {
			return fail(cmp.Or(err, error(unix.EINVAL)))
		}
	default:
		return fail(unix.EINVAL)
	}
	b := []byte(text)[:min(len(text), int(int32(size)))]
	if err := c.write(buf, b); err != nil {
		return fail(err)
	}
	return answer{val: int64(len(b))}
}

func (s *Server) access(c *call, dir, name, mode, flags uint64) answer {
	n, a, done := s.lookUp(c, dir, name, flags&unix.AT_SYMLINK_NOFOLLOW == 0, mode&unix.W_OK != 0)
	if done {
		return a
	}
	if n.kind == link {
		return answer{} // everybody may do anything with one
	}
	if mode&unix.W_OK != 0 && !n.writable && n.kind != magic && n.kind != terminal && n.kind != through {
		return fail(unix.EROFS)
	}
	return fail(c.as(func() error {
		dir, real := s.where(n)
		return unix.Faccessat2(dir, real, uint32(mode), unix.AT_EACCESS)
	}))
}

// chmod changes the mode of an open file by its link in /proc, as libraries do
// that want to change no link's.
func (s *Server) chmod(c *call, dir, name, mode uint64) answer {
	n, a, done := s.lookUp(c, dir, name, true, false)
	if done {
		return a
	}
	if _, in := s.inside(n.text); n.kind != magic || !in {
		return fail(unix.EPERM)
	}
	return fail(c.as(func() error {
		if err := s.checkMagic(n); err != nil {
			return err
		}
		return unix.Fchmodat(unix.AT_FDCWD, n.real, uint32(mode&0o7777), 0)
	}))
}

// where is n as this process can name it.
func (s *Server) where(n node) (dir int, real string) {
	switch n.kind {
	case procTop:
		return s.root, "proc"
	case memory:
		return unix.AT_FDCWD, own(n.file.fd)
	case magic, terminal, device:
		return unix.AT_FDCWD, n.real
	}
	if n.kind == through && n.dir < 0 {
		return s.root, n.real // which is not there
	}
	if n.real == "" {
		return n.dir, "."
	}
	return n.dir, n.real
}

func (s *Server) stat(c *call, dir, name, buf, flags uint64) answer {
	var st unix.Stat_t
	return s.status(c, dir, name, buf, int(flags), unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)),
		func(at int, real string, follow int) error { return unix.Fstatat(at, real, &st, follow) })
}

func (s *Server) statx(c *call) answer {
	var st unix.Statx_t
	return s.status(c, c.args[0], c.args[1], c.args[4], int(c.args[2]), unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)),
		func(at int, real string, follow int) error {
			return unix.Statx(at, real, follow, int(c.args[3]), &st)
		})
}

// status answers a call that asks about a file: look fills st, which goes to
// buf.
func (s *Server) status(c *call, dir, name, buf uint64, flags int, st []byte, look func(at int, real string, follow int) error) answer {
	n, a, done := s.lookUp(c, dir, name, flags&unix.AT_SYMLINK_NOFOLLOW == 0, false)
	if done {
		return a
	}
	follow := unix.AT_SYMLINK_NOFOLLOW
	if n.kind == memory || n.kind == magic && flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		follow = 0
	}
	err := c.seen(func() error {
		if n.kind == magic && follow == 0 {
			if err := s.checkMagic(n); err != nil {
				return err
			}
		}
		at, real := s.where(n)
		return look(at, real, follow)
	})
	if err == nil {
		err = c.write(buf, st)
	}
	return fail(err)
}
