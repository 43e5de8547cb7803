package sandbox

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/sandbox/initproc"
	"github.com/whittle-build/whittle/internal/sandbox/supervisor"
)

// fitting is the root of a step while things lie in it that are not its own.
// Whatever is put somewhere, what lay there goes to the scratch folder and
// comes back; a place that had to be made is a stub, and goes.
type fitting struct {
	root, scratch *fsroot.Root
	rootPath      string
	undos         []func() error // run from the last to the first
	away          []away
	asides        int
	config        supervisor.Config
}

// undo puts all back. The step's processes are dead.
func (f *fitting) undo() error {
	if f == nil {
		return nil
	}
	var errs []error
	for i := len(f.undos) - 1; i >= 0; i-- {
		errs = append(errs, f.undos[i]())
	}
	f.undos = nil
	return errors.Join(errs...)
}

// all fits the root and returns what the supervisor has to know of it. What it
// did before an error, undo undoes.
func (f *fitting) all(o *order) (*supervisor.Config, error) {
	f.root = fsroot.FromFd(os.NewFile(fdBoxRoot, "root"))
	f.scratch = fsroot.FromFd(os.NewFile(fdBoxScratch, "scratch"))
	var err error
	if f.rootPath, err = os.Readlink(fdPath(fdBoxRoot)); err != nil {
		return nil, &StartError{Op: "root", Err: err}
	}
	f.config.Root, f.config.Native, f.config.Limit = f.root.Dir(), nativeAudit(), initproc.LimitCaps
	if f.config.Calls, err = noticedCalls(); err != nil {
		return nil, &StartError{Op: "seccomp", Err: err}
	}
	for _, name := range []string{"dev", "proc", "sys"} {
		if err := f.top(name); err != nil {
			return nil, atMount("/"+name, err)
		}
	}
	if err := f.fillDev(); err != nil {
		return nil, atMount("/dev", err)
	}
	if o.Etc {
		for _, e := range []struct{ name, content string }{{"/etc/hosts", string(o.Hosts)}, {"/etc/resolv.conf", string(o.ResolvConf)}} {
			if err := f.text(e.name, e.content, o.EtcRO); err != nil {
				return nil, atMount(e.name, err)
			}
		}
	}
	for _, m := range o.Mounts {
		if err := f.mount(m); err != nil {
			return nil, atMount(string(m.Target), err)
		}
	}
	return &f.config, nil
}

// atMount is the error of what cannot be put at a place.
func atMount(target string, err error) error {
	var se *StartError
	if errors.As(err, &se) {
		return se
	}
	var e unix.Errno
	if errors.As(err, &e) && !strings.HasPrefix(err.Error(), "source ") {
		err = e
	}
	return &StartError{Op: "mount", Path: target, Err: err}
}

// top puts an empty directory in the place of one at the top of the root.
func (f *fitting) top(name string) error {
	fd, stubs, err := initproc.Top(fdBoxRoot, name)
	f.remember(stubs)
	if err != nil {
		return err
	}
	unix.Close(fd)
	return f.put(name, func(dir int, base string) error { return unix.Mkdirat(dir, base, 0o755) }, nil)
}

func (f *fitting) remember(stubs []initproc.Stub) {
	if len(stubs) > 0 {
		f.undos = append(f.undos, func() error { return initproc.RemoveStubs(fdBoxRoot, stubs) })
	}
}

