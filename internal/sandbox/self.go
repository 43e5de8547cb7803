package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// self opens the running program so that it can be executed, but never
// written, through what it opens: a process of a sandbox can reach the program
// of its init through /proc/PID/exe, and could overwrite it on the host when
// it is root (CVE-2019-5736). The way to the file is a read-only mount that is
// attached nowhere.
func self() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		// The program was started in another mount namespace, which is so
		// after ReexecInUserNS: look for the same file in this one.
		if fd, err = selfByName(); err != nil {
			return nil, err
		}
	}
	if err := readOnly(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("own program read-only: %w", err)
	}
	return os.NewFile(uintptr(fd), "whittle"), nil
}

// readOnly makes a detached mount read-only.
func readOnly(fd int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
}

func selfByName() (int, error) {
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("own program %s: %w", name, err)
	}
	var want, got unix.Stat_t
	err = unix.Stat("/proc/self/exe", &want)
	if err == nil {
		err = unix.Fstat(fd, &got)
	}
	if err == nil && (want.Dev != got.Dev || want.Ino != got.Ino) {
		err = fmt.Errorf("own program %s: it was replaced while running", name)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
