package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroup is a control group made for one process.
type Cgroup struct {
	group string   // its path below a hierarchy's top
	dirs  []string // its folders: one of version 2, and one a controller of version 1
	v1    []string // those of version 1
	v2    *os.File // nil where there is none
}

// CgroupError is why there is no such control group.
type CgroupError struct {
	Path string
	Err  error
}

func (e *CgroupError) Error() string { return fmt.Sprintf("control group %s: %v", e.Path, e.Err) }
func (e *CgroupError) Unwrap() error { return e.Err }

var (
	errNoController = errors.New("this controller is not there")
	errNotDelegated = errors.New("this controller is not delegated to the group")
	errShared       = errors.New("other programs run in the group that was delegated")
)

// delegated is the way out for users who may make no control groups.
const delegated = "systemd-run --user --scope -p Delegate=yes whittle build …"

// Hint returns the way out.
func (e *CgroupError) Hint() string {
	switch {
	case errors.Is(e.Err, fs.ErrPermission) || errors.Is(e.Err, unix.EROFS) || errors.Is(e.Err, errShared):
		return "this user may not make control groups there: build as root, or in a group of its own: " + delegated
	case errors.Is(e.Err, errNotDelegated):
		return "the system's administrator delegates it: systemctl edit user@.service, with Delegate=cpu cpuset io memory pids below [Service]; or build as root"
	case errors.Is(e.Err, errNoController):
		return "is it compiled in and switched on? cat /proc/cgroups; without the flag the limits are those of the shell that calls"
	case errors.Is(e.Err, unix.EBUSY):
		return "processes run in that group, so that it cannot have groups below it: name another --cgroup-parent, or none"
	case errors.Is(e.Err, unix.EINVAL) || errors.Is(e.Err, unix.ERANGE):
		return "the kernel does not take this value: /sys/devices/system has the processors (cpu/online) and memory nodes (node/online) of this machine, and a control group gives no more than the one above it"
	}
	return "without the flag the limits are those of the shell that calls"
}

const (
	cgroupRoot = "/sys/fs/cgroup"
	ownParent  = "whittle" // of the groups that nobody has named a parent for

	runtimesGroup = "runtime" // the group of an OCI runtime, in one of whittle's
)

// isV2 says whether the hierarchy at root is that of version 2.
func isV2(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

func randomName() string { return strconv.Itoa(os.Getpid()) + "-" + rand.Text()[:8] }

// groupName is the path of a new group below parent.
func groupName(parent string) string { return path.Join("/", parent, "whittle-"+randomName()) }

// NewCgroup makes a group below parent, a path as /proc/PID/cgroup has it, and
// sets its limits. "" is a parent of whittle's own: at the top for root, else
// below the group that this process is in. Close removes it.
func NewCgroup(parent string, r Resources) (*Cgroup, error) {
	if parent == "" {
		own, err := callersGroup(cgroupRoot)
		if err != nil {
			return nil, err
		}
		parent = path.Join(own, ownParent)
	}
	// "a-b.slice" is systemd's name for the slice inside a.slice.
	if name, ok := strings.CutSuffix(parent, ".slice"); ok && !strings.Contains(parent, "/") {
		parent = slicePath(name)
	}
	group := groupName(parent)
	// Before there is one: this program may be killed at any moment.
	if err := keepGroups(inAllHierarchies(withAbove([]string{group})...)); err != nil {
		return nil, err
	}
	return makeCgroup(cgroupRoot, group, r)
}

// inAllHierarchies are the folders that there may be of groups.
func inAllHierarchies(groups ...string) []string {
	tops := []string{cgroupRoot}
	if !isV2(cgroupRoot) {
		tops, _ = filepath.Glob(cgroupRoot + "/*")
	}
	var out []string
	for _, group := range groups {
		for _, top := range tops {
			out = append(out, filepath.Join(top, group))
		}
	}
	return out
}

// makeCgroup makes the group in the control groups that are mounted at root:
// of version 2 there, or of version 1 in folders named as their controllers,
// and then perhaps of version 2 in "unified".
func makeCgroup(root, group string, r Resources) (c *Cgroup, err error) {
	for try := range 10 {
		time.Sleep(time.Duration(try) * time.Millisecond) // not at first
		c, err = tryCgroup(root, group, r)
		// Another process may just have removed the parent, as one that nobody uses, or have made
		// it anew: until a cpuset has processors it refuses those of what is in it (cpuset(7)).
		gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EACCES)
		if !gone || path.Base(path.Dir(group)) != ownParent {
			break
		}
	}
	return c, err
}