// put makes something at a path without links at which something is. Before
// that comes back, take takes away what was made; nil removes what is there.
func (f *fitting) put(name string, make, take func(dir int, base string) error) error {
	parent, err := f.root.OpenNoFollow(path.Dir(name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	dir, base := int(parent.Fd()), path.Base(name)
	before, err := initproc.Mtime(dir)
	if err != nil {
		return err
	}
	aside := strconv.Itoa(f.asides)
	f.asides++
	if err := unix.Renameat(dir, base, int(f.scratch.Dir().Fd()), aside); err != nil {
		parent.Close()
		return crossDevice(err)
	}
	after := int64(0)
	f.undos = append(f.undos, func() error {
		defer parent.Close()
		return f.putBack(parent, base, aside, before, after, take)
	})
	made := make(dir, base)
	if after, err = initproc.Mtime(dir); made != nil {
		return crossDevice(made)
	}
	return err
}

func crossDevice(err error) error {
	if errors.Is(err, unix.EXDEV) {
		return errors.New("it is not on the file system of the store")
	}
	return err
}

// putBack undoes put. Where the step has removed the folder in which it was,
// what lay there before is gone with that.
func (f *fitting) putBack(parent *os.File, base, aside string, before, after int64, take func(int, string) error) error {
	dir := int(parent.Fd())
	last, err := initproc.Mtime(dir)
	if err != nil {
		return err
	}
	if take != nil {
		if err := take(dir, base); err != nil {
			return err // what it was to take stays where it is
		}
	}
	removed := fsroot.FromFd(parent).RemoveAll(base)
	if errors.Is(removed, unix.ENOENT) {
		removed = nil
	}
	back := unix.Renameat(int(f.scratch.Dir().Fd()), aside, dir, base)
	if errors.Is(back, unix.ENOENT) {
		back = f.scratch.RemoveAll(aside)
	}
	if last == after {
		last = before
	}
	return errors.Join(removed, back, initproc.SetMtime(dir, last))
}

// place opens what is at a path of the root, made when nothing is, and returns
// its path without links. Nothing is put into what the kernel has.
func (f *fitting) place(target string, dir bool) (string, error) {
	fd, name, stubs, err := initproc.Place(fdBoxRoot, target, dir)
	f.remember(stubs)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if name == "proc" || strings.HasPrefix(name, "proc/") {
		return "", errors.New("nothing can be mounted in /proc")
	}
	if name == "." {
		return "", errors.New("nothing can be mounted on /")
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return "", err
	}
	over := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if dir && !over {
		return "", errors.New("a folder cannot be mounted on the file that is there")
	} else if over && !dir {
		return "", errors.New("a file cannot be mounted on the folder that is there")
	}
	return name, nil
}

// text puts a file with a content at a path.
func (f *fitting) text(target, content string, readOnly bool) error {
	name, err := f.place(target, false)
	if err != nil {
		return err
	}
	err = f.put(name, func(dir int, base string) error {
		fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), base)
		_, err = file.WriteString(content)
		return errors.Join(err, file.Close())
	}, nil)
	if err == nil && readOnly {
		f.config.ReadOnly = append(f.config.ReadOnly, "/"+name)
	}
	return err
}

// devices are the device files of a step, by number: major, minor.
var devices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// fillDev fills the root's /dev. Where no device can be made, or used, in the
// root, the machine's are served in their places.
func (f *fitting) fillDev() error {
	live, err := f.liveDevices()
	if err != nil {
		return err
	}
	for _, d := range devices {
		name := "dev/" + d.name
		if live {
			if err := f.root.Mknod(name, unix.S_IFCHR|0o666, d.major, d.minor); err != nil {
				return err
			}
			continue
		}
		if err := f.root.Mknod(name, unix.S_IFREG|0o666, 0, 0); err != nil {
			return err
		}
		f.config.Devices = append(f.config.Devices, "/"+name)
	}
	for _, l := range [][2]string{{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"}} {
		if err := f.root.Symlink(l[1], "dev/"+l[0]); err != nil {
			return err
		}
	}
	if err := f.root.Mkdir("dev/pts", 0o755); err != nil {
		return err
	}
	for _, shared := range []string{"dev/shm", "dev/mqueue"} {
		if err := f.root.Mkdir(shared, 0o755); err != nil {
			return err
		}
		if err := f.root.Chmod(shared, 0o1777); err != nil {
			return err
		}
	}
	return nil
}

// liveDevices says whether device files in the root are ones.
func (f *fitting) liveDevices() (bool, error) {
	const probe = "dev/null"
	err := f.root.Mknod(probe, unix.S_IFCHR|0o666, 1, 3)
	if errors.Is(err, unix.EPERM) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	null, err := f.root.OpenNoFollow(probe, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		null.Close()
	}
	return err == nil, f.root.Remove(probe)
}
