package sandbox

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

var update = flag.Bool("update", false, "compile the profiles with libseccomp again (python3, libseccomp.so.2)")

// profileFor is moby's default profile as it is on another architecture.
func profileFor(goarch string, arches ...specs.Arch) *specs.LinuxSeccomp {
	all := seccomp.DefaultProfile()
	p := &all.LinuxSeccomp
	p.Architectures = arches
	for _, c := range all.Syscalls {
		if i := c.Includes; i != nil && (len(i.Caps) > 0 && !slices.Contains(initproc.CapNames(), i.Caps[0]) ||
			len(i.Arches) > 0 && !slices.Contains(i.Arches, goarch)) {
			continue
		}
		if e := c.Excludes; e != nil && (len(e.Caps) > 0 && slices.Contains(initproc.CapNames(), e.Caps[0]) || slices.Contains(e.Arches, goarch)) {
			continue
		}
		p.Syscalls = append(p.Syscalls, c.LinuxSyscall)
	}
	return p
}

func profiles() map[string]*specs.LinuxSeccomp {
	return map[string]*specs.LinuxSeccomp{
		"amd64": profileFor("amd64", specs.ArchX86_64, specs.ArchX86, specs.ArchX32),
		"arm64": profileFor("arm64", specs.ArchAARCH64, specs.ArchARM),
	}
}

// oracle is what libseccomp made of a profile.
type oracle struct {
	Program string   `json:"program"`
	Unknown []string `json:"unknown"` // names of calls newer than the libseccomp
}

func readOracle(t *testing.T, arch string, p *specs.LinuxSeccomp) (oracle, []bpf.Instruction) {
	t.Helper()
	file := "testdata/libseccomp_" + arch + ".json"
	if *update {
		in, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("python3", "testdata/libseccomp.py")
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
		out, err := cmd.Output()
		if err == nil {
			err = os.WriteFile(file, append(out, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var o oracle
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(o.Program)
	if err != nil {
		t.Fatal(err)
	}
	var prog []bpf.RawInstruction
	for ; len(raw) >= 8; raw = raw[8:] {
		prog = append(prog, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.LittleEndian.Uint32(raw[4:])})
	}
	ins, ok := bpf.Disassemble(prog)
	if !ok {
		t.Fatal("libseccomp's program does not disassemble")
	}
	return o, ins
}

func newVM(t *testing.T, prog []bpf.Instruction) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// verdictOf runs the program for one call. The VM reads words in network
// order, so they are written so.
func verdictOf(t *testing.T, vm *bpf.VM, audit, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	b := binary.BigEndian.AppendUint32(nil, nr)
	b = binary.BigEndian.AppendUint32(b, audit)
	b = append(b, make([]byte, 8)...)
	for _, a := range args {
		b = binary.BigEndian.AppendUint32(b, uint32(a))
		b = binary.BigEndian.AppendUint32(b, uint32(a>>32))
	}
	v, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

// interesting are arguments on both sides of all conditions of the profile.
var interesting = []uint64{
	0, 1, 8, 9, 37, 38, 39, 40, 41, 0x11, 0x20000, 0x20008, 0xffffffff, 0xfffffffe, 1 << 32, 1<<32 | 8, 1<<32 | 40, ^uint64(0),
	unix.CLONE_NEWNS, unix.CLONE_NEWUSER, unix.CLONE_NEWPID | 17, unix.CLONE_NEWCGROUP, unix.CLONE_NEWNET << 8, unix.CLONE_VM | unix.CLONE_VFORK | 17, unix.CLONE_NEWTIME,
}

func TestTheFilterDecidesEveryCallAsLibseccompDoes(t *testing.T) {
	for arch, p := range profiles() {
		prog, err := compileFilter(p)
		if err != nil {
			t.Fatal(err)
		}
		o, theirs := readOracle(t, arch, p)
		got, want := newVM(t, prog), newVM(t, theirs)
		for _, a := range abis {
			if !slices.Contains(p.Architectures, a.arch) {
				continue
			}
			compareCalls(t, a, p, o, got, want)
		}
	}
}

func compareCalls(t *testing.T, a abi, p *specs.LinuxSeccomp, o oracle, got, want *bpf.VM) {
	t.Helper()
	names, err := a.numbers()
	if err != nil {
		t.Fatal(err)
	}
	byNumber, last := map[uint32]string{}, uint32(0)
	for name, n := range names {
		byNumber[n] = name
	}
	for _, c := range p.Syscalls {
		for _, name := range c.Names {
			last = max(last, names[name])
		}
	}
	const nosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	differ := 0
	for n := range uint32(1200) {
		if n > last {
			if v := verdictOf(t, got, a.audit, a.base+n, [6]uint64{}); v != nosys {
				t.Errorf("%s: call %d: %#x, want ENOSYS", a.arch, n, v)
			}
			continue
		}
		if slices.Contains(o.Unknown, byNumber[n]) {
			if v := verdictOf(t, got, a.audit, a.base+n, [6]uint64{}); v != unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s: %s: %#x, want it allowed", a.arch, byNumber[n], v)
			}
			continue
		}
		for _, x := range interesting {
			y := x
			if takesInt(byNumber[n]) {
				y = uint64(uint32(x)) // here whittle is stricter
			}
			g, w := verdictOf(t, got, a.audit, a.base+n, [6]uint64{x, x}), verdictOf(t, want, a.audit, a.base+n, [6]uint64{y, y})
			if g != w {
				if differ++; differ < 10 {
					t.Errorf("%s: %d %q(%#x): got %#x, libseccomp %#x", a.arch, n, byNumber[n], x, g, w)
				}
			}
		}
	}
}

func TestAnotherArchitectureEndsTheProcess(t *testing.T) {
	for arch, p := range profiles() {
		prog, err := compileFilter(p)
		if err != nil {
			t.Fatal(err)
		}
		vm := newVM(t, prog)
		for _, audit := range []uint32{unix.AUDIT_ARCH_PPC64LE, unix.AUDIT_ARCH_S390X, 0, ^uint32(0)} {
			if v := verdictOf(t, vm, audit, 0, [6]uint64{}); v != unix.SECCOMP_RET_KILL_THREAD {
				t.Errorf("%s: audit %#x: %#x", arch, audit, v)
			}
		}
		if len(prog) > 4096 {
			t.Errorf("%s: %d instructions, the kernel takes 4096", arch, len(prog))
		}
	}
}

func TestArgumentConditionsCompare64Bits(t *testing.T) {
	values := []uint64{0, 1, 7, 8, 9, 1<<32 - 1, 1 << 32, 1<<32 + 7, 1<<32 + 8, 1<<32 + 9, 2 << 32, ^uint64(0)}
	for op, holds := range map[specs.LinuxSeccompOperator]func(a, v, w uint64) bool{
		specs.OpEqualTo:      func(a, v, _ uint64) bool { return a == v },
		specs.OpNotEqual:     func(a, v, _ uint64) bool { return a != v },
		specs.OpLessThan:     func(a, v, _ uint64) bool { return a < v },
		specs.OpLessEqual:    func(a, v, _ uint64) bool { return a <= v },
		specs.OpGreaterThan:  func(a, v, _ uint64) bool { return a > v },
		specs.OpGreaterEqual: func(a, v, _ uint64) bool { return a >= v },
		specs.OpMaskedEqual:  func(a, v, w uint64) bool { return a&v == w&v },
	} {
		for _, v := range values {
			for _, w := range []uint64{0, 8, 1 << 32} {
				// Two conditions in one rule: both must hold.
				p := &specs.LinuxSeccomp{
					DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
					Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
						{Index: 0, Op: op, Value: v, ValueTwo: w}, {Index: 5, Op: specs.OpEqualTo, Value: 3},
					}}},
				}
				prog, err := compileFilter(p)
				if err != nil {
					t.Fatal(err)
				}
				vm := newVM(t, prog)
				for _, a := range values {
					for _, last := range []uint64{3, 4} {
						want := holds(a, v, w) && last == 3
						got := verdictOf(t, vm, unix.AUDIT_ARCH_X86_64, 0, [6]uint64{a, 0, 0, 0, 0, last}) == unix.SECCOMP_RET_ALLOW
						if got != want {
							t.Errorf("%s: %#x with %#x, %#x: got %v", op, a, v, w, got)
						}
					}
				}
				// 32-bit calls have no high half to look at.
				a := uint64(9)
				want := holds(a, uint64(uint32(v)), uint64(uint32(w)))
				if got := verdictOf(t, vm, unix.AUDIT_ARCH_I386, 3, [6]uint64{a, 0, 0, 0, 0, 3}) == unix.SECCOMP_RET_ALLOW; got != want {
					t.Errorf("32 bits: %s: %#x with %#x, %#x: got %v", op, a, v, w, got)
				}
			}
		}
	}
}

