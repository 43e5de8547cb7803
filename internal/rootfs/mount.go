package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/layer"
)

// overlayOptions are said explicitly because a distribution may have changed
// the module's defaults: no layer may depend on another by metacopy or
// redirect (an upper may for a while, see Upper.Metacopy), and inode numbers are whatever the layer says
// (Documentation/filesystems/overlayfs.rst).
var overlayOptions = [][2]string{
	{"metacopy", "off"}, {"redirect_dir", "nofollow"}, {"index", "off"}, {"xino", "off"},
}

// overlay describes one overlay mount. Lowers are open directories, topmost
// first; upper and work are empty for a read-only merged view.
type overlay struct {
	lowers      []*os.File
	upper, work string
	userxattr   bool   // user.overlay.* instead of trusted.overlay.*
	volatile    bool   // no syncs: whoever keeps the upper syncs it itself
	scratch     string // for mountOld: a folder that hides none of the others when it is mounted on
	old         bool   // mount(2) instead of fsconfig lowerdir+ (before Linux 6.7)
	metacopy    bool   // see Upper.Metacopy
}

// What mountNew says when mount(2) may know more than the new mount API.
var (
	errInvalid        = errors.New("refused") // perhaps for that reason
	errNoLowerdirPlus = errors.New("overlayfs without lowerdir+")
)

// mountNew makes the overlay detached: it is attached nowhere, and gone with
// the last descriptor that refers to it.
func (o *overlay) mountNew() (*os.File, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("overlay: fsopen: %w", err)
	}
	defer unix.Close(fd)
	for i, l := range o.lowers {
		err := addLower(fd, l)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("overlay: %w: %w: %w", errInvalid, errNoLowerdirPlus, withLog(fd, err))
		}
		if err != nil {
			return nil, fmt.Errorf("overlay: layer %s: %w", l.Name(), withLog(fd, err))
		}
	}
	for _, kv := range o.options() {
		if err := setOption(fd, kv[0], kv[1]); err != nil {
			return nil, fmt.Errorf("overlay: %s=%s: %w", kv[0], kv[1], withLog(fd, err))
		}
	}
	if o.upper != "" {
		for _, kv := range [][2]string{{"upperdir", o.upper}, {"workdir", o.work}} {
			done, err := setPath(fd, kv[0], kv[1], unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				return nil, fmt.Errorf("overlay: %w", err)
			}
			defer done()
		}
	}
	err = unix.FsconfigCreate(fd)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("overlay: %w: %w", errInvalid, withLog(fd, err))
	}
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", withLog(fd, err))
	}
	// No nosuid: Docker mounts a container's root with set-id programs enabled,
	// because sudo and su are expected to work in a step.
	return fsmount(fd, "overlay", 0)
}

func (o *overlay) options() [][2]string {
	opts := overlayOptions
	if o.metacopy {
		// metacopy=on wants redirect_dir=on (ovl_fs_params_verify).
		opts = [][2]string{{"metacopy", "on"}, {"redirect_dir", "on"}, {"index", "off"}, {"xino", "off"}}
	}
	if o.userxattr {
		// userxattr implies metacopy=off and redirect_dir=nofollow, and refuses
		// to hear it said (ovl_fs_params_verify).
		opts = [][2]string{{"userxattr", ""}, {"index", "off"}, {"xino", "off"}}
	}
	if o.upper != "" && o.volatile {
		opts = append(opts[:len(opts):len(opts)], [2]string{"volatile", ""})
	}
	return opts
}

// setPath gives a file as the value of key: by the name that an open
// descriptor has in /proc, because a value has at most 255 bytes (fsconfig(2))
// and a store's path may be longer. done closes it, once the file system has
// been made.
func setPath(fd int, key, path string, flags int) (done func() error, err error) {
	n, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: key, Path: path, Err: err}
	}
	f := os.NewFile(uintptr(n), path)
	if err := unix.FsconfigSetString(fd, key, procPath(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s=%s: %w", key, path, withLog(fd, err))
	}
	return f.Close, nil
}

func setOption(fd int, key, value string) error {
	if value == "" {
		return unix.FsconfigSetFlag(fd, key)
	}
	return unix.FsconfigSetString(fd, key, value)
}

// addLower hands one layer to an overlay that is being configured: by
// descriptor where the kernel takes one (6.13), else through its name in
// /proc, which works for detached mounts as well.
func addLower(fd int, dir *os.File) error {
	err := unix.FsconfigSetFd(fd, "lowerdir+", int(dir.Fd()))
	if err == nil || !errors.Is(err, unix.EINVAL) {
		return err
	}
	return unix.FsconfigSetString(fd, "lowerdir+", procPath(dir))
}

