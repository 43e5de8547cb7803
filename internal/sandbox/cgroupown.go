package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// callerLeaf is the group into which the caller goes, out of the way of those
// that it makes beside it.
const callerLeaf = "whittle-caller"

// callersGroup is the group below which this process may make groups: the top
// for root, and for others the group that they are in, if it was delegated to
// them. In version 2 a group that passes controllers on has no processes of its
// own, so this program goes into one of its own below it.
func callersGroup(root string) (string, error) {
	if !isV2(root) || unix.Access(root, unix.W_OK) == nil {
		return "/", nil
	}
	own, err := groupOf("/proc/self/cgroup", "")
	if err != nil {
		return "", &CgroupError{root, err}
	}
	if path.Base(own) == callerLeaf {
		return path.Dir(own), nil
	}
	return own, vacate(filepath.Join(root, own))
}

// groupOf reads a process's group of a controller of version 1, or with "" that
// of version 2 (cgroups(7), /proc/[pid]/cgroup).
func groupOf(file, controller string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	group, ok := groupIn(string(b), controller)
	if !ok {
		return "", errNoController
	}
	return group, nil
}

// groupIn is groupOf for a text that was read already.
func groupIn(text, controller string) (group string, ok bool) {
	for line := range strings.Lines(text) {
		of := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(of) == 3 && slices.Contains(strings.Split(of[1], ","), controller) {
			return of[2], true
		}
	}
	return "", false
}

// vacate moves this process, and those that it comes from and that come from
// it, from the group dir into one below. It may be repeated.
func vacate(dir string) error {
	leaf := filepath.Join(dir, callerLeaf)
	if err := unix.Mkdir(leaf, 0o755); err != nil && err != unix.EEXIST {
		return &CgroupError{dir, err}
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return &CgroupError{dir, unwrapPath(err)}
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	pids := strings.Fields(string(b))
	for _, pid := range pids {
		if exe, err := os.Readlink("/proc/" + pid + "/exe"); !errors.Is(err, fs.ErrNotExist) && exe != self {
			_ = unix.Rmdir(leaf)
			return &CgroupError{dir, fmt.Errorf("process %s: %w", pid, errShared)}
		}
	}
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		var gone *CgroupError
		if err := writeSetting(leaf, "cgroup.procs", pid); errors.As(err, &gone) && gone.Err != unix.ESRCH {
			return err
		}
	}
	return nil
}
