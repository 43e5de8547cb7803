package supervisor

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Nobody can execute a program for another process, and a path in its memory
// may be its parent's too (vfork(2)). So the root's /proc/self is a folder, in
// which exe and fd/N become links to the program for as long as it takes the
// kernel to look.

// execTime is how long a link stays for whoever was told to go on.
const execTime = 30 * time.Millisecond

type execs struct {
	mu   sync.Mutex
	last map[string]target // by name below /proc/self
}

type target struct {
	path  string
	until time.Time
}

// layOutSelf makes the root's /proc/self.
func (s *Server) layOutSelf(proc int) error {
	s.exec.last = map[string]target{}
	if err := unix.Mkdirat(proc, "self", 0o755); err != nil {
		return err
	}
	self, err := openat2(proc, "self", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	if err := s.standIns(self, "/proc/self"); err != nil {
		return err
	}
	if err := s.standIn(self, name{name: "exe"}); err != nil {
		return err
	}
	if err := s.standIn(self, name{name: "fd", mode: os.ModeDir}); err != nil {
		return err
	}
	fd, err := openat2(self, "fd", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, n := range []string{"0", "1", "2"} {
		if err := s.standIn(fd, name{name: n}); err != nil {
			return err
		}
	}
	return nil
}

// execute answers execve(2): programs of the root are the kernel's to find.
func (s *Server) execute(c *call, dir, name uint64) answer {
	path, err := c.path(name)
	if err != nil {
		return goOn
	}
	n := s.find(c, dir, path, true)
	if a, done := settled(n, false); done {
		return a
	}
	if n.kind != magic {
		return fail(unix.EACCES) // no program lies in what is served
	}
	w, err := c.creds()
	if err != nil {
		return fail(err)
	}
	self := strings.NewReplacer("/proc/"+strconv.Itoa(w.tgid)+"/", "/proc/self/", "/proc/thread-self/", "/proc/self/", "/dev/fd/", "/proc/self/fd/").Replace(clean(path))
	at, ok := strings.CutPrefix(self, "/proc/self/")
	program, in := s.inside(n.text)
	if !ok || !in || strings.HasSuffix(program, " (deleted)") || at != "exe" && !strings.HasPrefix(at, "fd/") {
		return fail(unix.EACCES)
	}
	if err := s.exec.lead(s, at, program); err != nil {
		return fail(err)
	}
	return goOn
}

// lead makes the name at in the root's /proc/self a link to program. Who was
// led elsewhere a moment ago has its time.
func (x *execs) lead(s *Server, at, program string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	last := x.last[at]
	x.last[at] = target{program, time.Now().Add(execTime)}
	if last.path == program {
		return nil
	}
	time.Sleep(time.Until(last.until))
	fd, err := s.beneath("proc/self", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	self := os.NewFile(uintptr(fd), "self")
	defer self.Close()
	if err := unix.Symlinkat(program, fd, ".next"); err != nil {
		return err
	}
	return unix.Renameat(fd, ".next", fd, at)
}
