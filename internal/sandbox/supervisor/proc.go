package supervisor

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What Docker hides of /proc and /sys, besides what no container has mounted
// there. Never written to.
var (
	procMasked = []string{"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats",
		"kmsg", "kpagecount", "kpageflags", "kpagecgroup", "vmallocinfo"}
	sysMasked = []string{"firmware", "devices/virtual/powercap", "kernel/debug", "kernel/tracing", "kernel/security", "kernel/config",
		"fs/bpf", "fs/pstore", "fs/fuse", "fs/selinux"}
)

// writable are the files of /proc/PID that a process may write to.
var writable = []string{"comm", "oom_score_adj", "oom_adj", "coredump_filter", "timerslack_ns", "clear_refs", "autogroup", "mem"}

// hiddenOf are the entries of /proc/PID that lead to other processes or other
// places by ways that this package does not follow.
var hiddenOf = []string{"map_files"}

// procLink says whether there is a link at a place in /proc.
func (s *Server) procLink(c *call, at []string) node {
	if len(at) == 0 {
		return node{}
	}
	if len(at) == 1 {
		if text, ok := s.topLink(c, at[0]); ok {
			return node{kind: link, text: text, dir: s.proc, real: at[0]}
		}
	}
	pid, err := strconv.Atoi(at[0])
	if err != nil {
		return node{}
	}
	if !s.mine(pid) {
		return none(unix.ENOENT)
	}
	rest := at[1:]
	if len(rest) > 1 && rest[0] == "task" {
		rest = rest[2:]
	}
	named := len(rest) == 1 && slices.Contains([]string{"exe", "cwd", "root"}, rest[0])
	if !named && (len(rest) != 2 || rest[0] != "fd" && rest[0] != "ns") {
		return node{}
	}
	real := "/proc/" + strings.Join(at, "/")
	var text string
	err = c.seen(func() (err error) {
		text, err = readlink(unix.AT_FDCWD, real)
		return err
	})
	if err != nil {
		return fault(err)
	}
	return node{kind: magic, real: real, text: text}
}

// topLink are the links that each process sees differently.
func (s *Server) topLink(c *call, name string) (string, bool) {
	switch name {
	case "self", "thread-self":
		w, err := c.creds()
		if err != nil {
			return "", false
		}
		pid := strconv.Itoa(w.tgid)
		if name == "self" {
			return pid, true
		}
		return pid + "/task/" + strconv.Itoa(c.tid), true
	case "mounts", "net":
		return "self/" + name, true
	}
	return "", false
}

// procNode says what lies at a place in /proc that no link leads away from.
func (s *Server) procNode(c *call, at []string) node {
	n := node{dir: s.proc, place: at, real: strings.Join(at[1:], "/")}
	if len(at) == 1 {
		n.kind = procTop
		return n
	}
	if pid, err := strconv.Atoi(at[1]); err == nil {
		if !s.mine(pid) {
			return none(unix.ENOENT)
		}
		return s.ofProcess(c, n)
	}
	if at[1] == path.Base(mirrorsAt) {
		// Who lists /proc sees it, and may ask about it.
		if len(at) > 2 {
			return none(unix.ENOENT)
		}
		return node{kind: masked, isFolder: true, place: at, dir: s.root, real: mirrorsAt}
	}
	if slices.Contains(procMasked, at[1]) {
		n.kind = masked
	}
	return s.statKind(c, n)
}

// ofProcess says what lies at a place in the /proc/PID of one who is served.
func (s *Server) ofProcess(c *call, n node) node {
	rest := n.place[2:]
	if len(rest) > 1 && rest[0] == "task" {
		rest = rest[2:]
	}
	if len(rest) == 0 {
		return s.statKind(c, n)
	}
	switch {
	case slices.Contains(hiddenOf, rest[0]):
		return none(unix.EACCES)
	case rest[0] == "mounts", rest[0] == "mountinfo", rest[0] == "mountstats":
		n.kind, n.text = made, mounts(rest[0])
		return n
	}
	n.writable = len(rest) == 1 && slices.Contains(writable, rest[0])
	return s.statKind(c, n)
}

