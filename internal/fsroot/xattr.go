package fsroot

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procPath names dir/base for the calls that exist only for paths. The
// kernel takes the handle itself, not what its name may point to by now.
func procPath(dir int, base string) string {
	p := "/proc/self/fd/" + strconv.Itoa(dir)
	if base == "" {
		return p
	}
	return p + "/" + base
}

// Getxattrs returns all extended attributes of a physical path that the
// process may see; of a symlink itself. Nil when there are none or when the
// file system has no such thing.
func (r *Root) Getxattrs(name string) (attrs map[string]string, err error) {
	err = r.in("getxattr", name, func(dir int, base string) error {
		attrs, err = xattrsAt(dir, base)
		return err
	})
	return attrs, err
}

func xattrsAt(dir int, base string) (map[string]string, error) {
	// Linux 6.13 can ask by handle and name. Older ones, and filters that do not
	// know the call, want a path, which takes three times as long.
	if n, err := listxattrat(dir, base); err == nil && n == 0 {
		return nil, nil
	}
	p := procPath(dir, base)
	return readXattrs(
		func(b []byte) (int, error) { return unix.Llistxattr(p, b) },
		func(n string, b []byte) (int, error) { return unix.Lgetxattr(p, n, b) })
}

// listxattrat returns how many bytes of names of attributes the file has.
func listxattrat(dir int, base string) (int, error) {
	name, err := unix.BytePtrFromString(base)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(name)), unix.AT_SYMLINK_NOFOLLOW, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func xattrsOf(f *os.File) (map[string]string, error) {
	fd := int(f.Fd())
	return readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(fd, n, b) })
}

func readXattrs(listAll func([]byte) (int, error), getOne func(string, []byte) (int, error)) (map[string]string, error) {
	// Most files have none, and the kernel says so without a buffer.
	n, err := listAll(nil)
	if err == unix.EOPNOTSUPP || err == nil && n == 0 {
		return nil, nil
	}
	stack := make([]byte, 1024)
	list, err := grow(stack, listAll)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	attrs := map[string]string{}
	for _, n := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		v, err := grow(stack, func(b []byte) (int, error) { return getOne(n, b) })
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, err
		}
		attrs[n] = string(v)
	}
	return attrs, nil
}

// maxXattr is XATTR_SIZE_MAX and XATTR_LIST_MAX of the kernel.
const maxXattr = 64 << 10

// grow calls get with buf, and once more with the largest possible buffer
// when it is too small.
func grow(buf []byte, get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(buf)
	if err == unix.ERANGE {
		buf = make([]byte, maxXattr)
		n, err = get(buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Setxattr sets one extended attribute of a physical path; of a symlink
// itself.
func (r *Root) Setxattr(name, attr, value string) error {
	return r.in("setxattr "+attr, name, func(dir int, base string) error {
		return unix.Lsetxattr(procPath(dir, base), attr, []byte(value), 0)
	})
}

// Removexattr takes one extended attribute off a physical path, if it has it;
// of a symlink off itself.
func (r *Root) Removexattr(name, attr string) error {
	return r.in("removexattr "+attr, name, func(dir int, base string) error {
		if err := unix.Lremovexattr(procPath(dir, base), attr); !errors.Is(err, unix.ENODATA) {
			return err
		}
		return nil
	})
}
