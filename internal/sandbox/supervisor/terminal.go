package supervisor

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// isTerminal says whether a place is the multiplexer of pseudo-terminals, or
// one of them.
func isTerminal(at []string) bool {
	return len(at) == 2 && at[0] == "dev" && at[1] == "ptmx" || len(at) == 3 && at[0] == "dev" && at[1] == "pts"
}

// openTerminal opens the machine's multiplexer, or a terminal that a process
// which is served has got from there. Others on this machine are not theirs.
func (s *Server) openTerminal(n node, flags int) (int, error) {
	fd, err := unix.Open(n.real, flags, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || !strings.HasSuffix(n.real, "ptmx") && st.Type != unix.DEVPTS_SUPER_MAGIC {
		unix.Close(fd)
		return -1, unix.EIO
	}
	return fd, nil
}

// openDevice opens a device of this machine. /dev/tty is another one for each
// session, and is opened by its own name.
func openDevice(c *call, n node, flags int) (int, error) {
	if n.real != "/dev/tty" {
		return unix.Open(n.real, flags, 0)
	}
	number, ok := controlling(statOf(c.tid))
	if !ok {
		return -1, unix.ENXIO
	}
	fd, err := unix.Open("/dev/pts/"+strconv.Itoa(number), flags, 0)
	if err != nil {
		return -1, unix.ENXIO
	}
	// The terminal may be one of another instance, whose numbers are others.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || unix.Minor(st.Rdev) != uint32(number) || unix.Major(st.Rdev) != firstPTS || !c.valid() {
		unix.Close(fd)
		return -1, unix.ENXIO
	}
	return fd, nil
}

// The devices that are pseudo-terminals (Documentation/admin-guide/devices.txt):
// the kernel makes them with the first number.
const firstPTS = 136

// controlling is the number of the pseudo-terminal that a session has, by the
// fields of statOf (proc_pid_stat(5), tty_nr).
func controlling(stat []string) (number int, ok bool) {
	if len(stat) < 5 {
		return 0, false
	}
	dev, err := strconv.ParseInt(stat[4], 10, 64)
	if err != nil || dev>>8&0xfff != firstPTS {
		return 0, false
	}
	return int(dev&0xff | dev>>12&0xfff00), true
}

// terminalNode is a terminal, if it is one of theirs.
func (s *Server) terminalNode(c *call, at []string) node {
	last := at[len(at)-1]
	if last == "ptmx" {
		return node{kind: terminal, place: at, real: "/dev/ptmx"}
	}
	n, err := strconv.Atoi(last)
	if err != nil || !s.holds(c, n) {
		return none(unix.ENOENT)
	}
	return node{kind: terminal, place: at, real: "/dev/pts/" + strconv.Itoa(n)}
}

// holds says whether somebody who is served holds the other side of the
// terminal number n.
func (s *Server) holds(c *call, n int) bool {
	for _, pid := range s.descendants() {
		found := false
		c.seen(func() error {
			dir := "/proc/" + strconv.Itoa(pid)
			es, err := os.ReadDir(dir + "/fd")
			if err != nil {
				return unwrap(err)
			}
			for _, e := range es {
				text, _ := os.Readlink(dir + "/fd/" + e.Name())
				if !strings.HasSuffix(text, "/ptmx") {
					continue
				}
				info, _ := os.ReadFile(dir + "/fdinfo/" + e.Name())
				found = found || strings.Contains(string(info), "tty-index:\t"+strconv.Itoa(n)+"\n")
			}
			return nil
		})
		if found {
			return true
		}
	}
	return false
}
