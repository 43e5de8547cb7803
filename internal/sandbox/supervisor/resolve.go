package supervisor

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kind says what a path leads to.
type kind uint8

const (
	physical kind = iota // a file of the root: nothing to do with this package
	wrong                // there is none
	procTop              // /proc itself
	folder               // one of /proc or /sys
	regular              // one of /proc or /sys
	masked               // one that is hidden
	made                 // one whose content is made here
	memory               // a File
	magic                // a link of /proc/PID to an open file or folder
	link                 // any other link, not followed
	terminal             // a pseudo-terminal
	device               // one of this machine
	through              // a file of the root, on a way that the kernel does not find
)

// node is what a path leads to.
type node struct {
	kind
	dir      int      // descriptor below which real lies
	real     string   // path in the real /proc or /sys; of magic the whole path
	place    []string // as the processes see it
	writable bool
	isFolder bool  // of masked
	file     *file // of memory, and of physical where it is watched
	text     string
	err      unix.Errno
}

func none(err unix.Errno) node { return node{kind: wrong, err: err} }

const maxLinks = 40 // as the kernel's MAXSYMLINKS, path_resolution(7)

// find says what a path of a call leads to. It decides what is served, and is
// quick where nothing is; the kernel decides anew what is not.
func (s *Server) find(c *call, dir uint64, name string, follow bool) node {
	if name == "" {
		return node{}
	}
	if name[0] != '/' {
		base, ok := s.base(c, int32(dir))
		if !ok {
			return node{}
		}
		name = base + "/" + name
	}
	if !served(name) {
		flags := unix.O_PATH
		if !follow {
			flags |= unix.O_NOFOLLOW
		}
		fd, err := s.inRoot(name, flags)
		if err == nil {
			n := s.watched(fd)
			unix.Close(fd)
			if n.file == nil || !n.file.standIn {
				return n
			}
		} else {
			return node{}
		}
	}
	n := s.walk(c, name, follow)
	if n.kind == physical && n.place != nil {
		if fd, err := s.beneath(join(n.place), unix.O_PATH|unix.O_NOFOLLOW); err == nil {
			defer unix.Close(fd)
			return s.watched(fd)
		}
	}
	return n
}

// watched looks whether the file at fd is one of the few that are.
func (s *Server) watched(fd int) node {
	if len(s.inodes) == 0 {
		return node{}
	}
	id, err := inodeOf(fd)
	f := s.inodes[id]
	switch {
	case err != nil || f == nil:
		return node{}
	case f.memory:
		return node{kind: memory, file: f}
	case f.device != "":
		return node{kind: device, real: f.device, writable: true}
	}
	return node{file: f}
}

// served says whether a path looks like one that is. It need not be right:
// what is served wrongly walk finds out, what is missed has another way.
func served(name string) bool {
	if strings.Contains(name, "//") || strings.Contains(name, "/.") {
		return looksServed(name) || looksServed(clean(name))
	}
	return looksServed(name)
}

func looksServed(name string) bool {
	for _, p := range []string{"/proc", "/sys", "/dev/pts", "/dev/ptmx", "/dev/fd", "/dev/std"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// base is the folder that a relative path starts from, as the thread sees it.
func (s *Server) base(c *call, dir int32) (string, bool) {
	from := "cwd"
	if dir != unix.AT_FDCWD {
		from = "fd/" + strconv.Itoa(int(dir))
	}
	var text string
	err := c.seen(func() (err error) {
		text, err = readlink(unix.AT_FDCWD, c.proc(from))
		return err
	})
	if err != nil {
		return "", false
	}
	text, ok := s.inside(text)
	if !ok {
		return "", false
	}
	return s.mirrors.meant(text), true
}

// inside turns a path as this process sees it into one from the root.
func (s *Server) inside(name string) (string, bool) {
	if name == s.rootPath {
		return "/", true
	}
	rest, ok := strings.CutPrefix(name, s.rootPath)
	return rest, ok && strings.HasPrefix(rest, "/")
}

// walk follows a path element by element, through the root and what is served
// in it.
func (s *Server) walk(c *call, name string, follow bool) node {
	var at []string
	rest, folder := strings.Split(name, "/"), strings.HasSuffix(name, "/")
	led := false // here by a link that is served
	for links := 0; len(rest) > 0; {
		el := rest[0]
		rest = rest[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 0)]
			continue
		}
		next := append(slices.Clone(at), el)
		l := s.link(c, next)
		if l.kind == wrong {
			return l
		}
		last := !slices.ContainsFunc(rest, func(e string) bool { return e != "" && e != "." })
		if l.kind != link && l.kind != magic || last && !follow && !folder {
			if l.kind == physical && l.err != 0 {
				return missing(led, last, next)
			}
			if l.kind == link && l.real == "" && led {
				return node{kind: through, dir: s.root, real: strings.Join(next, "/")}
			}
			if l.kind == link || l.kind == magic {
				return l
			}
			at = next
			continue
		}
		if links++; links > maxLinks {
			return none(unix.ELOOP)
		}
		if l.kind == magic && last {
			return l
		}
		target := l.text
		led = led || next[0] == "proc" || next[0] == "sys"
		if l.kind == magic {
			// On the way, a folder: by its name from here on.
			inside, ok := s.inside(l.text)
			if !ok {
				return none(unix.ENOTDIR)
			}
			target = s.mirrors.meant(inside)
		}
		if strings.HasPrefix(target, "/") {
			at = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	n := s.at(c, at)
	if n.kind == physical && led {
		n.kind, n.dir, n.real = through, s.root, strings.Join(at, "/")
	}
	return n
}

// missing is where there is no file. The kernel says so, or makes one, if it
// finds the place.
func missing(led, last bool, at []string) node {
	switch {
	case !led:
		return node{}
	case !last:
		return none(unix.ENOENT)
	}
	return node{kind: through, dir: -1, real: strings.Join(at, "/")}
}

// link says whether there is a link at a place. Its kind is physical when
// there is none, and err then says whether nothing is there at all.
func (s *Server) link(c *call, at []string) node {
	switch at[0] {
	case "proc":
		return s.procLink(c, at[1:])
	case "sys":
		if s.sys < 0 || len(at) == 1 {
			return node{place: at}
		}
		text, err := readlinkIn(s.sys, strings.Join(at[1:], "/"))
		if err != nil {
			return node{place: at}
		}
		return node{kind: link, text: text, dir: s.sys, real: strings.Join(at[1:], "/")}
	}
	if isTerminal(at) {
		return node{place: at}
	}
	fd, err := s.beneath(join(at), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return node{err: unix.ENOENT}
	}
	defer unix.Close(fd)
	text, err := readlink(fd, "")
	if err != nil || text == "" {
		return node{place: at}
	}
	// Not by its text, for readlink: the kernel knows better.
	return node{kind: link, text: text, dir: -1}
}

// at says what lies at a place that no link leads away from.
func (s *Server) at(c *call, at []string) node {
	switch {
	case len(at) == 0:
		return node{place: []string{}}
	case at[0] == "proc":
		return s.procNode(c, at)
	case at[0] == "sys":
		return s.sysNode(at)
	case isTerminal(at):
		return s.terminalNode(c, at)
	}
	return node{place: at}
}

// readlinkIn reads a link by a path without links below dir; it is an error if
// it is none.
func readlinkIn(dir int, name string) (string, error) {
	fd, err := openat2(dir, name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return readlink(fd, "")
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
