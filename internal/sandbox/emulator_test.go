package sandbox

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// foreign are the architectures that a test can have emulated.
var foreign = []string{"386", "amd64", "arm", "arm64", "riscv64", "ppc64le", "s390x", "loong64", "mips", "mipsle", "mips64", "mips64le"}

// needEmulator returns an architecture that needs an emulator here, and the emulator.
func needEmulator(t testing.TB, arch string) *Emulator {
	t.Helper()
	needSandbox(t)
	if native(arch) {
		t.Skipf("needs a machine that does not run %s itself", arch)
	}
	if _, err := exec.LookPath("qemu-" + machineOf(arch).emulate + "-static"); err != nil {
		t.Skip("needs qemu-user-static")
	}
	e, err := FindEmulator(t.Context(), arch, t.TempDir(), Trial{Isolation: nativeSteps})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The program that is the probe says whether argv[0] is handed on, too: an
// emulator that does not know that it is would see one argument more.
func TestTheProbeIsAProgramForEveryArchitecture(t *testing.T) {
	for _, arch := range foreign {
		t.Run(arch, func(t *testing.T) {
			m := machineOf(arch)
			qemu, err := exec.LookPath("qemu-" + m.emulate + "-static")
			if err != nil {
				t.Skip("needs qemu-user-static")
			}
			name := filepath.Join(t.TempDir(), "probe")
			if err := os.WriteFile(name, m.program(elfHeader(arch)), 0o755); err != nil {
				t.Fatal(err)
			}
			if f, err := elf.Open(name); err != nil || len(f.Progs) != 1 {
				t.Fatalf("%v, error %v", f, err)
			}
			if out, err := exec.Command(qemu, name).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			var exit *exec.ExitError
			if err := exec.Command(qemu, name, "one", "two").Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("with two arguments: %v, want exit status 2", err)
			}
		})
	}
}

