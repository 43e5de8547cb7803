package initproc

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// InsecureDevices are the devices of the machine that a step with all rights
// has besides the usual ones, as in the reference builder.
func InsecureDevices() []string {
	list := []string{"kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control"}
	for i := range 8 {
		list = append(list, fmt.Sprintf("loop%d", i))
	}
	return list
}

// openAllDevices takes those of InsecureDevices that the machine has and this
// process may see.
func (k *kernelFS) openAllDevices() error {
	for _, name := range InsecureDevices() {
		host, err := unix.Open("/dev/"+name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return &StartError{Op: "mount", Path: "/dev/" + name, Err: err}
		}
		fd, err := clone(host)
		unix.Close(host)
		if err != nil {
			return &StartError{Op: "mount", Path: "/dev/" + name, Err: err}
		}
		k.devices = append(k.devices, device{name, fd})
	}
	return nil
}

// keepAll makes the process the command's user with every right that the
// caller has, whoever that user is.
func (p *initProc) keepAll(who identity) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return startError("user", p.User, err)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return startError("user", p.User, err)
	}
	if err := become(who); err != nil {
		return startError("user", p.User, err)
	}
	for i := range data {
		data[i].Effective, data[i].Inheritable = data[i].Permitted, data[i].Permitted
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return startError("user", p.User, err)
	}
	for c := range 64 {
		if data[c/32].Permitted&(1<<(c%32)) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return startError("user", p.User, fmt.Errorf("ambient set: %w", err))
		}
	}
	return nil
}
