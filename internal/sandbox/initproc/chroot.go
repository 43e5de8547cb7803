package initproc

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enterRoot makes the directory at FDRoot, in which everything is in its place
// already, the process's "/". The process has only such rights as a container
// has, and shares all namespaces with the caller.
func (p *initProc) enterRoot() error {
	p.root = root{fd: FDRoot}
	var err error
	if p.root.mount, err = mountID(FDRoot); err != nil {
		return startError("root", "", err)
	}
	if err := unix.Fchdir(FDRoot); err != nil {
		return startError("root", "", err)
	}
	if err := unix.Chroot("."); err != nil {
		return startError("root", "", fmt.Errorf("chroot: %w", err))
	}
	return startError("root", "", unix.Chdir("/"))
}

// leaving are the capabilities with which root leaves a chroot, or reaches the
// machine from it.
const leaving = 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_MKNOD

// ChrootCaps are the default capabilities without those that lead out of a
// chroot, as the OCI runtime spec names them.
func ChrootCaps() []string {
	var names []string
	for _, c := range defaultCaps {
		if leaving&(1<<c.n) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}

// needed are the capabilities without which files of a chroot would not be as
// they should, or a step could not be started or ended there.
const needed = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_KILL |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SYS_CHROOT

// MissingCaps are the capabilities that a chroot takes and this thread has not,
// as docker run names them.
func MissingCaps() ([]string, error) {
	have, err := permittedCaps()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range defaultCaps {
		if needed&^have&(1<<c.n) != 0 {
			names = append(names, strings.TrimPrefix(c.name, "CAP_"))
		}
	}
	return names, nil
}

// MayMount reports whether this program has CAP_SYS_ADMIN.
func MayMount() (bool, error) {
	have, err := permittedCaps()
	return have&(1<<unix.CAP_SYS_ADMIN) != 0, err
}

// permittedCaps are those that this thread has.
func permittedCaps() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

// listen sets the filter, whose notifications come out of a descriptor that
// the supervisor gets.
func listen(filter string) error {
	b := []byte(filter)
	prog := unix.SockFprog{Len: uint16(len(b) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&b[0]))}
	set := func(flags uintptr) (int, unix.Errno) {
		fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		return int(fd), e
	}
	const flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	// With the flag a signal does not break off a call that is being answered.
	fd, e := set(flags | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if e == unix.EINVAL { // before Linux 5.19
		fd, e = set(flags)
	}
	runtime.KeepAlive(b)
	if e == unix.EBUSY {
		return fmt.Errorf("listener: this container's own calls are supervised already")
	}
	if e != 0 {
		return fmt.Errorf("listener: %w", e)
	}
	var enc encoder
	enc.num(reportListener)
	err := unix.Sendmsg(FDSocket, enc.b, unix.UnixRights(fd), nil, 0)
	unix.Close(fd)
	return err
}

// Place opens the file or directory at name, in the root rootFD, with O_PATH,
// following links inside the root, and makes what is missing of it. It returns
// its path from the root without links, and what it made, also with an error.
func Place(rootFD int, name string, dir bool) (fd int, physical string, stubs []Stub, err error) {
	m := maker{root: root{fd: rootFD}, mode: 0o755}
	m.made = func(parent int, physical string, dir bool, before int64) error {
		s, err := describe(parent, physical, dir, before)
		if err == nil {
			stubs = append(stubs, s)
		}
		return err
	}
	fd, physical, err = m.placeAt(name, dir)
	return fd, physical, stubs, err
}

// Top is Place for a directory at the top of the root, which must be no link.
func Top(rootFD int, name string) (fd int, stubs []Stub, err error) {
	r := root{fd: rootFD}
	fd, err = r.openPlain(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			err = errLink
		} else if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
		if err != nil {
			unix.Close(fd)
		}
		return fd, nil, err
	}
	if err != unix.ENOENT {
		return -1, nil, err
	}
	fd, _, stubs, err = Place(rootFD, name, true)
	return fd, stubs, err
}

// Plain opens a path in the root rootFD that has no links in it.
func Plain(rootFD int, name string, flags int) (int, error) {
	r := root{fd: rootFD}
	return r.openPlain(path.Clean("./"+name), flags)
}

// In opens a path in the directory dirFD as a process would whose "/" it is.
func In(dirFD int, name string, flags int) (int, error) {
	r := root{fd: dirFD}
	return r.open(name, flags)
}

// SetMtime sets the modification time of an open directory, in nanoseconds;
// Mtime tells it.
func SetMtime(fd int, nsec int64) error { return setMtime(fd, nsec) }

// Mtime is the modification time of an open file, in nanoseconds.
func Mtime(fd int) (int64, error) { return mtime(fd) }

// LimitCaps gives up all capabilities of the calling thread but the default
// ones.
func LimitCaps() error {
	have, err := permittedCaps()
	if err != nil {
		return err
	}
	return setCaps(have & capMask())
}

// EncodeError is a report of err, as DecodeReport reads it.
func EncodeError(err error) []byte {
	var se *StartError
	if !errors.As(err, &se) {
		se = &StartError{Op: "exec", Err: err}
	}
	return encodeStartError(se)
}

// Listening is how the report of an init begins that has a listener.
func Listening() []byte {
	var e encoder
	e.num(reportListener)
	return e.b
}