// sysNode says what lies at a place in /sys.
func (s *Server) sysNode(at []string) node {
	n := node{dir: s.sys, place: at, real: strings.Join(at[1:], "/")}
	if s.sys < 0 {
		return none(unix.ENOENT)
	}
	for _, m := range sysMasked {
		if n.real == m || strings.HasPrefix(n.real, m+"/") {
			n.kind = masked
		}
	}
	return s.statKind(nil, n)
}

// statKind finds out whether n is a folder. What lies below a folder that is
// masked is not there.
func (s *Server) statKind(c *call, n node) node {
	var st unix.Stat_t
	look := func() error {
		fd, err := openReal(n, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	}
	err := look()
	if err == unix.EACCES && c != nil {
		err = c.as(look)
	}
	if err != nil {
		return fault(err)
	}
	isFolder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case n.kind == masked && !s.topMasked(n.real):
		return none(unix.ENOENT)
	case n.kind == masked:
		n.isFolder = isFolder
	case isFolder:
		n.kind = folder
	default:
		n.kind = regular
	}
	return n
}

func (s *Server) topMasked(real string) bool {
	return slices.Contains(procMasked, real) || slices.Contains(sysMasked, real)
}

// openReal opens a file of the real /proc or /sys that no link leads to.
func openReal(n node, flags int) (int, error) {
	return openat2(n.dir, n.real, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

func fault(err error) node { return none(fail(err).err) }

// mine says whether a process or thread is served here: whether it descends
// from this process.
func (s *Server) mine(pid int) bool {
	for range 1 << 12 {
		if pid <= 1 || pid == s.pid {
			return false
		}
		parent := parentOf(pid)
		if parent == s.pid {
			return true
		}
		pid = parent
	}
	return false
}

// parentOf returns the parent of a process or thread; 0 if there is none.
func parentOf(pid int) int {
	f := statOf(pid)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}

// statOf returns the fields of /proc/PID/stat that follow the name: state,
// parent, group, session and so on, proc(5).
func statOf(pid int) []string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	if !ok {
		return nil
	}
	return strings.Fields(rest)
}

// descendants are all processes that are served.
func (s *Server) descendants() []int { return Descendants(s.pid) }

// Descendants are the processes that descend from the process of, zombies
// among them.
func Descendants(of int) []int {
	es, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	parents := map[int]int{}
	for _, e := range es {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			parents[pid] = parentOf(pid)
		}
	}
	var list []int
	for pid := range parents {
		for p, steps := parents[pid], 0; p > 1 && steps < 1<<12; p, steps = parents[p], steps+1 {
			if p == of {
				list = append(list, pid)
				break
			}
		}
	}
	slices.Sort(list)
	return list
}

// mounts is what a process in a sandbox with mounts of its own would see.
func mounts(file string) string {
	type mount struct{ at, kind, options string }
	list := []mount{
		{"/", "overlay", "rw,relatime"},
		{"/proc", "proc", "rw,nosuid,nodev,noexec,relatime"},
		{"/dev", "tmpfs", "rw,nosuid,relatime"},
		{"/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime"},
	}
	var b strings.Builder
	for i, m := range list {
		id := strconv.Itoa(i + 2)
		switch file {
		case "mounts":
			b.WriteString(m.kind + " " + m.at + " " + m.kind + " " + m.options + " 0 0\n")
		case "mountinfo":
			b.WriteString(id + " " + strconv.Itoa(min(i+1, 2)) + " 0:" + id + " / " + m.at + " " + m.options + " - " + m.kind + " " + m.kind + " rw\n")
		default:
			b.WriteString("device " + m.kind + " mounted on " + m.at + " with fstype " + m.kind + "\n")
		}
	}
	return b.String() + groupMounts(file)
}

// groupMounts are those of control groups, which programs read to know their
// limits.
func groupMounts(file string) string {
	own, err := os.ReadFile("/proc/self/" + file)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(string(own)) {
		if strings.Contains(line, " /sys/fs/cgroup") {
			b.WriteString(line)
		}
	}
	return b.String()
}
