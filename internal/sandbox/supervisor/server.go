// Package supervisor answers system calls of processes that run in a chroot
// and nothing else, where the kernel lets nobody mount a /proc for them: what
// they open, read the link of or ask about in /proc, /sys and a few other
// places is answered from here, by seccomp user notification (seccomp(2),
// SECCOMP_RET_USER_NOTIF). It also keeps them from processes that are not
// theirs, since they have no pid namespace.
//
// What it answers it has opened itself, with the rights of who asks; a call
// that it lets go on is one that the kernel then judges as if nobody had
// looked, inside the chroot. So who changes a path in memory or a link on the
// disk meanwhile changes what is not served, and gains nothing.
//
// It does not start processes, wait for them or fit their root.
package supervisor

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call as a notification names it.
type Call struct{ Arch, Nr uint32 }

// Config says for whom calls are answered. All fields are needed but the
// lists.
type Config struct {
	// Root is the directory that is the processes' "/". In its /proc and /sys
	// nothing but this package may write.
	Root *os.File
	// Calls are the names of the calls that are notified.
	Calls map[Call]string
	// Native is the architecture whose structures are this program's.
	Native uint32
	// Limit gives up the rights of a thread that nobody's call is to be answered
	// with.
	Limit func() error
	// Files are in memory only. Their places in the root hold empty files.
	Files []File
	// ReadOnly are files of the root that nobody may open for writing.
	ReadOnly []string
	// Devices are files of the root that stand for this machine's of that name.
	Devices []string
}

// File is a file that lies in memory.
type File struct {
	Path     string // from the root, without links
	Content  []byte
	Mode     uint32
	UID, GID int
}

// Server answers calls. Its parent-child line is who it serves: processes
// that descend from this one.
type Server struct {
	root     int
	rootPath string
	proc     int // the real /proc
	sys      int // the real /sys; -1 is none
	pid      int
	calls    map[Call]string
	native   uint32
	limit    func() error
	inodes   map[inode]*file
	aFile    string // a stand-in for a file, while they are made
	mirrors  mirrors
	exec     execs
}

// New makes ready to serve c: it opens what it needs, and lays out the root's
// /proc and /sys, which must be empty directories.
func New(c Config) (*Server, error) {
	s := &Server{root: int(c.Root.Fd()), pid: os.Getpid(), calls: c.Calls, native: c.Native, limit: c.Limit,
		inodes: map[inode]*file{}, sys: -1}
	var err error
	if s.rootPath, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(s.root)); err != nil {
		return nil, err
	}
	if s.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if fd, err := unix.Open("/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		s.sys = fd
	}
	if err := s.layOut(); err != nil {
		return nil, err
	}
	for _, f := range c.Files {
		if err := s.addFile(f); err != nil {
			return nil, err
		}
	}
	for _, name := range c.ReadOnly {
		if err := s.watch(name, &file{readOnly: true}); err != nil {
			return nil, err
		}
	}
	for _, name := range c.Devices {
		if err := s.watch(name, &file{device: name}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// workers are how many calls are answered at once.
const workers = 4

// Serve answers the calls of listener until nobody is left who could make
// any.
func (s *Server) Serve(listener int) {
	// A thread that waits for an answer is woken on this processor, at once.
	flags := uint64(unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	ioctl(listener, notifSetFlags, unsafe.Pointer(&flags))
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			// The thread takes on the rights of those whom it answers.
			runtime.LockOSThread()
			if s.limit() == nil {
				s.work(listener)
			}
		})
	}
	all.Wait()
}

func (s *Server) work(listener int) {
	for {
		var n notification
		err := ioctl(listener, notifRecv, unsafe.Pointer(&n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENOENT) { // who asked is dead, or all are
			p := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
			if _, err := unix.Poll(p, 0); err == nil && p[0].Revents&unix.POLLHUP != 0 {
				return
			}
			continue
		}
		if err != nil {
			return
		}
		c := &call{listener: listener, id: n.id, tid: int(n.pid), args: n.args, native: n.arch == s.native}
		a := s.answer(c, s.calls[Call{n.arch, uint32(n.nr)}])
		if a.sent {
			continue
		}
		r := response{id: n.id, val: a.val, err: -int32(a.err)}
		if a.goOn {
			r = response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		}
		ioctl(listener, notifSend, unsafe.Pointer(&r)) // ENOENT: it is dead
	}
}

// answer is what becomes of a call.
type answer struct {
	val  int64
	err  unix.Errno
	goOn bool // the kernel does it
	sent bool // it has been answered
}

var goOn = answer{goOn: true}

// fail is the answer that err is; nil is success.
func fail(err error) answer {
	var e unix.Errno
	if err == nil {
		return answer{}
	}
	if !errors.As(err, &e) {
		e = unix.EIO
	}
	return answer{err: e}
}

// answer answers a call. Whatever a step may ask, it does not end the server,
// on which all hangs that is to be put back.
func (s *Server) answer(c *call, name string) (a answer) {
	defer func() {
		if recover() != nil {
			a = fail(unix.EIO)
		}
	}()
	if h, ok := pathCalls[name]; ok && (c.native || !h.structs) {
		return h.do(s, c)
	}
	if h, ok := pidCalls[name]; ok {
		return h(s, c)
	}
	return goOn
}

// The requests of a listener, in linux/seccomp.h.
const (
	notifRecv     = unix.SECCOMP_IOCTL_NOTIF_RECV
	notifSend     = unix.SECCOMP_IOCTL_NOTIF_SEND
	notifIDValid  = 0x40082102
	notifAddFD    = 0x40182103
	notifSetFlags = 0x40082104
)

type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

type addFD struct {
	id                            uint64
	flags, srcfd, newfd, newflags uint32
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
