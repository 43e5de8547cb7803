package initproc

import "golang.org/x/sys/unix"

// loopbackUp brings up the loopback of a new network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// joinNamespaces enters the sandbox of a running process, whose first
// processes can see this one from now on. What they could reach through it
// (descriptors, the caller's root) the kernel keeps from them: it has rights
// that they lack, and is not dumpable, ptrace(2).
func (p *initProc) joinNamespaces() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	// A thread that shares its working directory with others cannot change its
	// mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return startError("namespace", "", err)
	}
	if err := unix.Setns(FDRoot, int(p.Join)); err != nil {
		return startError("namespace", "", err)
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return startError("root", "", err)
	}
	id, err := mountID(fd)
	p.root = root{fd: fd, mount: id}
	return startError("root", "", err)
}
