package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// Emulator is a program of this machine that runs the programs of another one
// in a sandbox whose Config names it, and there only. The sandbox has no file
// of it, but for one that must have: see carried.
type Emulator struct {
	machine *machine
	header  []byte
	file    string // of this machine, static
	handler string // the path at which the machine's handler looks for it, if there is one
	// carried is "" when the kernel can be told of the emulator for the
	// sandbox alone: then the sandbox has a user namespace of its own, with
	// the caller's ids and an instance of binfmt_misc. Else it is the path at
	// which the machine's handler looks for it in every root, and where it is
	// mounted while the process runs.
	carried string
}

// EmulatorError is why programs of another architecture cannot be run, and
// what to do.
type EmulatorError struct {
	Msg string
	Way string // out
}

func (e *EmulatorError) Error() string { return e.Msg }

// Hint returns the way out.
func (e *EmulatorError) Hint() string { return e.Way }

// Trial is how FindEmulator tries what it has found.
type Trial struct {
	// Isolation is that of the steps. It is asked only if there is something to
	// try: to know it may take a mount.
	Isolation func() Isolation
	// Known and Learn, which may be nil, read and keep what a trial has shown,
	// so that a rebuild has nothing to try. What Known returns may be old, or
	// anything.
	Known func() []byte
	Learn func([]byte)
}

// FindEmulator finds what a sandbox needs to run the programs of an
// architecture, as Go calls it: nil if nothing, because the machine runs them
// everywhere. What it finds has been tried, since this machine was started, in
// a sandbox. dir is BinfmtDir. The error is an *EmulatorError unless ctx has
// ended.
func FindEmulator(ctx context.Context, arch, dir string, t Trial) (*Emulator, error) {
	if CanRun(arch, dir) {
		return nil, nil
	}
	m := machineOf(arch)
	if m == nil {
		return nil, &EmulatorError{Msg: "no emulator is known", Way: "register one for " + arch + " (binfmt_misc, flag F)"}
	}
	h, registered := handlerOf(arch, dir)
	e := &Emulator{machine: m, header: elfHeader(arch), file: m.find(h.interpreter)}
	if registered && strings.HasPrefix(h.interpreter, "/") {
		e.handler = h.interpreter
	}
	facts := e.facts()
	if e.recall(facts, t.Known) {
		if e.file == "" {
			return nil, nil
		}
		return e, nil
	}
	err := e.try(ctx, t.Isolation())
	if err == nil && t.Learn != nil {
		t.Learn(e.learnt(facts))
	}
	if err != nil || e.file == "" {
		return nil, err
	}
	return e, nil
}

// try finds out how e can be used: without its file, where the machine runs the
// programs as it is; as the sandbox's own; or at the place where the machine's
// handler looks for it.
func (e *Emulator) try(ctx context.Context, how Isolation) error {
	// The machine's handlers may be out of sight, as they are in a container.
	if tryEmulator(ctx, how, e, nil) == nil {
		e.file = ""
		return nil
	}
	if e.file == "" {
		return &EmulatorError{
			Msg: fmt.Sprintf("no qemu-%s-static is in PATH", e.machine.emulate),
			Way: "as root: apt-get install qemu-user-static   (elsewhere: a static qemu-" + e.machine.emulate + " in PATH)",
		}
	}
	err := tryEmulator(ctx, how, e, e)
	if err != nil && e.handler != "" {
		e.carried = e.handler
		err = tryEmulator(ctx, how, e, e)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case how.Mode == Chroot:
		return &EmulatorError{
			Msg: fmt.Sprintf("%s is there, but steps run in a chroot here, which has no emulator of its own", e.file),
			Way: "register it for the whole machine, as root of the host: apt-get install binfmt-support qemu-user-static",
		}
	case how.Mode == OCI:
		return &EmulatorError{
			Msg: fmt.Sprintf("%s is there, but steps run in an OCI runtime (%s), which has no emulator of its own", e.file, how.Runtime),
			Way: "leave --isolation out: whittle's own sandbox carries it into the step; or register it for the whole machine, as root: apt-get install binfmt-support qemu-user-static",
		}
	}
	return &EmulatorError{
		Msg: fmt.Sprintf("%s is there, but runs nothing in a step: %v", e.file, err),
		Way: "a step's own emulator needs Linux 6.7, user namespaces and QEMU 6.0; or register it for the whole machine, as root: apt-get install binfmt-support qemu-user-static",
	}
}

