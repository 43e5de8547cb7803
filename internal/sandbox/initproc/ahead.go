package initproc

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// AheadArgs are the arguments of an init that begins before its Setup is known,
// of which it can rely on this: the size of /dev/shm, and that the root is a mount
// with the file systems of an ordinary step.
func AheadArgs(shmSize int64) []string { return []string{Argv, strconv.FormatInt(shmSize, 10)} }

// kernelAhead makes the kernel's file systems and puts everything into them. Only
// into what is attached somewhere can something be mounted, before Linux 6.15,
// so that they lie in folders of their own until there is a root. Without AheadArgs
// there is nothing to do.
func kernelAhead(args []string) (*kernelFS, error) {
	if len(args) < 2 {
		return nil, nil
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return nil, err
	}
	if err := ownMounts(); err != nil {
		return nil, err
	}
	k, err := newKernelFS(&Setup{ShmSize: size})
	if err != nil {
		return nil, err
	}
	dir, err := newFS("tmpfs", attrPlain, "mode=700", "size=64k")
	if err == nil {
		err = attachOutside(dir)
	}
	if err != nil {
		return nil, startError("mount", "/proc", err)
	}
	defer unix.Close(dir)
	err = k.attach(func(name string) (int, error) {
		if err := unix.Mkdirat(dir, name, 0o700); err != nil {
			return -1, err
		}
		return unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	})
	if err != nil {
		return nil, err
	}
	return k, k.furnish()
}

// ownMounts makes the process's mounts its own.
func ownMounts() error {
	if err := leaveChroot(); err != nil {
		return startError("namespace", "mount", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return &StartError{Op: "namespace", Path: "mount", Err: err}
	}
	return nil
}
