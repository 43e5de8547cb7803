package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A descriptor of a real folder of /proc would lead out of the chroot by "..".
// So who opens one gets a folder of the root instead, a mirror: it has the
// names that the real one has at that moment, and is told apart by its own
// name when a path starts from it.
//
// Mirrors lie in the folder mirrorsAt. The other names in the root's /proc and
// /sys are stand-ins, empty files and folders: nobody opens them, since what
// they stand for is served, but a link of the image that leads to one is found
// out by it, and who asks about them by calls that are not notified finds
// something.

const mirrorsAt = "proc/.d"

// maxMirrors are how many there are at a time; the oldest goes.
const maxMirrors = 256

type mirrors struct {
	mu    sync.Mutex
	next  int
	first int
	of    map[int]string // what the mirror of this number shows
}

// meant is the folder that a mirror shows, for a path that starts in one.
func (m *mirrors) meant(name string) string {
	rest, ok := strings.CutPrefix(name, "/"+mirrorsAt+"/")
	if !ok {
		return name
	}
	number, below, _ := strings.Cut(rest, "/")
	n, err := strconv.Atoi(number)
	m.mu.Lock()
	defer m.mu.Unlock()
	of, ok := m.of[n]
	if err != nil || !ok {
		return name
	}
	return strings.TrimSuffix(of+"/"+below, "/")
}

// layOut makes what the root's /proc and /sys hold.
func (s *Server) layOut() error {
	s.mirrors.of = map[int]string{}
	proc, err := s.beneath("proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(proc)
	if err := unix.Mkdirat(proc, ".d", 0o755); err != nil {
		return err
	}
	const first = ".f"
	if err := s.standIn(proc, name{name: first}); err != nil {
		return err
	}
	s.aFile = "proc/" + first
	defer unix.Unlinkat(proc, first, 0)
	if err := s.standIns(proc, "/proc"); err != nil {
		return err
	}
	if err := s.layOutSelf(proc); err != nil {
		return err
	}
	if s.sys < 0 {
		return nil
	}
	sys, err := s.beneath("sys", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(sys)
	return s.standIns(sys, "/sys")
}

// standIns puts into the folder at one for every name of the real folder, but
// for processes and links.
func (s *Server) standIns(at int, real string) error {
	es, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	for _, e := range es {
		_, err := strconv.Atoi(e.Name())
		if err == nil || e.Name() == "self" || e.Name() == "fd" || e.Name() == "exe" {
			continue
		}
		made := name{name: e.Name(), mode: e.Type() & os.ModeDir}
		if err := s.standIn(at, made); err != nil {
			return err
		}
	}
	return nil
}

// standIn makes one. All files are names of a single one: there are many, for
// every step.
func (s *Server) standIn(at int, made name) error {
	if !made.mode.IsDir() && s.aFile != "" {
		return unix.Linkat(s.root, s.aFile, at, made.name, 0)
	}
	if err := made.make(at); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, made.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	s.inodes[inode{uint64(st.Dev), st.Ino}] = &file{standIn: true}
	return nil
}

// refresh makes the root's /proc list the processes that there are.
func (s *Server) refresh() error {
	s.mirrors.mu.Lock()
	defer s.mirrors.mu.Unlock()
	proc, err := s.beneath("proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(proc), "proc")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	stale := map[string]bool{}
	for _, n := range names {
		if _, err := strconv.Atoi(n); err == nil {
			stale[n] = true
		}
	}
	for _, pid := range s.descendants() {
		name := strconv.Itoa(pid)
		if stale[name] {
			delete(stale, name)
			continue
		}
		if err := unix.Mkdirat(proc, name, 0o555); err != nil {
			return err
		}
	}
	for name := range stale {
		removeAll(proc, name)
	}
	return nil
}

// mirror makes the mirror of the folder n and opens it.
func (s *Server) mirror(c *call, n node) (int, error) {
	names, err := s.list(c, n)
	if err != nil {
		return -1, err
	}
	m := &s.mirrors
	m.mu.Lock()
	defer m.mu.Unlock()
	at, err := s.beneath(mirrorsAt, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	number := m.next
	m.next++
	name := strconv.Itoa(number)
	if err := unix.Mkdirat(at, name, 0o755); err != nil {
		return -1, err
	}
	fd, err := openat2(at, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
	if err != nil {
		return -1, err
	}
	for _, e := range names {
		if err := e.make(fd); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	m.of[number] = join(n.place)
	for ; m.next-m.first > maxMirrors; m.first++ {
		delete(m.of, m.first)
		removeAll(at, strconv.Itoa(m.first))
	}
	return fd, nil
}

// name is an entry of a folder.
type name struct {
	name string
	mode os.FileMode
	text string // of a link
}

func (e name) make(dir int) error {
	switch {
	case e.mode.IsDir():
		return unix.Mkdirat(dir, e.name, 0o555)
	case e.text != "":
		return unix.Symlinkat(e.text, dir, e.name)
	}
	return unix.Mknodat(dir, e.name, unix.S_IFREG|0o444, 0)
}

// list reads the real folder that n is, with the rights of who asks.
func (s *Server) list(c *call, n node) (list []name, err error) {
	err = c.seen(func() error {
		list = nil
		fd, err := openReal(n, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), n.real)
		defer f.Close()
		es, err := f.ReadDir(-1)
		for _, e := range es {
			entry := name{name: e.Name(), mode: e.Type()}
			if e.Type()&os.ModeSymlink != 0 {
				entry.text, _ = readlink(int(f.Fd()), e.Name())
				entry.text = s.shown(entry.text)
			}
			list = append(list, entry)
		}
		if len(list) > 0 {
			return nil
		}
		return unwrap(err)
	})
	return list, err
}

func unwrap(err error) error {
	if err == nil {
		return nil
	}
	return fail(err).err
}

// shown is the text of a link of /proc as a process in the root sees it.
func (s *Server) shown(text string) string {
	if in, ok := s.inside(text); ok {
		return in
	}
	// Of another file than one of the root the name means nothing there.
	if strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "/dev/") && !strings.HasPrefix(text, "/memfd:") {
		return fmt.Sprintf("(unreachable)%s", text[strings.LastIndexByte(text, '/'):])
	}
	return text
}

// removeAll removes the folder name in dir with its files.
func removeAll(dir int, name string) {
	fd, err := openat2(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, n := range names {
		if unix.Unlinkat(fd, n, 0) != nil {
			unix.Unlinkat(fd, n, unix.AT_REMOVEDIR)
		}
	}
	unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}
