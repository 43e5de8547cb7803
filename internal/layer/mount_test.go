package layer

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/whittle-build/whittle/internal/fsroot"
)

// The new mount API's numbers are the same on all machines.
const (
	sysMoveMount = 429
	sysFsopen    = 430
	sysFsconfig  = 431
	sysFsmount   = 432

	fsconfigFlag   = 0
	fsconfigString = 1
	fsconfigCreate = 6
	mountEmptyPath = 4
)

func fsconfig(fd uintptr, cmd uintptr, key, value string) error {
	var k, v *byte
	if key != "" {
		k, _ = syscall.BytePtrFromString(key)
	}
	if value != "" {
		v, _ = syscall.BytePtrFromString(value)
	}
	_, _, e := syscall.Syscall6(sysFsconfig, fd, cmd, uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(v)), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// mount mounts a file system of the given type at a new folder until the test
// ends. An option is key=value or a flag.
func mount(t testing.TB, fstype string, options ...string) string {
	t.Helper()
	name, _ := syscall.BytePtrFromString(fstype)
	fd, _, e := syscall.Syscall(sysFsopen, uintptr(unsafe.Pointer(name)), 0, 0)
	if e != 0 {
		t.Skipf("needs fsopen of %s: %v", fstype, e)
	}
	defer syscall.Close(int(fd))
	for _, o := range options {
		k, v, ok := strings.Cut(o, "=")
		cmd := uintptr(fsconfigFlag)
		if ok {
			cmd = fsconfigString
		}
		if err := fsconfig(fd, cmd, k, v); err != nil {
			t.Fatalf("%s option %s: %v", fstype, o, err)
		}
	}
	if err := fsconfig(fd, fsconfigCreate, "", ""); err != nil {
		log := make([]byte, 4096)
		n, _ := syscall.Read(int(fd), log)
		t.Fatalf("%s %q: %v: %s", fstype, options, err, log[:max(n, 0)])
	}
	m, _, e := syscall.Syscall(sysFsmount, fd, 0, 0)
	if e != 0 {
		t.Fatalf("fsmount %s: %v", fstype, e)
	}
	defer syscall.Close(int(m))
	to := t.TempDir()
	empty, _ := syscall.BytePtrFromString("")
	path, _ := syscall.BytePtrFromString(to)
	atCwd := -100
	_, _, e = syscall.Syscall6(sysMoveMount, m, uintptr(unsafe.Pointer(empty)), uintptr(atCwd), uintptr(unsafe.Pointer(path)), mountEmptyPath, 0)
	if e != 0 {
		t.Fatalf("move_mount: %v", e)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(to, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return to
}

// needErofs skips where the kernel cannot mount an index from a file.
func needErofs(t testing.TB) {
	t.Helper()
	needRoot(t)
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(b), "\terofs\n") {
		t.Skip("needs a kernel with erofs")
	}
}

// mountTar mounts the tar form of a layer.
func mountTar(t testing.TB, dir, index string) string {
	t.Helper()
	return mount(t, "erofs", "source="+indexPath(dir, index), "device="+filepath.Join(dir, TarName), "ro")
}

func TestTheKernelMountsAnEmptyLayerAndALargeDirectory(t *testing.T) {
	needErofs(t)
	for _, n := range []int{0, 5000} {
		dir, _ := build(t, manyFiles(n)[:n])
		diff(t, "mounted index", dump(t, openTree(t, mountTar(t, dir, ""))), dump(t, openTar(t, dir)))
	}
}

func TestTheKernelSeesWhatTheViewSees(t *testing.T) {
	needErofs(t)
	dir, _ := build(t, sample())
	mnt := mountTar(t, dir, "")
	diff(t, "mounted index", dump(t, openTree(t, mnt)), dump(t, openTar(t, dir)))

	root, err := fsroot.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	a, err := root.Lstat("bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	b, err := root.Lstat("bin/cp")
	if err != nil {
		t.Fatal(err)
	}
	if a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("hard links have inodes %d and %d, %d names", a.Ino, b.Ino, a.Nlink)
	}
	if d, err := root.Lstat("."); err != nil || d.Nlink != 6 {
		t.Errorf("the root has %d links, want 6 (%v)", d.Nlink, err)
	}
}
