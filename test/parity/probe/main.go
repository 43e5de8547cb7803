//go:build linux

// Probe prints what a build step sees of its sandbox, a fact a line: a name,
// and what it is.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		orphan(os.Args[1])
		return
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	say := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%s %s\n", name, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "|"))
	}
	descriptors(say) // before anything else is open
	status(say)
	limits(say)
	files(say)
	mounts(say)
	calls(say)
	orphans(say)
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"} {
		link, _ := os.Readlink("/proc/self/ns/" + ns)
		say("ns."+ns, "%s", link)
	}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		say("env."+name, "%s", value)
	}
	wd, _ := os.Getwd()
	host, _ := os.Hostname()
	mask := unix.Umask(0)
	say("cwd", "%s", wd)
	say("hostname", "%s", host)
	say("umask", "%04o", mask)
	say("pid", "%d", os.Getpid())
	say("ids", "%d %d %d %d", unix.Getuid(), unix.Geteuid(), unix.Getgid(), unix.Getegid())
	for _, f := range []string{"/etc/hosts", "/etc/resolv.conf"} {
		b, err := os.ReadFile(f)
		say("file."+f, "%s %v", b, err)
		say("write."+f, "%v", writable(f))
	}
}

func writable(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		return f.Close()
	}
	return err
}

func descriptors(say func(string, string, ...any)) {
	for fd := range 64 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		link, _, _ = strings.Cut(link, "[")
		link, _, _ = strings.Cut(link, ":")
		if link == "anon_inode" {
			continue // this program's own: what Go waits for files with
		}
		say(fmt.Sprintf("fd.%d", fd), "%s", link)
	}
}

func status(say func(string, string, ...any)) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if strings.HasPrefix(name, "Cap") || slices.Contains([]string{"Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "NStgid"}, name) {
			say("status."+name, "%s", strings.Join(strings.Fields(value), " "))
		}
	}
	b, _ = os.ReadFile("/proc/self/oom_score_adj")
	say("oom_score_adj", "%s", strings.TrimSpace(string(b)))
}

func limits(say func(string, string, ...any)) {
	b, _ := os.ReadFile("/proc/self/limits")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line[min(26, len(line)):]); len(f) > 1 && strings.HasPrefix(line, "Max") {
			say("limit."+strings.ReplaceAll(strings.TrimSpace(line[4:26]), " ", "_"), "%s %s", f[0], f[1])
		}
	}
}

// files are those of /dev, and the paths that are hidden or read-only.
func files(say func(string, string, ...any)) {
	filepath.WalkDir("/dev", func(p string, d os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(p, &st) == nil && p != "/dev/pts/ptmx" {
			link, _ := os.Readlink(p)
			say("dev."+p, "%o %d:%d %d:%d %s", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev), link)
		}
		return nil
	})
	for _, p := range strings.Fields(`/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi
		/proc/timer_list /proc/timer_stats /sys/firmware /sys/devices/virtual/powercap /sys/kernel/security`) {
		var st unix.Stat_t
		err := unix.Stat(p, &st)
		if err != nil {
			say("masked."+p, "%v", err)
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			list, err := os.ReadDir(p)
			say("masked."+p, "folder of %d, %v", len(list), err)
			continue
		}
		say("masked."+p, "%o %d:%d", st.Mode&unix.S_IFMT, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	for _, p := range strings.Fields(`/proc/sysrq-trigger /proc/sys/kernel/hostname /proc/irq/default_smp_affinity /proc/bus /proc/fs /sys/kernel/mm/transparent_hugepage/enabled /sys/fs/cgroup`) {
		say("writable."+p, "%v", unix.Access(p, unix.W_OK))
	}
}

func mounts(say func(string, string, ...any)) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		own, of, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(own), strings.Fields(of)
		shared := ""
		if len(f) > 6 {
			shared = " " + strings.TrimRight(f[6], "0123456789")
		}
		kind := fs[0]
		if f[4] == "/" {
			kind = "root"
		}
		say("mount."+f[4], "%s %s%s", kind, strings.Replace(f[5], ",relatime", "", 1), shared)
	}
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil {
		say("shm", "%d", st.Blocks*uint64(st.Bsize))
	}
}

