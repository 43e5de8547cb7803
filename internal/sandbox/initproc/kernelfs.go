package initproc

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"
)

// kernelFS are the file systems that every sandbox has, made while the
// caller's are still in sight: the kernel lets a user namespace make a /proc
// only where one can be seen.
type kernelFS struct {
	proc, sys, dev, pts, shm int
	mqueue, cgroup           int      // -1: the kernel has none
	devices                  []device // detached, each of the host's file
	null, empty              int      // attached, to be cloned as masks
	insecure                 bool     // nothing is masked or read-only
	emulator                 *Emulator
	furnished                bool // all that lies in proc, sys and dev is there
}

type device struct {
	name string
	fd   int
}

// defaultDevices are the host's devices in /dev, by number: major, minor.
var defaultDevices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// devLinks are the symbolic links in /dev.
var devLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
	{"ptmx", "pts/ptmx"},
}

// The paths that Docker hides, and makes read-only; relative to /proc and /sys.
// Never written to.
var (
	ProcMasked   = []string{"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"}
	ProcReadOnly = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}
	SysMasked    = []string{"firmware", "devices/virtual/powercap"}
)

func newKernelFS(s *Setup) (*kernelFS, error) {
	k := &kernelFS{mqueue: -1, cgroup: -1, insecure: s.Insecure, emulator: s.Emulator}
	data, dev := uint64(attrROData), attrPlain
	proc := func() (int, error) { return newFS("proc", attrNoExec) }
	if s.SharedPIDs {
		proc = func() (int, error) { return bindHost("/proc", attrNoExec) }
	}
	if s.Insecure {
		data, dev = attrNoExec, unix.MOUNT_ATTR_NOSUID
	}
	for _, f := range []struct {
		at   string
		fd   *int
		make func() (int, error)
	}{
		{"/proc", &k.proc, proc},
		{"/sys", &k.sys, func() (int, error) { return newSys(data) }},
		{"/dev", &k.dev, func() (int, error) { return newFS("tmpfs", dev, "mode=755", "size=65536k") }},
		{"/dev/pts", &k.pts, newPts},
		{"/dev/shm", &k.shm, func() (int, error) { return newFS("tmpfs", attrNoExec, "mode=1777", ShmOption(s.ShmSize)) }},
		{"/dev/mqueue", &k.mqueue, func() (int, error) { return optional(newFS("mqueue", attrNoExec)) }},
		{cgroupMount, &k.cgroup, func() (int, error) { return newCgroup(data) }},
		{"a mask", &k.empty, newEmpty},
	} {
		fd, err := f.make()
		if err != nil {
			return nil, &StartError{Op: "mount", Path: f.at, Err: err}
		}
		*f.fd = fd
	}
	return k, k.openDevices()
}

// optional turns the absence of a file system in the kernel into -1.
func optional(fd int, err error) (int, error) {
	if errors.Is(err, unix.ENODEV) {
		return -1, nil
	}
	return fd, err
}

// newSys makes a /sys, read-only unless the step may do everything. In a user namespace that does not own the
// network it is the caller's.
func newSys(attrs uint64) (int, error) {
	fd, err := newFS("sysfs", int(attrs))
	if errors.Is(err, unix.EPERM) {
		return bindHost("/sys", attrs)
	}
	return fd, err
}

func bindHost(name string, attrs uint64) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, err
	}
	return fd, setAttrs(fd, attrs)
}

func newPts() (int, error) {
	fd, err := newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode=0620", "ptmxmode=0666", "gid=5")
	if errors.Is(err, unix.EINVAL) { // group tty is not in this user namespace
		return newFS("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode=0620", "ptmxmode=0666")
	}
	return fd, err
}

// newCgroup makes the view of this cgroup namespace, where the host has
// control groups of version 2 and nothing else.
func newCgroup(attrs uint64) (int, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return -1, nil
	}
	fd, err := newFS("cgroup2", int(attrs))
	if errors.Is(err, unix.EPERM) {
		return -1, nil
	}
	return optional(fd, err)
}

func newEmpty() (int, error) {
	fd, err := newFS("tmpfs", attrROData, "mode=755", "nr_inodes=1")
	if err != nil {
		return -1, err
	}
	return fd, attachOutside(fd)
}

// ownDevices is a folder with device files of this sandbox's own: what a step
// does to their mode, owner and times it does to nobody else's. Where the
// process may make no devices, in a user namespace, it is the host's /dev,
// whose files are not the step's to change.
func ownDevices(e *Emulator) (int, error) {
	if e != nil && e.Devices >= 0 {
		return e.Devices, attachOutside(e.Devices)
	}
	fd, err := newFS("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode=755", "size=64k")
	if err != nil {
		return -1, err
	}
	if err := attachOutside(fd); err != nil {
		return -1, err
	}
	err = makeDevices(fd)
	if errors.Is(err, unix.EPERM) {
		return unix.Open("/dev", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	}
	return fd, err
}

// openDevice opens a device of the folder dir and makes sure that it is the one.
func openDevice(dir int, name string, major, minor uint32) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(major, minor) {
		unix.Close(fd)
		return -1, fmt.Errorf("it is not device %d:%d on the host", major, minor)
	}
	return fd, nil
}

