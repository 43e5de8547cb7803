package supervisor

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Processes in a chroot share the numbers of processes with everybody, and as
// root they may signal whoever is root. These calls reach those who are served
// and nobody else: all others do not exist, as in a pid namespace. What is
// checked are numbers in registers, which nobody can change after.

var pidCalls = map[string]func(*Server, *call) answer{
	"kill":              (*Server).kill,
	"tkill":             (*Server).reach,
	"tgkill":            (*Server).reach,
	"rt_sigqueueinfo":   (*Server).reach,
	"rt_tgsigqueueinfo": (*Server).reach,
	"pidfd_open":        (*Server).reach,
	"prlimit64":         (*Server).reach,
	"process_vm_readv":  (*Server).reach,
	"process_vm_writev": (*Server).reach,
	"ptrace":            func(s *Server, c *call) answer { return s.reachPid(int(int32(c.args[1]))) },
	"fcntl":             (*Server).owner,
	"fcntl64":           (*Server).owner,
}

func (s *Server) reach(c *call) answer { return s.reachPid(int(int32(c.args[0]))) }

func (s *Server) reachPid(pid int) answer {
	if pid > 0 && !s.mine(pid) {
		return fail(unix.ESRCH)
	}
	return goOn
}

// owner is F_SETOWN: who gets a signal when there is something to read.
func (s *Server) owner(c *call) answer {
	who := int(int32(c.args[2]))
	if who < 0 {
		return s.reachGroup(-who)
	}
	return s.reachPid(who)
}

func (s *Server) kill(c *call) answer {
	pid := int(int32(c.args[0]))
	switch {
	case pid == -1:
		return s.killAll(c)
	case pid < 0:
		return s.reachGroup(-pid)
	}
	return s.reachPid(pid)
}

// reachGroup is for a process group. All of one session are served or none,
// since the first process began a session, and groups are within one.
func (s *Server) reachGroup(group int) answer {
	for _, pid := range s.descendants() {
		if f := statOf(pid); len(f) > 2 && f[2] == strconv.Itoa(group) {
			return goOn
		}
	}
	return fail(unix.ESRCH)
}

// killAll is kill(-1): a signal to all that the thread may send one, but
// itself.
func (s *Server) killAll(c *call) answer {
	w, err := c.creds()
	if err != nil {
		return fail(err)
	}
	sent := false
	for _, pid := range s.descendants() {
		if pid == w.tgid {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		target := &call{tid: pid, listener: c.listener, id: c.id}
		its, err := target.creds()
		if err == nil && s.mine(pid) && (w.euid == 0 || slices.Contains([]int{w.euid, w.uid}, its.uid)) {
			sent = unix.PidfdSendSignal(fd, unix.Signal(c.args[1]), nil, 0) == nil || sent
		}
		unix.Close(fd)
	}
	if !sent {
		return fail(unix.ESRCH)
	}
	return answer{}
}