func calls(say func(string, string, ...any)) {
	for _, c := range []struct {
		name string
		nr   uintptr
		a, b uintptr
	}{
		{"unshare_user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0}, {"unshare_mnt", unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0}, {"unshare_net", unix.SYS_UNSHARE, unix.CLONE_NEWNET, 0},
		{"mount", unix.SYS_MOUNT, 0, 0}, {"umount2", unix.SYS_UMOUNT2, 0, 0}, {"pivot_root", unix.SYS_PIVOT_ROOT, 0, 0}, {"setns", unix.SYS_SETNS, 99, 0},
		{"fsopen", unix.SYS_FSOPEN, 0, 0}, {"open_tree", unix.SYS_OPEN_TREE, 99, 0}, {"move_mount", unix.SYS_MOVE_MOUNT, 99, 0}, {"mount_setattr", unix.SYS_MOUNT_SETATTR, 99, 0},
		{"keyctl", unix.SYS_KEYCTL, 0, 0}, {"add_key", unix.SYS_ADD_KEY, 0, 0}, {"request_key", unix.SYS_REQUEST_KEY, 0, 0},
		{"bpf", unix.SYS_BPF, 0, 0}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0}, {"userfaultfd", unix.SYS_USERFAULTFD, ^uintptr(0), 0},
		{"init_module", unix.SYS_INIT_MODULE, 0, 0}, {"finit_module", unix.SYS_FINIT_MODULE, 99, 0}, {"delete_module", unix.SYS_DELETE_MODULE, 0, 0},
		{"kexec_load", unix.SYS_KEXEC_LOAD, 0, ^uintptr(0)}, {"reboot", unix.SYS_REBOOT, 0, 0}, {"swapon", unix.SYS_SWAPON, 0, 0}, {"swapoff", unix.SYS_SWAPOFF, 0, 0},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, 1, 0}, {"clock_settime", unix.SYS_CLOCK_SETTIME, 99, 1}, {"adjtimex", unix.SYS_ADJTIMEX, 1, 0},
		{"acct", unix.SYS_ACCT, 1, 0}, {"quotactl", unix.SYS_QUOTACTL, 0, 1}, {"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 99, 1}, {"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, 99, 1},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, 0, 0}, {"ptrace", unix.SYS_PTRACE, 99, 0}, {"kcmp", unix.SYS_KCMP, 1, 1}, {"personality", unix.SYS_PERSONALITY, 0x40000, 0},
		{"clone3", unix.SYS_CLONE3, 0, 0}, {"io_uring_setup", unix.SYS_IO_URING_SETUP, 0, 0}, {"pidfd_getfd", unix.SYS_PIDFD_GETFD, 99, 0}, {"syslog", unix.SYS_SYSLOG, 99, 0},
		{"sethostname", unix.SYS_SETHOSTNAME, 1, 1}, {"setdomainname", unix.SYS_SETDOMAINNAME, 1, 1}, {"vhangup", unix.SYS_VHANGUP, 0, 0}, {"chroot", unix.SYS_CHROOT, 1, 0},
		{"mbind", unix.SYS_MBIND, 1, 1}, {"fanotify_init", unix.SYS_FANOTIFY_INIT, 0, 0}, {"socket_alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET}, {"socket_vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM},
		{"socket_packet", unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW}, {"unknown", 1000, 0, 0},
	} {
		_, _, e := unix.RawSyscall(c.nr, c.a, c.b, 0)
		say("call."+c.name, "%s", unix.ErrnoName(e))
	}
}

// orphan leaves a child behind that ends soon, or is that child.
func orphan(as string) {
	if as == "child" {
		time.Sleep(50 * time.Millisecond)
		return
	}
	_, _ = os.StartProcess("/probe", []string{"orphan", "child"}, &os.ProcAttr{})
}

// orphans says whose child a process becomes when its parent has ended, and
// whether somebody waits for its end, since this program does not.
func orphans(say func(name, format string, args ...any)) {
	p, err := os.StartProcess("/probe", []string{"orphan", "parent"}, &os.ProcAttr{})
	if err == nil {
		_, err = p.Wait()
	}
	if err != nil {
		say("orphan", "%v", err)
		return
	}
	time.Sleep(300 * time.Millisecond)
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range all {
		b, _ := os.ReadFile(name)
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && name != "/proc/1/stat" {
			say("orphan", "state %s, child of %s", f[0], f[1])
		}
	}
}