// openDevices takes the devices; one that the host lacks is lacking in the
// sandbox, but for /dev/null.
func (k *kernelFS) openDevices() error {
	dir, err := ownDevices(k.emulator)
	if err != nil {
		return &StartError{Op: "mount", Path: "/dev", Err: err}
	}
	defer unix.Close(dir)
	if k.insecure {
		if err := k.openAllDevices(); err != nil {
			return err
		}
	}
	if k.null, err = openDevice(dir, "null", 1, 3); err != nil {
		return &StartError{Op: "mount", Path: "/dev/null", Err: err}
	}
	for _, d := range defaultDevices {
		host, err := openDevice(dir, d.name, d.major, d.minor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &StartError{Op: "mount", Path: "/dev/" + d.name, Err: err}
		}
		fd, err := clone(host)
		unix.Close(host)
		if err != nil {
			return &StartError{Op: "mount", Path: "/dev/" + d.name, Err: err}
		}
		k.devices = append(k.devices, device{d.name, fd})
	}
	return nil
}

// attachKernelFS mounts the kernel's file systems in the root.
func (p *initProc) attachKernelFS() error {
	if err := p.kernel.attach(p.top); err != nil {
		return err
	}
	p.dev = p.kernel.dev
	return p.kernel.furnish()
}

// attach mounts the file systems in the folders that place opens.
func (k *kernelFS) attach(place func(name string) (int, error)) error {
	for _, f := range []device{{"proc", k.proc}, {"sys", k.sys}, {"dev", k.dev}} {
		at, err := place(f.name)
		if err == nil {
			err = attach(f.fd, at)
			unix.Close(at)
		}
		if err != nil {
			return &StartError{Op: "mount", Path: "/" + f.name, Err: err}
		}
	}
	return nil
}

// furnish puts what belongs there into the file systems, which are attached
// somewhere, and hides what does not. It is done once.
func (k *kernelFS) furnish() error {
	if k.furnished {
		return nil
	}
	k.furnished = true
	if err := k.fillDev(); err != nil {
		return startError("mount", "/dev", err)
	}
	if err := k.fillSys(); err != nil {
		return startError("mount", "/sys", err)
	}
	if k.insecure {
		return nil
	}
	for _, name := range ProcReadOnly {
		if err := readOnlyAt(k.proc, name); err != nil {
			return startError("mount", "/proc/"+name, err)
		}
	}
	for _, name := range ProcMasked {
		if err := k.maskAt(k.proc, name); err != nil {
			return startError("mount", "/proc/"+name, err)
		}
	}
	return nil
}

// fillDev fills the fresh file system of /dev. Nothing but this process has
// seen it yet, so names are safe in it.
func (k *kernelFS) fillDev() error {
	for _, l := range devLinks {
		if err := unix.Symlinkat(l[1], k.dev, l[0]); err != nil {
			return err
		}
	}
	proc := root{fd: k.proc}
	if fd, err := proc.openPlain("kcore", unix.O_PATH); err == nil {
		unix.Close(fd)
		if err := unix.Symlinkat("/proc/kcore", k.dev, "core"); err != nil {
			return err
		}
	}
	for _, d := range k.devices {
		if dir := path.Dir(d.name); dir != "." {
			if err := unix.Mkdirat(k.dev, dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
		if err := unix.Mknodat(k.dev, d.name, unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
		if err := moveTo(d.fd, k.dev, d.name); err != nil {
			return startError("mount", "/dev/"+d.name, err)
		}
	}
	for _, d := range []device{{"pts", k.pts}, {"shm", k.shm}, {"mqueue", k.mqueue}} {
		if d.fd < 0 {
			continue
		}
		if err := unix.Mkdirat(k.dev, d.name, 0o755); err != nil {
			return err
		}
		if err := moveTo(d.fd, k.dev, d.name); err != nil {
			return startError("mount", "/dev/"+d.name, err)
		}
	}
	return nil
}

func (k *kernelFS) fillSys() error {
	if k.cgroup >= 0 {
		if err := moveTo(k.cgroup, k.sys, "fs/cgroup"); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if k.insecure {
		return nil
	}
	for _, name := range SysMasked {
		if err := k.maskAt(k.sys, name); err != nil {
			return err
		}
	}
	return nil
}

// moveTo mounts what on the file name in the directory dir.
func moveTo(what, dir int, name string) error {
	r := root{fd: dir}
	at, err := r.openPlain(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return attach(what, at)
}

// maskAt hides the file name in the directory dir, if there is one.
func (k *kernelFS) maskAt(dir int, name string) error {
	r := root{fd: dir}
	at, err := r.openPlain(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstatat(at, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	mask := k.null
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mask = k.empty
	}
	// The mask alone: whatever attachOutside has mounted since lies on top of it.
	fd, err := unix.OpenTree(mask, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, at)
}

// readOnlyAt makes the file name in dir, and all below it, read-only.
func readOnlyAt(dir int, name string) error {
	r := root{fd: dir}
	at, err := r.openPlain(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := clone(at)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := setAttrs(fd, attrROData); err != nil {
		return err
	}
	return attach(fd, at)
}
