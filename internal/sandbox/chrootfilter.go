package sandbox

import (
	"runtime"
	"slices"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
	"github.com/whittle-build/whittle/internal/sandbox/supervisor"
)

// notice is when the supervisor hears of a call: whenever none of unless holds.
type notice struct {
	calls  []string
	unless [][]specs.LinuxSeccompArg
	// refuse are calls that fail: nobody can check what they point to.
	refuse [][]specs.LinuxSeccompArg
}

// equal and masked are conditions on an argument of a call.
func equal(index uint, value uint32) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Value: uint64(value), Op: specs.OpEqualTo}}
}

func notEqual(index uint, value uint32) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Value: uint64(value), Op: specs.OpNotEqual}}
}

func masked(index uint, mask uint32) []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Index: index, Value: uint64(mask), ValueTwo: uint64(mask), Op: specs.OpMaskedEqual}}
}

const (
	atHere  = 1<<32 + unix.AT_FDCWD // as 32 bits
	newFile = unix.O_CREAT | unix.O_EXCL

	// The requests of ioctl(2) that do what F_SETOWN does, with a pointer.
	fiosetown, siocspgrp = 0x8901, 0x8902
)

// notices are the calls that the supervisor answers. Every one costs two
// switches of process, so those are left out that cannot be about a file that
// is served: one that is to be new, one that is open already. What is asked
// about by a name in an open folder is left to the kernel as well, but for
// opening it.
func notices() []notice {
	type args = [][]specs.LinuxSeccompArg
	return []notice{
		{calls: []string{"open"}, unless: args{masked(1, newFile)}},
		{calls: []string{"openat"}, unless: args{masked(2, newFile)}},
		{calls: []string{"openat2", "stat", "lstat", "access", "readlink", "execve", "chmod"}},
		{calls: []string{"execveat"}, unless: args{masked(4, unix.AT_EMPTY_PATH)}},
		{calls: []string{"newfstatat", "fstatat"}, unless: args{notEqual(0, atHere), masked(3, unix.AT_EMPTY_PATH)}},
		{calls: []string{"statx"}, unless: args{notEqual(0, atHere), masked(2, unix.AT_EMPTY_PATH)}},
		{calls: []string{"faccessat", "faccessat2", "readlinkat", "fchmodat"}, unless: args{notEqual(0, atHere)}},

		{calls: []string{"kill", "prlimit64"}, unless: args{equal(0, 0)}},
		// Go's and others' signal to their own threads, which harms nobody.
		{calls: []string{"tgkill"}, unless: args{equal(2, uint32(unix.SIGURG))}},
		{calls: []string{"tkill"}, unless: args{equal(1, uint32(unix.SIGURG))}},
		{calls: []string{"rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "process_vm_readv", "process_vm_writev"}},
		{calls: []string{"ptrace"}, unless: args{append(notEqual(0, unix.PTRACE_ATTACH), notEqual(0, unix.PTRACE_SEIZE)...)}},
		{calls: []string{"fcntl", "fcntl64"}, refuse: args{equal(1, unix.F_SETOWN_EX)}, unless: args{notEqual(1, unix.F_SETOWN)}},
		{calls: []string{"ioctl"}, refuse: args{equal(1, fiosetown), equal(1, siocspgrp)}, unless: args{always()}},
	}
}

// always holds for every call.
func always() []specs.LinuxSeccompArg {
	return []specs.LinuxSeccompArg{{Op: specs.OpMaskedEqual}}
}

// chrootProfile is Docker's default profile for a process in a chroot: without
// what leads out of it, and with calls that the supervisor answers.
func chrootProfile() (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: initproc.ChrootCaps()},
	}})
	if err != nil {
		return nil, err
	}
	// Nobody has programs for it, and its calls have other numbers.
	p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	list := notices()
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(p.Syscalls[i].Names), func(name string) bool {
			return slices.ContainsFunc(list, func(n notice) bool { return slices.Contains(n.calls, name) })
		})
	}
	invalid := uint(unix.EINVAL)
	for _, n := range list {
		for _, a := range n.refuse {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: n.calls, Action: specs.ActErrno, ErrnoRet: &invalid, Args: a})
		}
		for _, a := range n.unless {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: n.calls, Action: specs.ActAllow, Args: a})
		}
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: n.calls, Action: specs.ActNotify, Args: always()})
	}
	return p, nil
}

// chrootFilter is chrootProfile as the kernel reads it. It is compiled once,
// for all runs.
var chrootFilter = sync.OnceValues(func() (string, error) {
	p, err := chrootProfile()
	if err != nil {
		return "", err
	}
	return filterOf(p)
})

// nativeAudit is this program's architecture, as seccomp names it.
func nativeAudit() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// noticedCalls are the names of the supervisor's calls by their numbers.
func noticedCalls() (map[supervisor.Call]string, error) {
	calls := map[supervisor.Call]string{}
	for _, a := range abis {
		if a.base != 0 {
			continue
		}
		numbers, err := a.numbers()
		if err != nil {
			return nil, err
		}
		for _, n := range notices() {
			for _, name := range n.calls {
				if nr, ok := numbers[name]; ok {
					calls[supervisor.Call{Arch: a.audit, Nr: nr}] = name
				}
			}
		}
	}
	return calls, nil
}
