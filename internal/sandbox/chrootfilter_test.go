package sandbox

import (
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// chrootVerdicts decides calls by name, in the way of amd64 or of its 32-bit
// programs.
func chrootVerdicts(t *testing.T) func(audit uint32, name string, args ...uint64) uint32 {
	t.Helper()
	p, err := chrootProfile()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := compileFilter(p)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return func(audit uint32, name string, args ...uint64) uint32 {
		t.Helper()
		var six [6]uint64
		copy(six[:], args)
		for _, a := range abis {
			if a.audit != audit || a.base != 0 {
				continue
			}
			numbers, err := a.numbers()
			if err != nil {
				t.Fatal(err)
			}
			nr, ok := numbers[name]
			if !ok {
				t.Fatalf("%s: no such call", name)
			}
			return verdictOf(t, vm, audit, nr, six)
		}
		t.Fatal("no such architecture")
		return 0
	}
}

// needAMD64 skips where the profile is another machine's.
func needAMD64(t *testing.T) {
	t.Helper()
	if nativeAudit() != unix.AUDIT_ARCH_X86_64 {
		t.Skip("needs amd64: the numbers of its calls")
	}
}

func TestTheFilterOfAChrootAsksOnlyAboutWhatMayBeServed(t *testing.T) {
	needAMD64(t)
	verdict := chrootVerdicts(t)
	const (
		allow, ask = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF
		here64     = ^uint64(99) // AT_FDCWD, as a program passes it
		created    = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY
	)
	eperm, einval := uint32(unix.SECCOMP_RET_ERRNO|unix.EPERM), uint32(unix.SECCOMP_RET_ERRNO|unix.EINVAL)
	for _, tt := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"read", nil, allow},
		{"open", []uint64{0, unix.O_RDONLY}, ask}, {"open", []uint64{0, created}, allow}, {"open", []uint64{0, unix.O_CREAT}, ask},
		{"openat", []uint64{here64, 0, unix.O_RDONLY}, ask}, {"openat", []uint64{5, 0, unix.O_RDONLY}, ask}, {"openat", []uint64{5, 0, created}, allow},
		{"newfstatat", []uint64{here64, 0, 0, 0}, ask}, {"newfstatat", []uint64{here64 & 0xffffffff, 0, 0, 0}, ask},
		{"newfstatat", []uint64{5, 0, 0, 0}, allow}, {"newfstatat", []uint64{here64, 0, 0, unix.AT_EMPTY_PATH}, allow},
		{"statx", []uint64{here64, 0, 0}, ask}, {"statx", []uint64{7, 0, unix.AT_EMPTY_PATH}, allow},
		{"execve", nil, ask}, {"execveat", []uint64{3, 0, 0, 0, unix.AT_EMPTY_PATH}, allow},
		{"readlink", nil, ask}, {"readlinkat", []uint64{here64}, ask}, {"readlinkat", []uint64{4}, allow}, {"chmod", nil, ask},
		// Whom a call reaches.
		{"kill", []uint64{1, 9}, ask}, {"kill", []uint64{0, 9}, allow}, {"kill", []uint64{1 << 32, 9}, allow},
		{"tgkill", []uint64{1, 1, 9}, ask}, {"tgkill", []uint64{1, 1, uint64(unix.SIGURG)}, allow}, {"tkill", []uint64{1, 9}, ask},
		{"rt_sigqueueinfo", nil, ask}, {"rt_tgsigqueueinfo", nil, ask}, {"pidfd_open", []uint64{1}, ask}, {"process_vm_writev", []uint64{1}, ask},
		{"ptrace", []uint64{unix.PTRACE_ATTACH, 1}, ask}, {"ptrace", []uint64{unix.PTRACE_SEIZE, 1}, ask}, {"ptrace", []uint64{unix.PTRACE_CONT, 1}, allow},
		{"prlimit64", []uint64{1}, ask}, {"prlimit64", []uint64{0}, allow},
		{"fcntl", []uint64{3, unix.F_SETOWN, 1}, ask}, {"fcntl", []uint64{3, unix.F_GETFD}, allow}, {"fcntl", []uint64{3, unix.F_SETOWN_EX}, einval},
		{"ioctl", []uint64{3, fiosetown}, einval}, {"ioctl", []uint64{3, siocspgrp}, einval}, {"ioctl", []uint64{3, unix.TCGETS}, allow},
		// What leads out.
		{"chroot", nil, eperm}, {"pivot_root", nil, eperm}, {"mount", nil, eperm}, {"unshare", nil, eperm}, {"setns", nil, eperm},
		{"open_by_handle_at", nil, eperm}, {"fsopen", nil, eperm}, {"open_tree", nil, eperm}, {"io_uring_setup", nil, eperm},
		{"pidfd_getfd", nil, eperm}, {"kcmp", nil, eperm}, {"process_madvise", nil, eperm},
		{"clone", []uint64{unix.CLONE_NEWUSER}, eperm}, {"clone3", nil, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
	} {
		if got := verdict(unix.AUDIT_ARCH_X86_64, tt.name, tt.args...); got != tt.want {
			t.Errorf("%s %#x: got %#x, want %#x", tt.name, tt.args, got, tt.want)
		}
	}
	for _, name := range []string{"open", "openat", "kill", "tgkill", "ptrace", "pidfd_open", "execve"} {
		if got := verdict(unix.AUDIT_ARCH_I386, name, 16, 1, 9); got != ask {
			t.Errorf("32-bit %s: got %#x", name, got)
		}
	}
}

func TestTheSupervisorKnowsEveryCallThatIsNoticed(t *testing.T) {
	calls, err := noticedCalls()
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]bool{}
	for _, name := range calls {
		numbers[name] = true
	}
	for _, n := range notices() {
		for _, name := range n.calls {
			// Those that have two names, and which machine has the other.
			if !numbers[name] && name != "fstatat" && name != "fcntl64" {
				t.Errorf("%s has no number anywhere", name)
			}
		}
	}
}
