package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

//go:generate go run gen_syscalls.go $X_SYS_UNIX

// defaultFilter is Docker's default profile for the default capabilities, as
// the kernel of this machine reads it. It is compiled once, for all runs.
var defaultFilter = sync.OnceValues(func() (string, error) {
	profile, err := defaultProfile()
	if err != nil {
		return "", err
	}
	return filterOf(profile)
})

// filterOf is a profile as the kernel of this machine reads it.
func filterOf(profile *specs.LinuxSeccomp) (string, error) {
	prog, err := compileFilter(profile)
	if err != nil {
		return "", err
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return "", err
	}
	var b []byte
	for _, i := range raw { // struct sock_filter
		b = binary.NativeEndian.AppendUint16(b, i.Op)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return string(b), nil
}

// defaultProfile is moby's default profile for the default capabilities.
func defaultProfile() (*specs.LinuxSeccomp, error) {
	return seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: initproc.CapNames()},
	}})
}

// The fields of struct seccomp_data, seccomp(2); both architectures that
// whittle runs on are little-endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

const x32Bit = 0x40000000

// abi is one way to call the kernel.
type abi struct {
	arch  specs.Arch
	audit uint32
	base  uint32 // added to all numbers
	wide  bool   // conditions are on 64 bits of an argument, else on the lower 32
	calls string
}

var abis = []abi{
	{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, 0, true, callsX86_64},
	{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32Bit, false, callsX32},
	{specs.ArchX86, unix.AUDIT_ARCH_I386, 0, false, callsX86},
	{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, 0, true, callsARM64},
	{specs.ArchARM, unix.AUDIT_ARCH_ARM, 0, false, callsARM},
}

// compileFilter turns a profile into a program. What the program decides is
// what libseccomp's for the same profile decides, but that calls newer than
// all that the profile names fail with ENOSYS, so that programs try an older
// one. A call by an architecture that the profile does not list ends the thread
// that made it.
func compileFilter(p *specs.LinuxSeccomp) ([]bpf.Instruction, error) {
	prog := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArch, Size: 4}}
	groups := map[uint32][]abi{}
	var order []uint32
	for _, name := range p.Architectures {
		for _, a := range abis {
			if a.arch != name {
				continue
			}
			if groups[a.audit] == nil {
				order = append(order, a.audit)
			}
			groups[a.audit] = append(groups[a.audit], a)
		}
	}
	if len(order) == 0 {
		return nil, errors.New("the profile has no architecture of this machine")
	}
	for _, audit := range order {
		body, err := compileABIs(p, groups[audit])
		if err != nil {
			return nil, err
		}
		// An own jump over the body: conditional ones reach 255 instructions.
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: audit, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(body))})
		prog = append(prog, body...)
	}
	return append(prog, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_THREAD}), nil
}

// compileABIs makes the program for those calls of one audit architecture.
func compileABIs(p *specs.LinuxSeccomp, list []abi) ([]bpf.Instruction, error) {
	ranges := []verdicts{}
	x32 := false
	for _, a := range list {
		r, err := a.ranges(p)
		if err != nil {
			return nil, err
		}
		x32 = x32 || a.base == x32Bit
		ranges = append(ranges, r...)
	}
	if list[0].audit == unix.AUDIT_ARCH_X86_64 && !x32 {
		ranges = append(ranges, verdicts{x32Bit, leaf(unix.SECCOMP_RET_KILL_THREAD)})
	}
	return append([]bpf.Instruction{bpf.LoadAbsolute{Off: dataNr, Size: 4}}, search(ranges)...), nil
}

// verdicts is what happens to the calls from a number on, to that of the next
// in its list.
type verdicts struct {
	from uint32
	code []bpf.Instruction
}

func leaf(ret uint32) []bpf.Instruction { return []bpf.Instruction{bpf.RetConstant{Val: ret}} }