func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// fsmount turns a configured file system into a detached mount.
func fsmount(fd int, name string, attrs int) (*os.File, error) {
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("%s: fsmount: %w", name, withLog(fd, err))
	}
	return os.NewFile(uintptr(m), name), nil
}

func cloneReadOnly(dir *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("%s: open_tree: %w", dir.Name(), err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: mount_setattr: %w", dir.Name(), err)
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}

// MountTar returns the layer in the folder dir, in the form of a tar that
// implies nothing, as a read-only file system. The provider is Erofs.
func (r *Roots) MountTar(dir string) (*os.File, error) {
	return mountErofs(filepath.Join(dir, layer.IndexName), filepath.Join(dir, layer.TarName))
}

// mountErofs mounts the index of a layer over its tar, detached.
func mountErofs(index, tar string) (*os.File, error) {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("erofs: fsopen: %w", err)
	}
	defer unix.Close(fd)
	for _, kv := range [][2]string{{"source", index}, {"device", tar}} {
		done, err := setPath(fd, kv[0], kv[1], unix.O_RDONLY)
		if err != nil {
			return nil, fmt.Errorf("erofs: %w", err)
		}
		defer done()
	}
	if err := setOption(fd, "ro", ""); err != nil {
		return nil, fmt.Errorf("erofs: ro: %w", withLog(fd, err))
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("erofs: %s: %w", index, withLog(fd, err))
	}
	return fsmount(fd, "erofs:"+index, unix.MOUNT_ATTR_RDONLY)
}

// mountOld mounts with mount(2), whose options are one page of text: layers
// get short names in a tmpfs, all in a mount namespace of its own, so that
// nothing shows outside; open_tree takes the result out of it.
func (o *overlay) mountOld() (*os.File, error) {
	// Clones are made here: open_tree takes no path of another namespace.
	var clones []*os.File
	defer func() {
		for _, f := range clones {
			f.Close()
		}
	}()
	for _, l := range o.lowers {
		f, err := cloneReadOnly(l)
		if err != nil {
			return nil, fmt.Errorf("overlay: %w", err)
		}
		clones = append(clones, f)
	}
	var m *os.File
	var err error
	onOwnThread(func() { m, err = o.mountInOwnNamespace(clones) })
	return m, err
}

// onOwnThread runs fn on a thread that ends with it, so that what fn does to
// the thread's namespaces and working directory stays there. The process's
// first thread is never taken: it cannot end, and /proc/self shows it.
func onOwnThread(fn func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(fn) // another thread: this one is held until then
			runtime.UnlockOSThread()
		} else {
			fn()
		}
		close(done)
	}()
	<-done
}

func (o *overlay) mountInOwnNamespace(clones []*os.File) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("overlay: unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("overlay: make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", o.scratch, "tmpfs", 0, "mode=0700"); err != nil {
		return nil, fmt.Errorf("overlay: tmpfs on %s: %w", o.scratch, err)
	}
	if err := unix.Chdir(o.scratch); err != nil {
		return nil, err
	}
	names := make([]string, len(clones))
	for i, l := range clones {
		names[i] = strconv.FormatInt(int64(i), 36)
		if err := attachHere(l, names[i]); err != nil {
			return nil, fmt.Errorf("overlay: layer %s: %w", l.Name(), err)
		}
	}
	text := "lowerdir=" + strings.Join(names, ":")
	opts := o.options()
	if o.upper != "" {
		opts = append(opts[:len(opts):len(opts)], [2]string{"upperdir", o.upper}, [2]string{"workdir", o.work})
	}
	for _, kv := range opts {
		text += "," + kv[0]
		if kv[1] != "" {
			text += "=" + escapeOption(kv[1])
		}
	}
	if len(text) >= os.Getpagesize() {
		return nil, fmt.Errorf("overlay: %d layers need %d bytes of options, more than the %d that this kernel's mount(2) takes", len(names), len(text), os.Getpagesize())
	}
	const merged = "merged" // longer than any number
	if err := unix.Mkdir(merged, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, text); err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, merged, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("overlay: open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

func attachHere(mount *os.File, name string) error {
	if err := unix.Mkdir(name, 0o700); err != nil {
		return err
	}
	return unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// escapeOption protects a path in mount(2)'s comma-separated options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// withLog adds what the kernel wrote to the file system context's log, which
// says more than an errno.
func withLog(fd int, err error) error {
	var lines []string
	buf := make([]byte, 512)
	for range 8 {
		n, e := unix.Read(fd, buf)
		if e != nil || n <= 0 {
			break
		}
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(lines, "; "))
}
