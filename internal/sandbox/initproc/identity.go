package initproc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// identity is who the command runs as.
type identity struct {
	uid, gid int
	groups   []uint32
	home     string
}

// maxDatabase is how much of a passwd or group file is read: the image wrote
// it.
const maxDatabase = 1 << 20

// identity finds p.User in the root's files. With only numbers given, and with
// none, a file that cannot be used is as good as one that is not there.
func (p *initProc) identity() (identity, error) {
	spec, numeric := p.User, isNumeric(p.User)
	if spec == "" {
		spec, numeric = "0:0", true
	}
	passwd, err := p.root.database("/etc/passwd")
	if err != nil && !numeric {
		return identity{}, err
	}
	group, err := p.root.database("/etc/group")
	if err != nil && !numeric {
		return identity{}, err
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil && numeric {
		u, err = user.GetExecUser(spec, &user.ExecUser{Home: "/"}, nil, nil)
	}
	if err != nil {
		return identity{}, err
	}
	id := identity{uid: u.Uid, gid: u.Gid, home: u.Home, groups: []uint32{uint32(u.Gid)}}
	for _, g := range u.Sgids {
		if g != u.Gid {
			id.groups = append(id.groups, uint32(g))
		}
	}
	if id.home == "" {
		id.home = "/"
	}
	return id, nil
}

// isNumeric reports whether spec is uid:gid in numbers.
func isNumeric(spec string) bool {
	uid, gid, ok := strings.Cut(spec, ":")
	return ok && isDigits(uid) && isDigits(gid)
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// database reads a passwd or group file of the root. It never waits for a
// FIFO, opens no device (the root is mounted nodev) and reads no more than
// maxDatabase. A file that does not exist is nil.
func (r *root) database(name string) (io.Reader, error) {
	fd, err := r.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &StartError{Op: "table", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &StartError{Op: "table", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &StartError{Op: "table", Path: name, Err: errors.New("not a regular file")}
	}
	if st.Size > maxDatabase {
		return nil, &StartError{Op: "table", Path: name, Err: fmt.Errorf("larger than %d bytes", maxDatabase)}
	}
	b := make([]byte, st.Size)
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if err != nil {
			return nil, &StartError{Op: "table", Path: name, Err: err}
		}
		if m == 0 {
			break
		}
		n += m
	}
	return bytes.NewReader(b[:n]), nil
}

// withHome adds HOME to env if it is not there.
func withHome(env []string, home string) []string {
	for _, v := range env {
		if strings.HasPrefix(v, "HOME=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], "HOME="+home)
}

// explain is startError for what may have failed because the user namespace
// has no such id: only that is EINVAL in chown(2) and setresuid(2).
func (who identity) explain(op string, err error) error {
	var known *StartError
	if errors.Is(err, unix.EINVAL) && (!errors.As(err, &known) || known.Op != "seccomp") {
		return &StartError{Op: "id", Path: fmt.Sprintf("%d:%d", who.uid, who.gid), Err: unix.EINVAL}
	}
	return startError(op, "", err)
}

// ownPipes gives the pipes at stdin, stdout and stderr to the user, who could
// not open them through /dev/stdout otherwise.
func ownPipes(who identity) error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO || int(st.Uid) == who.uid {
			continue
		}
		if err := unix.Fchown(fd, who.uid, -1); err != nil && err != unix.EPERM {
			return err
		}
	}
	return nil
}

// ownNull puts the sandbox's /dev/null where stdin, stdout and stderr are the
// caller's: through /proc/self/fd the command could change that one.
func (p *initProc) ownNull() error {
	null := -1
	for fd := range 3 {
		if !isNull(fd) {
			continue
		}
		if null < 0 {
			var err error
			if null, err = p.root.openPlain("dev/null", unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY); err != nil {
				return err
			}
			defer unix.Close(null)
			if !isNull(null) {
				if p.Chroot {
					return nil // there are no devices, and the machine's are served
				}
				return errors.New("it is not device 1:3")
			}
		}
		if err := unix.Dup3(null, fd, 0); err != nil {
			return err
		}
	}
	return nil
}

func isNull(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// defaultCaps are Docker's default capabilities, by number in
// linux/capability.h.
var defaultCaps = []struct {
	name string
	n    uint
}{
	{"CAP_CHOWN", unix.CAP_CHOWN},
	{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE},
	{"CAP_FOWNER", unix.CAP_FOWNER},
	{"CAP_FSETID", unix.CAP_FSETID},
	{"CAP_KILL", unix.CAP_KILL},
	{"CAP_SETGID", unix.CAP_SETGID},
	{"CAP_SETUID", unix.CAP_SETUID},
	{"CAP_SETPCAP", unix.CAP_SETPCAP},
	{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE},
	{"CAP_NET_RAW", unix.CAP_NET_RAW},
	{"CAP_SYS_CHROOT", unix.CAP_SYS_CHROOT},
	{"CAP_MKNOD", unix.CAP_MKNOD},
	{"CAP_AUDIT_WRITE", unix.CAP_AUDIT_WRITE},
	{"CAP_SETFCAP", unix.CAP_SETFCAP},
}

// CapNames returns the default capabilities as the OCI runtime spec names them.
func CapNames() []string {
	names := make([]string, len(defaultCaps))
	for i, c := range defaultCaps {
		names[i] = c.name
	}
	return names
}

func capMask() uint64 {
	var m uint64
	for _, c := range defaultCaps {
		m |= 1 << c.n
	}
	return m
}

// confine gives up all rights but the command's. The filter comes before the
// user, since to set one without no_new_privs takes CAP_SYS_ADMIN.
func (p *initProc) confine(who identity) error {
	if p.Insecure {
		return p.keepAll(who)
	}
	keep := capMask()
	if p.Chroot {
		have, err := permittedCaps()
		if err != nil {
			return startError("user", "", err)
		}
		keep = keep & have &^ leaving
	}
	for c := uint(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if err == unix.EINVAL {
			break // past the last capability that the kernel knows
		}
		if err != nil {
			return startError("user", "", fmt.Errorf("bounding set: %w", err))
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return startError("user", "", fmt.Errorf("ambient set: %w", err))
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return startError("user", "", fmt.Errorf("no_new_privs: %w", err))
		}
	}
	load := loadFilter
	if p.Chroot {
		load = listen
	}
	if err := load(p.Filter); err != nil {
		return &StartError{Op: "seccomp", Err: err}
	}
	if err := become(who); err != nil {
		return startError("user", p.User, err)
	}
	if who.uid != 0 {
		keep = 0
	}
	return startError("user", p.User, setCaps(keep))
}

// become sets groups, group and user of this thread; package syscall would
// set those of all threads, which takes longer and is not needed.
func become(who identity) error {
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(who.groups)), uintptr(unsafe.Pointer(&who.groups[0])), 0)
	// A user namespace that the kernel lets everybody make has a single group.
	if e != 0 && (e != unix.EPERM || !groupsDenied()) {
		return os.NewSyscallError("setgroups", e)
	}
	gid, uid := uintptr(who.gid), uintptr(who.uid)
	if _, _, e = unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return os.NewSyscallError("setgid", e)
	}
	if _, _, e = unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return os.NewSyscallError("setuid", e)
	}
	return nil
}

// groupsDenied reports whether this user namespace forbids setgroups(2),
// user_namespaces(7).
func groupsDenied() bool {
	return string(readPart("/proc/self/setgroups", 0, 4)) == "deny"
}

// setCaps makes mask the effective and permitted set and clears the
// inheritable one (CVE-2022-27651).
func setCaps(mask uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(mask), Permitted: uint32(mask)},
		{Effective: uint32(mask >> 32), Permitted: uint32(mask >> 32)},
	}
	return os.NewSyscallError("capset", unix.Capset(&hdr, &data[0]))
}

// loadFilter sets the filter for this thread. The kernel would slow down all
// code under it against speculation attacks, before Linux 5.16 by default, as
// Docker would not have it.
func loadFilter(filter string) error {
	b := []byte(filter)
	prog := unix.SockFprog{Len: uint16(len(b) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&b[0]))}
	const flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(b)
	if e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	return nil
}