// search is a binary search over ranges, which are sorted and start at the
// lowest number that can come. It takes a few comparisons a call; and loading
// it is quick, as the kernel then tries every number (seccomp_cache_prepare).
func search(ranges []verdicts) []bpf.Instruction {
	if len(ranges) == 1 {
		return ranges[0].code
	}
	mid := len(ranges) / 2
	low, high := search(ranges[:mid]), search(ranges[mid:])
	jump := bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: ranges[mid].from, SkipTrue: uint8(min(len(low), 255))}
	prog := []bpf.Instruction{jump}
	if len(low) > 255 {
		prog = []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: ranges[mid].from, SkipFalse: 1},
			bpf.Jump{Skip: uint32(len(low))},
		}
	}
	return append(append(prog, low...), high...)
}

// ranges decides each call of a.
func (a abi) ranges(p *specs.LinuxSeccomp) ([]verdicts, error) {
	byName, err := a.numbers()
	if err != nil {
		return nil, err
	}
	other, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	rules := map[uint32][]rule{}
	last := uint32(0)
	for i := range p.Syscalls {
		for _, name := range p.Syscalls[i].Names {
			if n, ok := byName[name]; ok {
				rules[n] = append(rules[n], rule{name, &p.Syscalls[i]})
				last = max(last, n)
			}
		}
	}
	var list []verdicts
	prev := uint32(unix.SECCOMP_RET_DATA) // what no call gets
	for n := uint32(0); n <= last; n++ {
		if n > 1<<16 && rules[n] == nil {
			continue // ARM's private calls are far from the others
		}
		ret, code, err := a.decide(rules[n], other)
		if err != nil {
			return nil, err
		}
		switch {
		case code != nil:
			list = append(list, verdicts{a.base + n, code})
			ret = unix.SECCOMP_RET_DATA
		case ret != prev:
			list = append(list, verdicts{a.base + n, leaf(ret)})
		}
		prev = ret
		if n > 1<<16 {
			list = append(list, verdicts{a.base + n + 1, leaf(other)})
			prev = other
		}
	}
	nosys := unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	return append(list, verdicts{a.base + last + 1, leaf(nosys)}), nil
}

// numbers parses a's table.
func (a abi) numbers() (map[string]uint32, error) {
	f := strings.Fields(a.calls)
	m := make(map[string]uint32, len(f)/2)
	for i := 0; i+1 < len(f); i += 2 {
		n, err := strconv.ParseUint(f[i+1], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("table of %s: %w", a.arch, err)
		}
		m[f[i]] = uint32(n)
	}
	return m, nil
}

// rule is a rule of the profile for one of its calls.
type rule struct {
	call string
	*specs.LinuxSyscall
}

// decide returns what happens to one call, or the code that decides if that
// depends on its arguments. A rule without conditions beats those with.
func (a abi) decide(rules []rule, other uint32) (uint32, []bpf.Instruction, error) {
	var code []bpf.Instruction
	for _, r := range rules {
		ret, err := verdict(r.Action, r.ErrnoRet)
		if err != nil {
			return 0, nil, err
		}
		if len(r.Args) == 0 {
			return ret, nil, nil
		}
		if ret == other {
			continue
		}
		b := a
		b.wide = a.wide && !takesInt(r.call)
		cond, err := b.conditions(r.Args, ret)
		if err != nil {
			return 0, nil, fmt.Errorf("rule of %s: %w", r.call, err)
		}
		code = append(code, cond...)
	}
	if code != nil {
		code = append(code, bpf.RetConstant{Val: other})
	}
	return other, code, nil
}

// takesInt reports whether a call with conditions takes arguments of 32 bits.
// The kernel ignores the upper half of those, and so must the filter: else
// socket(1<<32 | AF_VSOCK), a number above AF_VSOCK, would pass. libseccomp
// compares all 64 bits.
func takesInt(call string) bool {
	if call == "socket" || call == "personality" {
		return true
	}
	// Of these the conditions are on numbers of files and processes, and flags.
	return slices.ContainsFunc(notices(), func(n notice) bool { return slices.Contains(n.calls, call) })
}

// verdict turns an action of the runtime spec into the kernel's.
func verdict(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch action {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		n := uint(unix.EPERM)
		if errno != nil {
			n = *errno
		}
		return unix.SECCOMP_RET_ERRNO | uint32(n&unix.SECCOMP_RET_DATA), nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("seccomp action %q: unknown here", action)
}
