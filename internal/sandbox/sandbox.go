// Package sandbox owns the running of one process in namespaces of its own:
// its root, mounts, user, capabilities and seccomp filter.
//
// It promises that the process sees its root file system and what its Config
// names and nothing else: no descriptor, variable, mount or process of the
// caller; that nothing it mounts appears in the caller's mount namespace; that
// the process and all that it started die when the caller dies, however the
// caller dies; and that mount points made for the run are gone from the root
// afterwards. Defaults (capabilities, seccomp profile, masked paths, devices,
// umask) are those of Docker.
//
// The caller's own program is started again as the process's init, as the
// caller's keeper and in a user namespace, which is why MaybeInit must be the
// first line of main. Not root: ReexecInUserNS first
// moves the whole program into a user namespace, and all else is the same.
//
// It does not know images, layers or Dockerfiles, does not limit memory or
// time, and never opens by name, from outside, a path inside a root.
package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// MaybeInit must be the first line of main. In a process that this package
// started it does that process's job: a keeper never returns; the first
// process of a user namespace returns once the namespace is ready, with
// os.Args as they were given to the program. In any other process it returns
// at once. (A sandbox's init never gets to main, see package initproc.)
func MaybeInit() {
	switch {
	case len(os.Args) == 0:
	case os.Args[0] == argvKeeper:
		runKeeper()
		os.Exit(0)
	case os.Args[0] == argvBox:
		runBox()
		os.Exit(0)
	case os.Args[0] == argvProbe:
		os.Exit(probeProc())
	case os.Args[0] == argvPasta:
		os.Exit(becomePasta(os.Args[1:]))
	case os.Args[0] == argvReaper:
		runReaper(os.Args[1:])
		os.Exit(0)
	case os.Args[0] == argvOCI:
		runHost()
		os.Exit(1)
	case os.Args[0] == argvUserNS:
		enterUserNS(os.Args[1:])
	}
}

// Config says what to run. The zero value of every field but Root and Args is
// a usable default.
type Config struct {
	// Root becomes "/". It is a detached mount (fsmount, open_tree) or a
	// directory opened with O_PATH, and stays the caller's. A detached mount
	// serves one run: kernels before 6.15 can only move it.
	Root *os.File

	// Isolation says how. What holds of Config in the mode Chroot is said there.
	Isolation Isolation
	// Scratch is a folder on the file system of Root, and outside of it, that the
	// mode Chroot needs for what lies in the way meanwhile.
	Scratch string
	// Held are files that the mode Chroot keeps open until all is back in its
	// place, also when the caller is killed: locks of what is mounted.
	Held []*os.File

	Args []string // Args[0] is looked up in the PATH of Env, inside Root
	Env  []string // the whole environment; HOME is added when it is absent
	Dir  string   // "" means "/"; made, owned by User, when it does not exist

	// User is "", name, uid, name:group or uid:gid, looked up in the root's
	// passwd and group files. "" is 0:0 without a look into the files.
	User string

	Hostname string   // "" means DefaultHostname
	Network  string   // NetworkHost (also ""), NetworkNone or NetworkPrivate
	Hosts    []string // more lines for /etc/hosts, "ip\tname"

	// ResolvConf mounts generated /etc/hosts and /etc/resolv.conf, read-only
	// when ReadOnlyEtc is set.
	ResolvConf  bool
	ReadOnlyEtc bool

	Mounts       []Mount // made in this order
	ShmSize      int64   // of /dev/shm in bytes; 0 means 64 MiB
	ReadOnlyRoot bool
	NoNewPrivs   bool

	// Insecure gives the process every right that the caller has: all
	// capabilities, no seccomp filter, a writable /sys, the machine's devices.
	Insecure bool
	Rlimits  []Rlimit // the others are the caller's
	Cgroup   *Cgroup  // in which the process starts; nil is the caller's

	// Spares, if not nil, keeps an init ready for the next process.
	Spares *Spares

	// Emulator runs programs of another machine, see FindEmulator. With one,
	// the process cannot make devices, whatever its other rights are.
	Emulator *Emulator

	// Stdin nil is /dev/null, and so are Stdout and Stderr. An *os.File is
	// handed over as it is; anything else is copied through a pipe.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY gives the process a terminal of its own; what it writes there comes
	// out of Stdout.
	TTY bool
}