func TestEveryArchitectureIsEmulatedOrSaysWhatIsMissing(t *testing.T) {
	for _, arch := range foreign {
		needEmulatorOrNative(t, arch)
	}
	if native("s390x") {
		t.Skip("needs a machine that is not s390x")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := FindEmulator(t.Context(), "s390x", t.TempDir(), Trial{Isolation: nativeSteps})
	var none *EmulatorError
	if !errors.As(err, &none) || !strings.Contains(none.Hint(), "apt-get install qemu-user-static") {
		t.Errorf("without an emulator: %v", err)
	}
	addFiles(t, os.Getenv("PATH"), "qemu-s390x-static=#!/bin/sh\n") // is no emulator
	if _, err = FindEmulator(t.Context(), "s390x", t.TempDir(), Trial{Isolation: nativeSteps}); !errors.As(err, &none) || !strings.Contains(err.Error(), "no qemu-s390x-static") {
		t.Errorf("with a script in its place: %v", err)
	}
	if _, err = FindEmulator(t.Context(), "pdp11", t.TempDir(), Trial{Isolation: nativeSteps}); !errors.As(err, &none) {
		t.Errorf("pdp11: %v", err)
	}
}

func needEmulatorOrNative(t *testing.T, arch string) {
	t.Helper()
	if !native(arch) {
		needEmulator(t, arch)
	}
}

// foreignShell is a script in a root with the test's own shell, and busybox of another
// machine beside it, which the script calls far.
func foreignShell(t *testing.T, script string) (dir string, c *Config, out *bytes.Buffer) {
	t.Helper()
	e := needEmulator(t, "arm64")
	dir = newRoot(t)
	busybox := exec.Command("tar", "-xOf", filepath.Join(standins(), "busybox-arm64.tar"), "./bin/ash") // the first of its hard links
	b, err := busybox.Output()
	if err != nil {
		t.Skipf("needs the stand-in busybox-arm64 (standins/make): %v", err)
	}
	addFiles(t, dir, "arm/")
	if err := os.WriteFile(filepath.Join(dir, "arm/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	c, out = shell(t, dir, strings.ReplaceAll(script, "far ", "/arm/busybox "))
	c.Emulator = e
	return dir, c, out
}

func standins() string {
	if dir := os.Getenv("STANDINS_DIR"); dir != "" {
		return dir
	}
	return "../../.cache/standins"
}

func TestAnEmulatedProcessHasTheRightsOfAnother(t *testing.T) {
	const script = `
grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status
umask; pwd; env | busybox sort; hostname; ls -l /dev | grep -v total
cd /tmp; echo x >a; chown 33:34 a; stat -c %u:%g:%a a
mount -t tmpfs x /mnt 2>&1; cat /proc/filesystems >/dev/null; ls -A /proc/sys/fs/binfmt_misc; ls -A /dev/mqueue`
	_, c, out := foreignShell(t, script)
	run(t, c)
	plain, want := shell(t, newRoot(t), script)
	run(t, plain)
	times := regexp.MustCompile(`[A-Z][a-z]{2} +\d+ \d\d:\d\d`)
	got, wants := strings.Split(times.ReplaceAllString(out.String(), "-"), "\n"), strings.Split(times.ReplaceAllString(want.String(), "-"), "\n")
	for i := range max(len(got), len(wants)) {
		if i >= len(got) || i >= len(wants) || got[i] != wants[i] {
			t.Fatalf("it sees %q, and without an emulator %q", got[min(i, len(got)):], wants[min(i, len(wants)):])
		}
	}
}

func TestProgramsOfAnotherMachineRunAndTheirChildrenDo(t *testing.T) {
	dir, c, out := foreignShell(t, `far uname -m; far sh -c 'far sh -c "far uname -m; /bin/busybox uname -m; echo \$0 \$1" zero one'; far cat /proc/self/comm; exec far sh -c 'exit 7'`)
	st, err := Run(t.Context(), c)
	if err != nil || st.Code != 7 {
		t.Fatalf("status %+v, error %v, output %s", st, err, out)
	}
	own := map[string]string{"amd64": "x86_64"}[runtime.GOARCH]
	expect(t, "output", out.String(), "aarch64\naarch64\n"+own+"\nzero one\nbusybox\n")
	// Not without it, and nothing of it is left.
	c.Emulator, c.Root = nil, openPath(t, dir)
	if st, err := Run(t.Context(), c); err != nil || st.Code == 7 {
		t.Errorf("without the emulator: status %+v, error %v", st, err)
	}
	expect(t, "files", strings.Join(filesIn(t, dir), " "), "arm bin etc tmp")
}

func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// The step is root in a user namespace whose root is the caller's: what keeps
// it from the machine's files is that it has no way to them but read-only ones.
func TestAnEmulatedProcessCannotChangeTheEmulatorNorTheMachinesDevices(t *testing.T) {
	_, c, out := foreignShell(t, `
far sh -c 'echo up >/tmp/up; far sleep 9' & pid=$!
for i in 1 2 3 4 5 6 7 8 9; do test -s /tmp/up || sleep 1; done
echo x 2>&1 >>/proc/$pid/exe
chmod 4755 /proc/$pid/exe 2>&1
chmod 640 /dev/null 2>/dev/null
mknod /tmp/null c 1 3 2>&1
exit 0`)
	var before, after unix.Stat_t
	if err := unix.Stat("/dev/null", &before); err != nil {
		t.Fatal(err)
	}
	run(t, c)
	if err := unix.Stat("/dev/null", &after); err != nil {
		t.Fatal(err)
	}
	if before.Mode != after.Mode || before.Ctim != after.Ctim {
		t.Errorf("the machine's /dev/null had mode %o and has %o, ctime %v and %v", before.Mode, after.Mode, before.Ctim, after.Ctim)
	}
	if !regexp.MustCompile(`chmod: /proc/\d+/exe: Read-only file system`).MatchString(out.String()) {
		t.Errorf("output %q: the emulator must be on a read-only mount", out)
	}
	if !strings.Contains(out.String(), "mknod: /tmp/null: Operation not permitted") {
		t.Errorf("output %q: a device was made", out)
	}
}

// On kernels without binfmt_misc for a user namespace the emulator is carried
// to where the machine's handler, one without flag F, looks for it.
func TestAnEmulatorIsCarriedToWhereTheHandlerLooksForIt(t *testing.T) {
	if !InUserNS() {
		t.Skip("needs an unprivileged user's namespace, whose handlers are not the machine's (TestAllTestsPassInAUserNamespace)")
	}
	dir, c, out := foreignShell(t, `far uname -m; ls -A /emu`)
	e := *c.Emulator
	instance := t.TempDir()
	if err := unix.Mount("binfmt_misc", instance, "binfmt_misc", 0, ""); err != nil {
		t.Skipf("needs Linux 6.7: %v", err)
	}
	defer unix.Unmount(instance, unix.MNT_DETACH)
	magic, mask := e.machine.magic(e.header)
	line := fmt.Sprintf(":emu:M::%s:%s:/emu/qemu:POC", hexed(magic), hexed(mask))
	if err := os.WriteFile(filepath.Join(instance, "register"), []byte(line), 0o200); err != nil {
		t.Fatal(err)
	}
	if h, ok := handlerOf("arm64", instance); !ok || h.fixed || h.interpreter != "/emu/qemu" {
		t.Fatalf("handler %+v, %v", h, ok)
	}
	e.carried = "/emu/qemu"
	c.Emulator = &e
	run(t, c)
	expect(t, "output", out.String(), "aarch64\nqemu\n")
	expect(t, "files", strings.Join(filesIn(t, dir), " "), "arm bin etc tmp")
	if err := tryEmulator(t.Context(), Isolation{}, &e, &e); err != nil {
		t.Error(err)
	}
	if err := tryEmulator(t.Context(), Isolation{}, &e, nil); err == nil {
		t.Error("it runs without being carried")
	}
	// A handler that has it open needs nothing.
	remove := os.WriteFile(filepath.Join(instance, "emu"), []byte("-1"), 0o200)
	line = fmt.Sprintf(":emu:M::%s:%s:%s:POCF", hexed(magic), hexed(mask), e.file)
	if err := errors.Join(remove, os.WriteFile(filepath.Join(instance, "register"), []byte(line), 0o200)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{instance, t.TempDir()} { // seen, and out of sight
		if found, err := FindEmulator(t.Context(), "arm64", dir, Trial{Isolation: nativeSteps}); found != nil || err != nil {
			t.Errorf("with a handler for every root: %+v, %v", found, err)
		}
	}
}

func hexed(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

func nativeSteps() Isolation { return Isolation{} }

func TestForThisMachinesProgramsNobodyAsksHowStepsRun(t *testing.T) {
	e, err := FindEmulator(t.Context(), runtime.GOARCH, t.TempDir(), Trial{Isolation: func() Isolation {
		t.Error("it was asked for, which may take a mount")
		return Isolation{}
	}})
	if e != nil || err != nil {
		t.Errorf("got %v, %v", e, err)
	}
}

// What was tried is not tried again, until something about it is another.
func TestATrialIsRemembered(t *testing.T) {
	needEmulator(t, "arm64")
	var memo []byte
	tried := 0
	find := func() (*Emulator, error) {
		return FindEmulator(t.Context(), "arm64", t.TempDir(), Trial{
			Isolation: func() Isolation { tried++; return Isolation{} },
			Known:     func() []byte { return memo },
			Learn:     func(b []byte) { memo = b },
		})
	}
	first, err := find()
	if err != nil || tried != 1 {
		t.Fatalf("%d trials, error %v", tried, err)
	}
	again, err := find()
	if err != nil || tried != 1 || again.file != first.file || again.carried != first.carried {
		t.Errorf("%d trials: %+v, error %v", tried, again, err)
	}
	if err := tryEmulator(t.Context(), Isolation{}, again, again); err != nil {
		t.Error(err)
	}
	qemu := filepath.Join(t.TempDir(), filepath.Base(first.file))
	b, err := os.ReadFile(first.file)
	if err := errors.Join(err, os.WriteFile(qemu, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(qemu))
	if other, err := find(); err != nil || tried != 2 || other.file != qemu {
		t.Errorf("with another emulator: %d trials: %+v, error %v", tried, other, err)
	}
	for _, stale := range []string{"", "null", "{", string(memo[:len(memo)/2]), strings.Replace(string(memo), qemu, first.file, 1)} {
		memo = []byte(stale)
		before := tried
		if _, err := find(); err != nil || tried != before+1 {
			t.Errorf("%q is believed: error %v", stale, err)
		}
	}
}
