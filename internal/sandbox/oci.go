package sandbox

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// An OCI runtime is another program that makes a sandbox. It is told by paths
// where things are, and leaves what it made when it is killed. So it runs below
// a process of whittle's, the host, in a mount namespace and a pid namespace of
// their own: all that it is told of by path is in that mount namespace alone,
// the runtime's notes too; and when the host ends, however that is, the kernel
// ends the runtime and the step. Only control groups outlive that, and those
// the keeper removes.

// RuntimeError is why an OCI runtime cannot be used.
type RuntimeError struct {
	Runtime string
	Err     error
}

func (e *RuntimeError) Error() string { return fmt.Sprintf("OCI runtime %s: %v", e.Runtime, e.Err) }
func (e *RuntimeError) Unwrap() error { return e.Err }

// Hint returns the way out.
func (e *RuntimeError) Hint() string {
	return "install it (Debian: apt-get install runc, or crun), or give its whole path, --isolation oci=/usr/sbin/runc; without --isolation no runtime is needed"
}

// Check finds the program that i names.
func (i Isolation) Check() error {
	if i.Mode != OCI {
		return nil
	}
	_, err := i.program()
	return err
}

// program is the path of the runtime.
func (i Isolation) program() (string, error) {
	name, err := exec.LookPath(i.Runtime)
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	// What /usr/sbin has, users who are not root have not in their PATH.
	if err != nil && !strings.Contains(i.Runtime, "/") {
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if found, serr := exec.LookPath(path.Join(dir, i.Runtime)); serr == nil {
				name, err = found, nil
				break
			}
		}
	}
	if err == nil {
		name, err = filepath.Abs(name)
	}
	var looked *exec.Error
	if errors.As(err, &looked) {
		err = unwrapPath(looked.Err)
	}
	if err != nil {
		return "", &RuntimeError{i.Runtime, err}
	}
	return name, nil
}

// ociOrder is what a host is told besides the Setup.
type ociOrder struct {
	Runtime  string
	ID       string
	Cgroup   string // path of the control group; "" is the runtime's choice
	UserNS   bool
	StatusFD int
}

// message is o with its length before it.
func (o *ociOrder) message() ([]byte, error) {
	b, err := json.Marshal(o)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...), err
}

// startOCI is Start with another runtime.
func startOCI(ctx context.Context, c *Config) (*Process, error) {
	if c.TTY || c.Stdin != nil {
		return nil, &StartError{Op: "runtime", Err: errors.New("a terminal, and input, are the native sandbox's alone")}
	}
	if c.Emulator != nil {
		return nil, &StartError{Op: "emulator", Err: errors.New("one of a step's own is the native sandbox's alone")}
	}
	program, err := c.Isolation.program()
	if err != nil {
		return nil, err
	}
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	files, err := sources(c, s)
	defer func() { closeAll(files) }()
	if err != nil {
		return nil, err
	}
	status, w, err := os.Pipe()
	if err != nil {
		return nil, &StartError{Op: "exec", Err: err}
	}
	files = append(files, w)
	o := ociOrder{Runtime: program, ID: "whittle-" + randomName(), UserNS: InUserNS(), StatusFD: 3 + len(files)}
	var group *runtimeGroup
	if !o.UserNS {
		group = newRuntimeGroup(c.Cgroup)
		o.Cgroup = group.path
		if err := group.hold(); err != nil {
			status.Close()
			return nil, &StartError{Op: "exec", Err: err}
		}
	}
	l := &launch{config: c, setup: s, files: files, cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, argv: argvOCI, dirs: group.dirs()}
	if l.order, err = o.message(); err != nil {
		status.Close()
		return nil, &StartError{Op: "exec", Err: err}
	}
	if s.OwnNet {
		l.cloneflags |= unix.CLONE_NEWNET
	}
	rootFD, err := unix.FcntlInt(c.Root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		status.Close()
		return nil, &StartError{Op: "root", Err: err}
	}
	p := &Process{root: os.NewFile(uintptr(rootFD), "root"), ended: make(chan struct{}), told: status, group: group}
	if err := p.start(ctx, l); err != nil {
		p.root.Close()
		status.Close()
		return nil, errors.Join(err, group.remove())
	}
	return p, nil
}

// ending reads what the host has told of the command's end, in the place of
// its own.
func (p *Process) ending(ws syscall.WaitStatus) syscall.WaitStatus {
	if p.told == nil {
		return ws
	}
	defer p.told.Close()
	var b [4]byte
	if n, err := p.told.Read(b[:]); err != nil || n != len(b) {
		return ws // it was killed
	}
	return syscall.WaitStatus(binary.BigEndian.Uint32(b[:]))
}

// runtimeGroup is the control group that a runtime makes for what it runs.
type runtimeGroup struct {
	path string // from the root of each hierarchy
	own  string // the part of it that only this run has
}

// newRuntimeGroup names a group below limits, if there is one, else one for
// the runtime alone: a device that a step makes is dead in it.
func newRuntimeGroup(limits *Cgroup) *runtimeGroup {
	own := groupName("/" + ownParent)
	if limits != nil {
		own = limits.group
	}
	return &runtimeGroup{path: path.Join(own, runtimesGroup), own: own}
}

// dirs are the folders that there may be, the innermost first.
func (g *runtimeGroup) dirs() []string {
	if g == nil {
		return nil
	}
	return inAllHierarchies(g.path, g.own, path.Dir(g.own))
}

// hold makes the part that only this run has. What a runtime makes has parents
// then that no other caller of whittle's takes for unused. What cannot be made
// the runtime says itself.
func (g *runtimeGroup) hold() error {
	if err := keepGroups(g.dirs()); err != nil {
		return err
	}
	for _, dir := range inAllHierarchies(g.own) {
		_ = makeV1Folder(strings.TrimSuffix(dir, g.own), dir)
	}
	return nil
}

// remove removes those that are there and that nobody else uses.
func (g *runtimeGroup) remove() error { return removeGroups(g.dirs()) }

// argvOCI is argv[0] of a host.
const argvOCI = "whittle-oci"

// runtimeFailed is the error of a runtime that did not start the command.
func runtimeFailed(name, said string) error {
	return &StartError{Op: "runtime", Path: filepath.Base(name), Err: errors.New(cmp.Or(said, "it ended without a word"))}
}
