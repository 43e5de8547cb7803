package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// The parent-death signal of prctl(2) is lost when a process changes its user
// or executes a program with set-id bits, as "sudo", "su" and "gosu" do in a
// step, and a step must not outlive its caller for that. So each caller has
// one more process, the keeper, that holds a pidfd of each of the caller's
// sandboxes and a socket to the caller: when the socket closes, the caller has
// ended, however that was, and the keeper kills what is left and ends.

// keeper is the caller's end of the socket.
type keeper struct{ sock int }

// theKeeper starts the process's keeper when it is first needed, and on a
// thread of its own: that of a join bears its children in the sandbox's pid
// namespace.
var theKeeper = sync.OnceValues(func() (k *keeper, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		k, err = startKeeper()
		keeping.Store(err == nil)
	}()
	<-done
	return k, err
})

// keeping says that there is a keeper.
var keeping atomic.Bool

// Outlive closes f in a process that ends now. Of a mount, where a sandbox was run, the keeper has a
// descriptor too and closes it with its own end, which nobody waits for: the kernel drops what it
// remembers of every file with the last one, 0.2 s for 50 000. For so long the file system that has
// the layers is busy.
func Outlive(f *os.File) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_PATH != 0 && keeping.Load() { // an open folder is no mount, and takes no time
		if k, err := theKeeper(); err == nil {
			k.hand(f)
		}
	}
	return f.Close()
}

// hand gives f to the keeper, unless that is slow to take it: then it is closed where it is.
func (k *keeper) hand(f *os.File) {
	_ = unix.Sendmsg(k.sock, []byte{byte(outlive)}, unix.UnixRights(int(f.Fd())), nil, unix.MSG_DONTWAIT)
}

// outlive is, in the place of a signal, that of a descriptor which is not a process's.
const outlive = unix.Signal(0xff)

func startKeeper() (*keeper, error) {
	exe, err := self()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	its := os.NewFile(uintptr(fds[1]), "keeper")
	defer its.Close()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.Args = []string{argvKeeper}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{exe, its}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What our caller has open, a lock perhaps, is not the keeper's, who lives a little longer
	// (since Linux 5.11).
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if err := cmd.Start(); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("keeper: %w", unwrapPath(err))
	}
	return &keeper{sock: fds[0]}, nil
}

// keep hands the process pid, a child of this one that nobody has waited for,
// to the keeper, which ends it with the signal end and removes groups, control
// groups of whittle's, after it.
func keep(pid int, end unix.Signal, groups []string) error {
	k, err := theKeeper()
	if err != nil {
		return err
	}
	return k.keep(pid, end, groups)
}

// keepGroups hands groups to the keeper that are about to be made, for a process
// that keep will name with them.
func keepGroups(groups []string) error {
	k, err := theKeeper()
	if err != nil {
		return err
	}
	return k.send(0, groups, nil)
}

func (k *keeper) keep(pid int, end unix.Signal, groups []string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd: %w", err)
	}
	defer unix.Close(fd)
	return k.send(end, groups, unix.UnixRights(fd))
}

func (k *keeper) send(end unix.Signal, groups []string, rights []byte) error {
	if err := unix.Sendmsg(k.sock, append([]byte{byte(end)}, strings.Join(groups, "\n")...), rights, nil, 0); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	return nil
}

// runKeeper is the keeper.
func runKeeper() {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	unix.Close(initproc.FDSelf)
	var kept []keptProcess
	var outliving []int
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(initproc.FDSocket, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		p := keptProcess{passedFD(oob[:oobn]), unix.Signal(buf[0]), strings.Fields(string(buf[1:n]))}
		if p.end == outlive {
			outliving = append(outliving, p.fd)
			continue
		}
		kept = append(slices.DeleteFunc(alive(kept), p.replaces), p)
	}
	for _, p := range kept {
		if p.fd >= 0 {
			unix.PidfdSendSignal(p.fd, p.end, nil, 0)
		}
	}
	for _, p := range kept {
		if len(p.groups) > 0 {
			p.await()
			_ = removeGroups(p.groups) // nobody is left to hear of it
		}
	}
	for _, fd := range outliving {
		unix.Close(fd) // not by the end, so that who looks at this process sees what it is
	}
}

// keptProcess is one that the keeper ends.
type keptProcess struct {
	fd     int // pidfd, or -1 where only groups are known
	end    unix.Signal
	groups []string
}

// replaces says whether old is what was known before p's process was born.
func (p *keptProcess) replaces(old keptProcess) bool {
	return old.fd < 0 && len(old.groups) > 0 && slices.Contains(p.groups, old.groups[0])
}

// keeperWait is how long a process may take to end that was killed.
const keeperWait = 10 * time.Second

// await waits for p's end: until then it makes groups, as OCI runtimes do.
func (p *keptProcess) await() {
	if p.fd < 0 {
		return
	}
	for until := time.Now().Add(keeperWait); time.Now().Before(until); {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 1000); n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

// alive closes the pidfds of processes that have ended and returns the others.
// Their groups the caller has removed, who lives.
func alive(all []keptProcess) []keptProcess {
	var left []keptProcess
	for _, k := range all {
		if k.fd < 0 {
			left = append(left, k)
			continue
		}
		p := []unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			unix.Close(k.fd)
			continue
		}
		left = append(left, k)
	}
	return left
}

// passedFD returns the descriptor that a message carried, or -1.
func passedFD(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	return fds[0]
}
