package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// FDStatus is the descriptor at which what runs another runtime says how the
// command ended. In the place of FDMounts, which are one further.
const FDStatus = FDMounts

// Prepared is a root in which all is mounted that a sandbox has, but for the
// file systems of the kernel: those are left to who makes the namespaces.
type Prepared struct {
	Scratch string   // a tmpfs of this mount namespace's own
	Root    string   // where the root is mounted
	UID     int      // of the command
	GID     int      // of the command
	Groups  []uint32 // of the command, GID first; none where the user namespace forbids setgroups(2)
	Env     []string // with HOME
	Late    []Late   // what is to be mounted on the file systems of the kernel

	root root
	dir  int // working directory; -1: it is where the kernel's file systems will be
}

// Late is a mount at Target, of what lies at Source.
type Late struct {
	Source, Target string
	ReadOnly       bool
}

// Receive reads what the caller of this process sends first.
func Receive() (*Setup, error) { return readSetup() }

// Tell sends err, if there is one, to the caller.
func Tell(err error, s *Setup) {
	if err == nil {
		return
	}
	var se *StartError
	if !errors.As(err, &se) {
		se = &StartError{Op: "exec", Path: s.Args[0], Err: err}
	}
	tell(encodeStartError(se))
}

// Prepare mounts the root of s, and what s mounts in it, in this process's own
// mount namespace. The process is the first of a pid namespace. The file
// systems that are mounted hide one of the folders that avoid does not need.
func Prepare(s *Setup, avoid ...string) (*Prepared, error) {
	p := &initProc{Setup: s}
	unix.Umask(0)
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return nil, &StartError{Op: "namespace", Path: "mount", Err: err}
	}
	if p.OwnNet {
		if err := loopbackUp(); err != nil {
			return nil, &StartError{Op: "namespace", Path: "loopback", Err: err}
		}
	}
	proc, err := newFS("proc", attrNoExec)
	if err != nil {
		return nil, startError("mount", "/proc", fmt.Errorf("an OCI runtime needs one of its own: %w", err))
	}
	if err := nullOfItsOwn(); err != nil {
		return nil, startError("mount", "/dev/null", err)
	}
	etc, err := p.etcFiles()
	if err != nil {
		return nil, &StartError{Op: "mount", Path: "/etc", Err: err}
	}
	for i := range p.Mounts {
		if err := p.openSource(&p.Mounts[i]); err != nil {
			return nil, startError("mount", p.Mounts[i].Target, err)
		}
	}
	if err := unix.MoveMount(proc, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, startError("mount", "/proc", err)
	}
	if err := oneVersion(); err != nil {
		return nil, startError("mount", cgroupMount, err)
	}
	out, err := p.scratch(avoid)
	if err != nil {
		return nil, startError("root", "", err)
	}
	// Runtimes have followed links here out of the root (CVE-2026-41579).
	for _, name := range []string{"proc", "sys", "dev"} {
		fd, err := p.top(name)
		if err != nil {
			return nil, &StartError{Op: "mount", Path: "/" + name, Err: err}
		}
		unix.Close(fd)
	}
	for _, m := range append(etc, p.Mounts...) {
		if err := p.mountFor(out, m); err != nil {
			return nil, startError("mount", m.Target, err)
		}
	}
	return out, p.whoAndWhere(out)
}

// scratch mounts a tmpfs with the root in it.
func (p *initProc) scratch(avoid []string) (*Prepared, error) {
	top := ""
	for _, dir := range []string{"/tmp", "/mnt", "/run", "/media", "/srv"} {
		var st unix.Stat_t
		needed := func() bool {
			for _, a := range avoid {
				if a == dir || strings.HasPrefix(a, dir+"/") {
					return true
				}
			}
			return false
		}
		if unix.Lstat(dir, &st) == nil && isDir(&st) && !needed() {
			top = dir
			break
		}
	}
	if top == "" {
		return nil, errors.New("no folder to mount it on: want /tmp or /mnt")
	}
	fs, err := newFS("tmpfs", attrPlain, "mode=711")
	if err != nil {
		return nil, err
	}
	if err := unix.MoveMount(fs, "", unix.AT_FDCWD, top, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, err
	}
	out := &Prepared{Scratch: top, Root: top + "/root", dir: -1}
	if err := unix.Mkdir(out.Root, 0o755); err != nil {
		return nil, err
	}
	if err := unix.MoveMount(FDRoot, "", unix.AT_FDCWD, out.Root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, err
	}
	if !p.Insecure {
		if err := setAttrs(FDRoot, unix.MOUNT_ATTR_NODEV); err != nil {
			return nil, err
		}
	}
	id, err := mountID(FDRoot)
	p.root = root{fd: FDRoot, mount: id}
	out.root = p.root
	return out, err
}