func TestTheUpperHalfOfAnIntDoesNotOpenASocket(t *testing.T) {
	prog, err := compileFilter(profiles()["amd64"])
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []uint64{unix.AF_VSOCK, 1<<32 | unix.AF_VSOCK, 1<<63 | unix.AF_ALG} {
		if v := verdictOf(t, newVM(t, prog), unix.AUDIT_ARCH_X86_64, 41, [6]uint64{family}); v == unix.SECCOMP_RET_ALLOW {
			t.Errorf("socket(%#x) is allowed", family)
		}
	}
}

func TestWhatAFilterCannotExpressIsAnError(t *testing.T) {
	for name, c := range map[string]specs.LinuxSyscall{
		"action":   {Names: []string{"read"}, Action: specs.ActTrace},
		"operator": {Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_XX"}}},
		"argument": {Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}},
	} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{c}}
		if _, err := compileFilter(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := compileFilter(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchS390X}}); err == nil {
		t.Error("a foreign architecture alone: no error")
	}
}

func TestX32IsRefusedWhereTheProfileDoesNotHaveIt(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno}}}
	prog, err := compileFilter(p)
	if err != nil {
		t.Fatal(err)
	}
	if v := verdictOf(t, newVM(t, prog), unix.AUDIT_ARCH_X86_64, x32Bit, [6]uint64{}); v != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("got %#x", v)
	}
}

func TestTheTablesKnowTheProfilesCalls(t *testing.T) {
	known := map[string]bool{}
	for _, a := range abis {
		names, err := a.numbers()
		if err != nil {
			t.Fatal(err)
		}
		for name := range names {
			known[name] = true
		}
	}
	var missing []string
	for _, p := range profiles() {
		for _, c := range p.Syscalls {
			for _, name := range c.Names {
				if !known[name] {
					missing = append(missing, name)
				}
			}
		}
	}
	slices.Sort(missing)
	if got, want := strings.Join(slices.Compact(missing), " "), "riscv_hwprobe"; got != want {
		t.Errorf("not in any table: %s, want %q", got, want)
	}
}

func TestTheFilterWorksInTheKernel(t *testing.T) {
	c, out := shell(t, newRoot(t), "unshare -U true; unshare -m true; mount -t tmpfs x /tmp; hostname x; echo done")
	run(t, c)
	for _, want := range []string{"unshare(0x10000000): Operation not permitted", "unshare(0x20000): Operation not permitted", "mount", "sethostname: Operation not permitted", "done"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q: %s", want, out)
		}
	}
}
