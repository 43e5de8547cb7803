package initproc

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// terminal makes a terminal in the sandbox's own /dev/pts, makes it the
// process's, and sends the caller its side. No name of the root is used.
func (p *initProc) terminal(who identity) error {
	if p.Chroot { // it is the machine's, and at stdin already
		if err := unix.Fchown(0, who.uid, -1); err != nil {
			return err
		}
		return unix.IoctlSetInt(0, unix.TIOCSCTTY, 0)
	}
	pts, err := p.root.openPlain("dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	defer unix.Close(pts)
	if err := onDevpts(pts); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(pts, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	// The other side by descriptor: its name may mean something else by now.
	slave, err := unix.IoctlGetInt(pts, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	fd, err := openPeer(pts)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, who.uid, -1); err != nil {
		return err
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return err
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return err
	}
	if p.Join == 0 {
		if err := p.console(fd, slave); err != nil {
			return err
		}
	}
	unix.Close(fd)
	var e encoder
	e.num(reportTTY)
	return unix.Sendmsg(FDSocket, e.b, unix.UnixRights(pts), nil, 0)
}

func openPeer(pts int) (int, error) {
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(pts), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func onDevpts(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if st.Type != unix.DEVPTS_SUPER_MAGIC {
		return errors.New("/dev/pts/ptmx: not on a devpts")
	}
	return nil
}

// console shows the terminal as /dev/console too, as Docker does.
func (p *initProc) console(fd, number int) error {
	if err := unix.Mknodat(p.dev, "console", unix.S_IFREG|0o600, 0); err != nil {
		return err
	}
	r := root{fd: p.dev}
	at, err := r.openPlain("pts/"+strconv.Itoa(number), unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	c, err := clone(at)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	return moveTo(c, p.dev, "console")
}