// nullOfItsOwn puts a /dev/null that is nobody else's where stdin, stdout and
// stderr are the caller's: not every runtime does.
func nullOfItsOwn() error {
	dir, err := ownDevices(nil)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for fd := range 3 {
		if !isNull(fd) {
			continue
		}
		null, err := unix.Openat(dir, "null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Dup3(null, fd, 0)
		unix.Close(null)
		if err != nil {
			return err
		}
	}
	return nil
}

// oneVersion hides control groups of version 2 beside those of version 1: there
// are runtimes that refuse to run where both are, and none needs them. What is
// seen in the end is the rest, in a folder of its own.
func oneVersion() error {
	if _, err := os.Stat(cgroupMount + "/unified/cgroup.controllers"); err != nil {
		return nil
	}
	list, err := os.ReadDir(cgroupMount)
	if err != nil {
		return err
	}
	fds := map[string]int{}
	for _, e := range list {
		if !e.IsDir() || e.Name() == "unified" {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, path.Join(cgroupMount, e.Name()), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return err
		}
		fds[e.Name()] = fd
		defer unix.Close(fd)
	}
	links := map[string]string{} // cpu -> cpu,cpuacct
	for _, e := range list {
		if to, err := os.Readlink(path.Join(cgroupMount, e.Name())); err == nil {
			links[e.Name()] = to
		}
	}
	fs, err := newFS("tmpfs", attrNoExec, "mode=755")
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.MoveMount(fs, "", unix.AT_FDCWD, cgroupMount, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	for name, fd := range fds {
		if err := unix.Mkdirat(fs, name, 0o755); err != nil {
			return err
		}
		if err := moveTo(fd, fs, name); err != nil {
			return err
		}
	}
	for name, to := range links {
		if err := unix.Symlinkat(to, fs, name); err != nil {
			return err
		}
	}
	return nil
}

// kernels says whether target, a path in the root without links, lies where
// the kernel's file systems will be mounted.
func kernels(target string) bool {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if target == dir || strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return false
}

// inRoot is the path, without links, of what fd has open in the root.
func (out *Prepared) inRoot(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf)
	if err != nil {
		return "", err
	}
	name, ok := strings.CutPrefix(string(buf[:n]), out.Root)
	if !ok {
		return "", errors.New("it is outside the root")
	}
	return path.Join("/", name), nil
}

// mountFor mounts m in the root, unless it has to lie on something that is not
// there yet.
func (p *initProc) mountFor(out *Prepared, m Mount) error {
	var st unix.Stat_t
	if err := unix.Fstatat(m.FD, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	fd, err := p.maker().place(m.Target, isDir(&st))
	if err != nil {
		return err
	}
	target, err := out.inRoot(fd)
	unix.Close(fd)
	if err != nil || !kernels(target) {
		if err == nil {
			err = p.mount(m)
		}
		return err
	}
	if strings.HasPrefix(target+"/", "/proc/") {
		return errors.New("nothing can be mounted in /proc")
	}
	if m.tmpfs {
		if err := p.adoptMode(m); err != nil {
			return err
		}
	}
	l := Late{Source: fmt.Sprintf("%s/late-%d", out.Scratch, len(out.Late)), Target: target, ReadOnly: m.ReadOnly}
	if isDir(&st) {
		err = unix.Mkdir(l.Source, 0o755)
	} else {
		err = unix.Mknod(l.Source, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return err
	}
	out.Late = append(out.Late, l)
	return unix.MoveMount(m.FD, "", unix.AT_FDCWD, l.Source, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// whoAndWhere finds the command's user and makes its working directory.
func (p *initProc) whoAndWhere(out *Prepared) error {
	// Runtimes read them too, and would wait for what is no file.
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		if _, err := p.root.database(name); err != nil {
			return err
		}
	}
	who, err := p.identity()
	if err != nil {
		return startError("user", p.User, err)
	}
	out.UID, out.GID, out.Groups, out.Env = who.uid, who.gid, who.groups, withHome(p.Env, who.home)
	if groupsDenied() {
		out.Groups = nil
	}
	if err := ownPipes(who); err != nil {
		return who.explain("pipe", err)
	}
	dir := p.Dir
	if dir == "" {
		dir = "/"
	}
	fd, err := p.workDir(dir, who)
	if err != nil {
		return startError("dir", p.Dir, err)
	}
	name, err := out.inRoot(fd)
	if err != nil {
		return startError("dir", p.Dir, err)
	}
	if !kernels(name) {
		out.dir = fd
	}
	return nil
}

// Try executes the command as far as to its first instruction, which it does
// not come to, and returns why that is not possible: runtimes say so each in
// words of their own, and some in a way that looks like an end of the command's.
// It needs a thread that is locked.
func (out *Prepared) Try(s *Setup) error {
	name := s.Args[0]
	if out.dir < 0 || kernels(path.Clean(name)) {
		return nil // what it is shows when the kernel's file systems are there
	}
	if err := unix.Fchdir(out.dir); err != nil {
		return &StartError{Op: "dir", Path: s.Dir, Err: err}
	}
	if strings.Contains(name, "/") {
		return out.try(name, s)
	}
	list := defaultPath
	for _, v := range out.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			list = p
		}
	}
	for dir := range strings.SplitSeq(list, ":") {
		if dir == "" {
			dir = "."
		}
		if !out.isFile(dir + "/" + name) {
			continue
		}
		if err := out.try(dir+"/"+name, s); !errors.Is(err, unix.EACCES) {
			return err
		}
	}
	e := &StartError{Op: "exec", Path: name, Err: ErrNotInPath}
	switch {
	case out.isFile("/" + name):
		e.Found = "/" + name
	case out.isFile(name):
		e.Found = path.Join("/", s.Dir, name)
	}
	return e
}

// open opens what the command would by that name.
func (out *Prepared) open(name string) (int, error) {
	if path.IsAbs(name) {
		return out.root.open(name, unix.O_PATH)
	}
	dir, err := out.inRoot(out.dir)
	if err != nil {
		return -1, err
	}
	return out.root.open(path.Join(dir, name), unix.O_PATH)
}

func (out *Prepared) isFile(name string) bool {
	fd, err := out.open(name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// try executes file in a traced process: the kernel stops that one before the
// first instruction of the program, and there it ends.
func (out *Prepared) try(file string, s *Setup) error {
	null := uintptr(0)
	pid, err := syscall.ForkExec(file, s.Args, &syscall.ProcAttr{
		Env: out.Env, Files: []uintptr{null, null, null},
		Sys: &syscall.SysProcAttr{
			Ptrace: true, Chroot: fmt.Sprintf("/proc/self/fd/%d", out.root.fd), Pdeathsig: syscall.SIGKILL,
			Credential: &syscall.Credential{Uid: uint32(out.UID), Gid: uint32(out.GID), Groups: out.Groups, NoSetGroups: out.Groups == nil},
		},
	})
	if err != nil {
		e := &StartError{Op: "exec", Path: file, Err: err}
		out.explain(e)
		return e
	}
	var ws syscall.WaitStatus
	for range 2 { // stopped, and ended
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
			return err
		}
		if !ws.Stopped() {
			break
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

// explain is explainExec, from outside of the root.
func (out *Prepared) explain(e *StartError) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A thread with a root of its own, which ends with it.
		runtime.LockOSThread()
		if unix.Unshare(unix.CLONE_FS) != nil || unix.Fchdir(out.root.fd) != nil || unix.Chroot(".") != nil || unix.Fchdir(out.dir) != nil {
			return
		}
		explainExec(e)
	}()
	<-done
}

// Close closes what only preparing needs.
func (out *Prepared) Close() {
	for fd := FDRoot; fd < FDStatus; fd++ {
		unix.Close(fd)
	}
	if out.dir >= 0 {
		unix.Close(out.dir)
	}
	os.Chdir("/")
}

// HasGroup says whether the user namespace has a group of that number.
func HasGroup(gid int) bool {
	b, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 && gid >= inside && gid-inside < count {
			return true
		}
	}
	return false
}