func tryCgroup(root, group string, r Resources) (*Cgroup, error) {
	c := &Cgroup{group: group}
	var err error
	if isV2(root) {
		err = c.makeV2(root, group, r.v2())
	} else {
		err = c.makeV1(root, group, r)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func slicePath(name string) string {
	var out, all []string
	for _, part := range strings.Split(name, "-") {
		all = append(all, part)
		out = append(out, strings.Join(all, "-")+".slice")
	}
	return path.Join(out...)
}

// makeV2 makes the group below top, and has the groups above it pass on what
// the settings need.
func (c *Cgroup) makeV2(top, group string, list []setting) error {
	var controllers []string
	for _, s := range list {
		if !slices.Contains(controllers, s.controller) {
			controllers = append(controllers, s.controller)
		}
	}
	dir := top
	for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
		if err := passOn(dir, controllers); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := makeFolder(dir); err != nil {
			return err
		}
	}
	c.dirs = append(c.dirs, dir)
	for _, s := range list {
		if err := s.write(dir); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &CgroupError{dir, unwrapPath(err)}
	}
	c.v2 = f
	return nil
}

// passOn has the groups below dir have controllers. What they have already may
// be said again.
func passOn(dir string, controllers []string) error {
	if len(controllers) == 0 {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return &CgroupError{dir, unwrapPath(err)}
	}
	for _, name := range controllers {
		if !slices.Contains(strings.Fields(string(b)), name) {
			missing := errNotDelegated
			if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil { // only the top has none
				missing = errNoController
			}
			return &CgroupError{filepath.Join(dir, "cgroup.controllers") + ": " + name, missing}
		}
	}
	return writeSetting(dir, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
}

// makeV1 makes the group for the controllers that limit something and are
// there, and for every one that a limit is for. A controller that version 1
// lacks version 2 may have.
func (c *Cgroup) makeV1(root, group string, r Resources) error {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}
	var made []string
	var unified []setting
	make := func(name string) error {
		if slices.Contains(made, name) {
			return nil
		}
		made = append(made, name)
		dir := filepath.Join(root, name, group)
		c.dirs, c.v1 = append(c.dirs, dir), append(c.v1, dir)
		return makeV1Folder(filepath.Join(root, name), dir)
	}
	for _, name := range []string{"memory", "cpu", "cpuset", "pids"} {
		if !there(name) {
			for _, s := range r.v2() {
				if s.controller == name {
					unified = append(unified, s)
				}
			}
			continue
		}
		if err := make(name); err != nil {
			return err
		}
	}
	if len(unified) > 0 {
		top := filepath.Join(root, "unified")
		if !isV2(top) {
			return &CgroupError{filepath.Join(root, unified[0].controller), errNoController}
		}
		if err := c.makeV2(top, group, unified); err != nil {
			return err
		}
	}
	if len(c.dirs) == 0 {
		return &CgroupError{root, errors.New("no controller is mounted there")}
	}
	for _, s := range r.v1() {
		if !slices.Contains(made, s.controller) {
			continue
		}
		if err := s.write(filepath.Join(root, s.controller, group)); err != nil {
			return err
		}
	}
	return nil
}

// makeV1Folder makes dir and what is missing above it. A new cpuset has no
// processors and nothing runs in it: it takes those of its parent.
func makeV1Folder(top, dir string) error {
	if dir == top {
		return nil
	}
	if err := makeV1Folder(top, filepath.Dir(dir)); err != nil {
		return err
	}
	if err := makeFolder(dir); err != nil {
		return err
	}
	if filepath.Base(top) != "cpuset" {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil && strings.TrimSpace(string(b)) != "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err == nil {
			err = writeSetting(dir, name, strings.TrimSpace(string(b)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func makeFolder(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil && err != unix.EEXIST {
		return &CgroupError{dir, err}
	}
	return nil
}

func writeSetting(dir, file, value string) error {
	name := filepath.Join(dir, file)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return &CgroupError{name + "=" + value, unwrapPath(err)}
	}
	return nil
}

// born makes a child a member from its first instruction on.
func (c *Cgroup) born(attr *syscall.SysProcAttr) {
	if c != nil && c.v2 != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(c.v2.Fd())
	}
}

// beside is the part of c of which an OCI runtime makes nothing a member: that
// of version 2 where others are of version 1.
func (c *Cgroup) beside() *Cgroup {
	if c == nil || c.v2 == nil || c.v1 == nil {
		return nil
	}
	return &Cgroup{v2: c.v2}
}

// add makes a process a member that is not one from birth.
func (c *Cgroup) add(pid int) error {
	if c == nil {
		return nil
	}
	for _, dir := range c.v1 {
		if err := writeSetting(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// folders are those that Close removes, for who has to do it in its stead.
func (c *Cgroup) folders() []string {
	if c == nil {
		return nil
	}
	return withAbove(c.dirs)
}

// withAbove adds to groups those of whittle's that they are in. What
// --cgroup-parent names is its owner's, whatever it is called.
func withAbove(groups []string) []string {
	out := slices.Clone(groups)
	for _, g := range groups {
		if above := path.Dir(g); path.Base(above) == ownParent || path.Base(above) == runtimesGroup {
			out = append(out, above)
		}
	}
	return out
}

// Close removes the group. Its processes must have ended.
func (c *Cgroup) Close() error {
	if c == nil {
		return nil
	}
	var err error
	if c.v2 != nil {
		err = c.v2.Close()
	}
	err = errors.Join(err, removeGroups(c.folders()))
	c.dirs, c.v2 = nil, nil
	return err
}

// removeGroups removes those of the folders, in this order, that are groups of
// whittle's, and their common parent where nobody else uses it.
func removeGroups(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		switch name := filepath.Base(dir); {
		case name == ownParent:
			_ = unix.Rmdir(dir) // another group may be in it
		case name == runtimesGroup || strings.HasPrefix(name, ownParent+"-"):
			if err := removeGroup(dir); err != nil && err != unix.ENOENT {
				errs = append(errs, &CgroupError{dir, err})
			}
		}
	}
	return errors.Join(errs...)
}

// removeGroup waits for the kernel to let go of processes that have ended.
func removeGroup(dir string) error {
	for range 100 {
		err := unix.Rmdir(dir)
		if err != unix.EBUSY {
			return err
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 10_000_000}, nil)
	}
	return unix.EBUSY
}
