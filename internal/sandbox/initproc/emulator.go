package initproc

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// register tells the kernel of the emulator, in an instance of binfmt_misc
// that is this user namespace's alone (there are such since Linux 6.7), and
// returns the instance: it forgets all when it is mounted nowhere. The kernel
// opens the emulator here (flag F), so that the root needs no file of it. The
// other flags are those of Debian's package: the program's own argv[0] is
// kept, it is opened for the emulator, and its set-id bits count.
func (e *Emulator) register() (int, error) {
	fd, err := newFS("binfmt_misc", attrNoExec)
	if err != nil {
		return -1, err
	}
	to, err := unix.Openat(fd, "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(to)
	line := fmt.Sprintf(":emulator:M::%s:%s:/proc/self/fd/%d:POCF", escaped(e.Magic), escaped(e.Mask), e.FD)
	if _, err := unix.Write(to, []byte(line)); err != nil {
		return -1, err
	}
	return fd, nil
}

func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, `\x%02x`, s[i])
	}
	return b.String()
}

// hideEmulator mounts the instance where the command does not see it, below
// what becomes /dev: so it is there for as long as the sandbox's mounts are.
func (p *initProc) hideEmulator(instance int) error {
	at, err := p.top("dev")
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return attach(instance, at)
}

// Devices makes a folder with the devices of a sandbox, attached nowhere, for
// an init that has no right to make them. It is EPERM where the caller has
// none either.
func Devices() (int, error) {
	fd, err := newFS("tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "mode=755", "size=64k")
	if err != nil {
		return -1, err
	}
	err = makeDevices(fd)
	for _, d := range defaultDevices { // whatever the caller's umask is
		if err == nil {
			err = unix.Fchmodat(fd, d.name, 0o666, 0)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func makeDevices(dir int) error {
	for _, d := range defaultDevices {
		if err := unix.Mknodat(dir, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return err
		}
	}
	return nil
}
