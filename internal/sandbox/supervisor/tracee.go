package supervisor

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one notified system call of one thread.
type call struct {
	listener int
	id       uint64
	tid      int
	args     [6]uint64
	native   bool
	who      *creds // once it has been asked for
}

// valid says whether the thread still waits for this answer. What was read of
// it before, by its number, was its own if so.
func (c *call) valid() bool {
	return ioctl(c.listener, notifIDValid, unsafe.Pointer(&c.id)) == nil
}

// proc is a path of the thread in /proc.
func (c *call) proc(name string) string { return "/proc/" + strconv.Itoa(c.tid) + "/" + name }

// creds are a process's, as /proc/PID/status shows them.
type creds struct {
	uid, euid, fsuid, fsgid int
	groups                  []uint32
	tgid                    int
	umask                   uint32
}

// creds returns those of the thread that asks, as they are now: it waits, and
// cannot change them.
func (c *call) creds() (*creds, error) {
	if c.who != nil {
		return c.who, nil
	}
	b, err := os.ReadFile(c.proc("status"))
	if err != nil {
		return nil, unix.ESRCH
	}
	w := &creds{fsuid: -1}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		num := func(i int) int {
			if i >= len(f) {
				return 0
			}
			n, _ := strconv.Atoi(f[i])
			return n
		}
		switch key {
		case "Tgid":
			w.tgid = num(0)
		case "Umask":
			n, _ := strconv.ParseUint(strings.TrimSpace(value), 8, 32)
			w.umask = uint32(n)
		case "Uid":
			w.uid, w.euid, w.fsuid = num(0), num(1), num(3)
		case "Gid":
			w.fsgid = num(3)
		case "Groups":
			for i := range f {
				w.groups = append(w.groups, uint32(num(i)))
			}
		}
	}
	if w.fsuid < 0 || !c.valid() {
		return nil, unix.ESRCH
	}
	c.who = w
	return w, nil
}

// as runs f with the rights to files that the thread has, as far as this
// process has them too. The caller's goroutine is locked to its thread.
func (c *call) as(f func() error) error {
	w, err := c.creds()
	if err != nil {
		return err
	}
	if w.fsuid == 0 && w.fsgid == 0 {
		return f()
	}
	if err := setGroups(w.groups); err != nil {
		return err
	}
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(w.fsgid), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(w.fsuid), 0, 0)
	ferr := f()
	unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	unix.RawSyscall(unix.SYS_SETFSGID, 0, 0, 0)
	if err := setGroups(nil); err != nil {
		return err
	}
	return ferr
}

func setGroups(list []uint32) error {
	var p unsafe.Pointer
	if len(list) > 0 {
		p = unsafe.Pointer(&list[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(p), 0); e != 0 {
		return e
	}
	return nil
}

// seen runs f, which looks at the thread through /proc, and once more with the
// thread's rights if it may not: without CAP_SYS_PTRACE root sees nothing of
// other users' processes.
func (c *call) seen(f func() error) error {
	err := f()
	if err == unix.EACCES || err == unix.EPERM {
		err = c.as(f)
	}
	return err
}

// path reads the path at addr in the thread's memory.
func (c *call) path(addr uint64) (string, error) {
	buf := make([]byte, unix.PathMax)
	for n := 0; n < len(buf); {
		// Not over the end of a page: the next one may not be there.
		size := min(4096-int(addr+uint64(n))&4095, len(buf)-n, 256)
		if err := c.read(addr+uint64(n), buf[n:n+size]); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(buf[n:n+size], 0); i >= 0 {
			return string(buf[:n+i]), nil
		}
		n += size
	}
	return "", unix.ENAMETOOLONG
}

// read fills b from the thread's memory.
func (c *call) read(addr uint64, b []byte) error {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	n, err := unix.ProcessVMReadv(c.tid, local, remote, 0)
	if err == nil && n == len(b) {
		return nil
	}
	return c.memory(unix.O_RDONLY, func(fd int) (int, error) { return unix.Pread(fd, b, int64(addr)) }, len(b))
}

// write puts b into the thread's memory.
func (c *call) write(addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	// By /proc/PID/mem, which is the memory of whoever had the number when it
	// was opened; valid says that it was the thread.
	return c.memory(unix.O_WRONLY, func(fd int) (int, error) {
		if !c.valid() {
			return 0, unix.ESRCH
		}
		local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
		remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
		// This one, where it may, does not write what is read-only there.
		n, err := unix.ProcessVMWritev(c.tid, local, remote, 0)
		if err == unix.EPERM || err == unix.ENOSYS {
			return unix.Pwrite(fd, b, int64(addr))
		}
		return n, err
	}, len(b))
}

func (c *call) memory(flags int, f func(fd int) (int, error), want int) error {
	return c.seen(func() error {
		fd, err := unix.Open(c.proc("mem"), flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		n, err := f(fd)
		if err == unix.EIO || err == nil && n != want {
			return unix.EFAULT
		}
		return err
	})
}

// give makes fd the result of the call: a new descriptor of the thread.
func (c *call) give(fd int, cloexec bool) answer {
	a := addFD{id: c.id, srcfd: uint32(fd), flags: unix.SECCOMP_ADDFD_FLAG_SEND}
	if cloexec {
		a.newflags = unix.O_CLOEXEC
	}
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(c.listener), notifAddFD, uintptr(unsafe.Pointer(&a)))
	if e == unix.EINVAL && a.flags != 0 { // before Linux 5.14
		a.flags = 0
		n, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(c.listener), notifAddFD, uintptr(unsafe.Pointer(&a)))
	}
	switch {
	case e == unix.ENOENT, e == unix.EINPROGRESS:
		return answer{sent: true} // it is dead
	case e != 0:
		return fail(e)
	case a.flags == 0:
		return answer{val: int64(n)}
	}
	return answer{sent: true}
}