// The values of Config.Network.
const (
	NetworkHost    = "host"    // the caller's network
	NetworkNone    = "none"    // loopback only
	NetworkPrivate = "private" // loopback only, to be reached by DialIn
	NetworkPasta   = "pasta"   // its own, from which pasta leads out, and nothing in
)

// DefaultHostname is the host name of a build step.
const DefaultHostname = "buildkitsandbox"

// Mount is a file or directory that the process sees at Target.
type Mount struct {
	// Target is a path in the root; its links are followed inside the root. A
	// target that does not exist is made, and removed after the run.
	Target string
	// File or Path is what to bind. File is a detached mount or a file opened
	// with O_PATH, Path a path of the host. Both empty: a new tmpfs.
	File *os.File
	Path string
	// Sub is a path inside what is bound, resolved inside it without ever
	// leaving it, and bound in its stead.
	Sub      string
	ReadOnly bool
	// Options are those of a tmpfs: size=, mode=, uid=, gid=, nr_inodes=.
	Options []string
	// Content, if not nil, is a file that is made in memory and bound.
	Content *Content
}

// Content is a file that lies in memory only, such as a secret.
type Content = initproc.File

// Rlimit is a limit of setrlimit(2).
type Rlimit = initproc.Rlimit

// Status is how a process ended.
type Status struct {
	Code   int            // exit code; 128 + Signal when a signal ended it
	Signal syscall.Signal // 0 unless a signal ended it
	OOM    bool           // a process was killed for lack of memory meanwhile, and this one seems to be why it failed
	Killed bool           // it failed in another way after a process in a control group of its own was killed for lack of memory
}

// Process is a process that Start or StartIn started.
type Process struct {
	proc   *os.Process
	root   *os.File // for the removal of stubs; nil in StartIn
	stubs  []initproc.Stub
	tty    *terminal
	told   *os.File      // of an OCI runtime: how the command ended
	group  *runtimeGroup // of an OCI runtime
	pasta  *pasta        // of a network that leads out
	ended  chan struct{}
	status Status
	err    error

	box   *os.File     // of a chroot: the socket to its box, which is proc
	boxed atomic.Int64 // its process

	// Where there is no pid namespace: proc is the reaper.
	reaped  *os.File                // says how the command ended
	said    chan syscall.WaitStatus // has heard it
	command *os.Process
}

// ErrMemory says that the kernel killed the process for lack of memory before
// it was the command.
var ErrMemory = errors.New("killed for lack of memory before it began")

// ErrNotInPath says that no directory of PATH has the command.
var ErrNotInPath = initproc.ErrNotInPath

// StartError is why a process could not be started.
type StartError = initproc.StartError

// Run starts c's process and waits for its end. A status that is not zero is
// no error. When ctx ends, all processes of the sandbox are killed and the
// error is the cause.
func Run(ctx context.Context, c *Config) (Status, error) {
	p, err := Start(ctx, c)
	if err != nil {
		return Status{}, err
	}
	return p.Wait()
}

// Pid returns the process's id as the caller sees it.
func (p *Process) Pid() int {
	if pid := p.boxed.Load(); pid != 0 {
		return int(pid)
	}
	return p.first().Pid
}

func (p *Process) first() *os.Process {
	if p.command != nil {
		return p.command
	}
	return p.proc
}

// Wait waits for the process's end, removes the mount points made for it, and
// returns how it ended. It may be called more than once.
func (p *Process) Wait() (Status, error) {
	<-p.ended
	return p.status, p.err
}

// Signal sends sig to the process. As the first of its pid namespace it only
// gets signals that it handles, and SIGKILL and SIGSTOP.
func (p *Process) Signal(sig syscall.Signal) error {
	if p.box != nil {
		if say(int(p.box.Fd()), &word{Signal: sig}, -1) != nil {
			return os.ErrProcessDone
		}
		return nil
	}
	return p.first().Signal(sig) // through its pidfd: never another process
}