// find returns the path of a static emulator for m: preferred, if it is one,
// or one from PATH.
func (m *machine) find(preferred string) string {
	for _, name := range []string{preferred, "qemu-" + m.emulate + "-static", "qemu-" + m.emulate} {
		path, err := exec.LookPath(name)
		if err == nil && isStatic(path) {
			return path
		}
	}
	return ""
}

// isStatic reports whether the program needs no loader, which would be looked
// for in the step's root.
func isStatic(name string) bool {
	interp, ok := initproc.Loader(name)
	return ok && interp == ""
}

// tryEmulator runs a program for the machine that of emulates in a root with
// nothing else in it, by means of e.
func tryEmulator(ctx context.Context, how Isolation, of, e *Emulator) error {
	program := of.machine.program(of.header)
	if how.Mode == Chroot {
		return tryInFolder(ctx, program, e)
	}
	root, err := programRoot("probe", program)
	if err != nil {
		return err
	}
	defer root.Close()
	return tryIn(ctx, &Config{Root: root, Isolation: how, Emulator: e})
}

// tryInFolder is tryEmulator where nothing can be mounted.
func tryInFolder(ctx context.Context, program []byte, e *Emulator) (err error) {
	dir, err := os.MkdirTemp("", "whittle-probe")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &Config{Isolation: Isolation{Mode: Chroot}, Scratch: dir + "/scratch", Emulator: e}
	for _, d := range []string{dir + "/root", c.Scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(dir+"/root/probe", program, 0o755); err != nil {
		return err
	}
	if c.Root, err = os.Open(dir + "/root"); err != nil {
		return err
	}
	defer c.Root.Close()
	return tryIn(ctx, c)
}

func tryIn(ctx context.Context, c *Config) error {
	c.Args = []string{"/probe"}
	st, err := Run(ctx, c)
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("a program that only ends has ended with %d", st.Code)
	}
	return err
}

// programRoot makes a root in memory with one program in it.
func programRoot(name string, program []byte) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, err
	}
	root := os.NewFile(uintptr(fd), "root")
	to, err := unix.Openat(fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o755)
	if err == nil {
		f := os.NewFile(uintptr(to), name)
		_, err = f.Write(program)
		err = errors.Join(err, f.Chmod(0o755), f.Close())
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// bring adds to the init's descriptors and Setup what it needs of e.
func (e *Emulator) bring(files []*os.File, s *initproc.Setup) ([]*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, e.file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return files, fmt.Errorf("%s: %w", e.file, err)
	}
	add := func(fd int, name string) int {
		files = append(files, os.NewFile(uintptr(fd), name))
		return initproc.FDMounts + len(files) - 3
	}
	at := add(fd, e.file)
	if e.carried != "" {
		s.Mounts = append(s.Mounts, initproc.Mount{Target: e.carried, FD: at, ReadOnly: true})
		return files, nil
	}
	// As the caller's own program: a step that is root here would else find
	// a way to the file itself through /proc/PID/exe.
	if err := readOnly(fd); err != nil {
		return files, fmt.Errorf("%s: %w", e.file, err)
	}
	magic, mask := e.machine.magic(e.header)
	s.Emulator = &initproc.Emulator{FD: at, Devices: -1, Magic: string(magic), Mask: string(mask)}
	devices, err := initproc.Devices()
	if errors.Is(err, unix.EPERM) {
		return files, nil // in a user namespace: then the init has no other rights
	}
	if err != nil {
		return files, fmt.Errorf("devices: %w", err)
	}
	s.Emulator.Devices = add(devices, "devices")
	return files, nil
}

// ownUserNS gives the init a user namespace that differs from the caller's in
// nothing but that it is another one.
func (l *launch) ownUserNS() error {
	m, err := sameIDs()
	if err != nil {
		return err
	}
	l.cloneflags |= unix.CLONE_NEWUSER
	l.ids = *m
	return nil
}
