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
