package initproc

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	attrPlain   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	attrNoExec  = attrPlain | unix.MOUNT_ATTR_NOEXEC
	attrROData  = attrNoExec | unix.MOUNT_ATTR_RDONLY
	defaultShm  = 64 << 20
	procMagic   = unix.PROC_SUPER_MAGIC
	cgroupMount = "/sys/fs/cgroup"
)

// makeRoot makes the file system that the command sees and enters it. The
// process is alone in a copy of the caller's mount namespace: what it mounts
// on top of the caller's "/" vanishes with that, in pivot.
func (p *initProc) makeRoot() error {
	if p.kernel == nil {
		if err := ownMounts(); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
		return &StartError{Op: "namespace", Path: "hostname " + p.Hostname, Err: err}
	}
	if p.OwnNet {
		if err := loopbackUp(); err != nil {
			return &StartError{Op: "namespace", Path: "loopback", Err: err}
		}
	}
	if p.SharedPIDs {
		if err := tellWho(); err != nil {
			return startError("namespace", "mount", err)
		}
	}
	instance := -1
	if p.Emulator != nil { // while the caller's /proc is in sight
		var err error
		if instance, err = p.Emulator.register(); err != nil {
			return startError("emulator", "", err)
		}
	}
	if p.kernel == nil {
		var err error
		if p.kernel, err = newKernelFS(p.Setup); err != nil {
			return err
		}
	}
	etc, err := p.etcFiles()
	if err != nil {
		return &StartError{Op: "mount", Path: "/etc", Err: err}
	}
	for i := range p.Mounts {
		if err := p.openSource(&p.Mounts[i]); err != nil {
			return startError("mount", p.Mounts[i].Target, err)
		}
	}
	if err := p.attachRoot(); err != nil {
		return startError("root", "", err)
	}
	if instance >= 0 {
		if err := p.hideEmulator(instance); err != nil {
			return startError("mount", "/dev", err)
		}
	}
	if err := p.attachKernelFS(); err != nil {
		return err
	}
	for _, m := range append(etc, p.Mounts...) {
		if err := p.mount(m); err != nil {
			return startError("mount", m.Target, err)
		}
	}
	return startError("root", "", p.pivot())
}

// tellWho tells the caller which process this is, and by what to know others of
// the sandbox.
func tellWho() error {
	var st unix.Stat_t
	err := unix.Stat("/proc/thread-self/ns/mnt", &st)
	tell(encodeWho(unix.Getpid(), st.Ino))
	return err
}

// leaveChroot makes "/" the root of the mount namespace, which it is not where
// the caller runs in a chroot. There pivot_root would fail or, worse, leave the
// machine's root below the sandbox's, for whoever may call chroot himself:
// pivot_root(2), chroot(2).
func leaveChroot() error {
	// setns(2) refuses a thread that shares its root with others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return unix.Setns(ns, unix.CLONE_NEWNS)
}

// newFS makes a file system that is attached nowhere. Options are key=value.
func newFS(kind string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for _, o := range append([]string{"source=" + kind}, options...) {
		key, value, _ := strings.Cut(o, "=")
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
}

// clone makes a detached mount of the file at fd, which is attached in this
// process's mount namespace, and of what is mounted below it.
func clone(fd int) (int, error) {
	return unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
}

// attach mounts what on the file at.
func attach(what, at int) error {
	return unix.MoveMount(what, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// attachOutside mounts what where the command will not see it, since only what
// is attached somewhere can be cloned in part, before Linux 6.15. It is mounted
// on the caller's /proc, of which this process has no need; not on "/", where
// pivot must find the caller's root on top.
func attachOutside(what int) error {
	return unix.MoveMount(what, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func setAttrs(fd int, attrs uint64) error {
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE})
}

// attachRoot mounts the root on top of the caller's "/". Device files in it
// are dead, whoever made them: the devices of a sandbox are those in its /dev.
func (p *initProc) attachRoot() error {
	if err := unix.MoveMount(p.rootFD, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if !p.Insecure {
		if err := setAttrs(p.rootFD, unix.MOUNT_ATTR_NODEV); err != nil {
			return err
		}
	}
	id, err := mountID(p.rootFD)
	p.root = root{fd: p.rootFD, mount: id}
	return err
}

// pivot makes the root "/" and lets go of the caller's.
func (p *initProc) pivot() error {
	if p.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(p.root.fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return err
		}
	}
	if err := unix.Fchdir(p.root.fd); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root is now on top of the new one, and "." is where it is.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount of the old root: %w", err)
	}
	return unix.Chdir("/")
}

// maker returns what makes mount points, and reports those that lie in the
// root itself and not on something mounted there.
func (p *initProc) maker() *maker {
	return &maker{root: p.root, mode: 0o755, made: func(parent int, physical string, dir bool, before int64) error {
		id, err := mountID(parent)
		if err != nil || id != p.root.mount {
			return err
		}
		s, err := describe(parent, physical, dir, before)
		if err == nil {
			tell(encodeStub(s))
		}
		return err
	}}
}

// top opens the directory name at the top of the root, and makes it if it
// does not exist. It must be a directory and no link: an image that says
// otherwise wants something mounted, or made, elsewhere (CVE-2026-41579).
func (p *initProc) top(name string) (int, error) {
	m := p.maker()
	fd, err := m.openPlain(name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if err := m.makeTop(name); err != nil {
			return -1, err
		}
		return m.openPlain(name, unix.O_PATH|unix.O_DIRECTORY)
	}
	if errors.Is(err, unix.ELOOP) {
		err = errLink
	}
	return fd, err
}

var errLink = errors.New("it is a symbolic link in the image")

func (m *maker) makeTop(name string) error {
	fd, err := m.openPlain(".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return m.makeAt(fd, name, name, true)
}

// openSource makes m.FD a detached mount of what m binds.
func (p *initProc) openSource(m *Mount) error {
	attrs := uint64(unix.MOUNT_ATTR_NODEV)
	if m.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if m.File != nil {
		fd, err := m.File.open()
		if m.FD = fd; err != nil {
			return err
		}
		attrs |= attrNoExec
		if m.File.Mode&0o111 != 0 {
			attrs = attrs&^unix.MOUNT_ATTR_NOEXEC | attrPlain
		}
		return setAttrs(m.FD, attrs)
	}
	if m.FD < 0 {
		if err := checkTmpfs(m.Options); err != nil {
			return err
		}
		fd, err := newFS("tmpfs", attrPlain, m.Options...) // read-only when it has its mode, see mount
		m.FD, m.tmpfs = fd, true
		return err
	}
	if m.Sub != "" {
		if err := attachOutside(m.FD); err != nil {
			return err
		}
		src := root{fd: m.FD}
		sub, err := src.open(m.Sub, unix.O_PATH)
		if err != nil {
			return fmt.Errorf("source %s: %w", m.Sub, err)
		}
		if m.FD, err = clone(sub); err != nil {
			return fmt.Errorf("source %s: %w", m.Sub, err)
		}
	}
	return setAttrs(m.FD, attrs)
}

// checkTmpfs refuses options that are not in the closed list.
func checkTmpfs(options []string) error {
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if !slices.Contains([]string{"size", "mode", "uid", "gid", "nr_inodes"}, key) || value == "" {
			return fmt.Errorf("tmpfs option %q: want size=, mode=, uid=, gid= or nr_inodes=", o)
		}
	}
	return nil
}

// mount attaches m.FD at its target.
func (p *initProc) mount(m Mount) error {
	var st unix.Stat_t
	if err := unix.Fstatat(m.FD, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if m.tmpfs {
		if err := p.adoptMode(m); err != nil {
			return err
		}
	}
	fd, err := p.maker().place(m.Target, isDir(&st))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type == procMagic {
		return errors.New("nothing can be mounted in /proc")
	}
	var there unix.Stat_t
	if err := unix.Fstatat(fd, "", &there, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if folder, over := isDir(&st), isDir(&there); folder && !over {
		return errors.New("a folder cannot be mounted on the file that is there")
	} else if over && !folder {
		return errors.New("a file cannot be mounted on the folder that is there")
	}
	return attach(m.FD, fd)
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// adoptMode gives a tmpfs that says no mode that of the directory which it
// hides, as runc does.
func (p *initProc) adoptMode(m Mount) error {
	at, err := p.root.open(m.Target, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) {
		err = unix.ENOENT // a file, which mount refuses
	}
	said := slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") })
	if err == nil && !said {
		var st unix.Stat_t
		if err = unix.Fstatat(at, "", &st, unix.AT_EMPTY_PATH); err == nil {
			err = unix.Fchmodat(m.FD, ".", st.Mode&0o7777, 0)
		}
	}
	if at >= 0 {
		unix.Close(at)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if !m.ReadOnly {
		return nil
	}
	return setAttrs(m.FD, unix.MOUNT_ATTR_RDONLY)
}

// etcFiles makes the generated files of /etc, as mounts of their own.
func (p *initProc) etcFiles() ([]Mount, error) {
	if !p.Etc {
		return nil, nil
	}
	fs, err := newFS("tmpfs", attrNoExec, "mode=755", "size=1m")
	if err != nil {
		return nil, err
	}
	if err := attachOutside(fs); err != nil {
		return nil, err
	}
	var list []Mount
	for _, f := range []struct{ name, content string }{{"hosts", p.Hosts}, {"resolv.conf", p.ResolvConf}} {
		if err := writeAt(fs, f.name, f.content); err != nil {
			return nil, err
		}
		r := root{fd: fs}
		fd, err := r.openPlain(f.name, unix.O_PATH)
		if err != nil {
			return nil, err
		}
		m := Mount{Target: "/etc/" + f.name}
		if m.FD, err = clone(fd); err != nil {
			return nil, err
		}
		if p.EtcRO {
			err = setAttrs(m.FD, attrROData)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// open makes the file in a tmpfs of its own.
func (f *File) open() (int, error) {
	fs, err := newFS("tmpfs", attrPlain, "mode=700", fmt.Sprintf("size=%d", len(f.Content)+1<<16))
	if err != nil {
		return -1, err
	}
	if err := attachOutside(fs); err != nil {
		return -1, err
	}
	const name = "file"
	if err := writeAt(fs, name, string(f.Content)); err != nil {
		return -1, err
	}
	r := root{fd: fs}
	fd, err := r.openPlain(name, unix.O_RDONLY)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchown(fd, f.UID, f.GID); err != nil {
		return -1, identity{uid: f.UID, gid: f.GID}.explain("mount", err)
	}
	if err := unix.Fchmod(fd, f.Mode&0o777); err != nil {
		return -1, err
	}
	return clone(fd)
}

func writeAt(dir int, name, content string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for b := []byte(content); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// ShmOption is the tmpfs option for a size; 0 is the default of /dev/shm.
func ShmOption(n int64) string {
	if n <= 0 {
		n = defaultShm
	}
	return "size=" + strconv.FormatInt(n, 10)
}
