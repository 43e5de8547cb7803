package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Resources are limits that a control group sets. Zero values set none.
type Resources struct {
	Memory     int64  // bytes
	MemorySwap int64  // bytes, memory included; -1 is no limit
	CPUShares  uint64 // 2 to 262144; 1024 is the usual weight
	CPUPeriod  uint64 // microseconds
	CPUQuota   int64  // microseconds in each period
	CPUs, Mems string // lists of numbers, as "0-2,4"
}

// Cgroup is a control group made for one process.
type Cgroup struct {
	dirs []string // its folders: one of version 2, or one a controller of version 1
	v2   *os.File // nil for version 1
}

// CgroupError is why there is no such control group.
type CgroupError struct {
	Path string
	Err  error
}

func (e *CgroupError) Error() string { return fmt.Sprintf("control group %s: %v", e.Path, e.Err) }
func (e *CgroupError) Unwrap() error { return e.Err }

// Hint returns the way out.
func (e *CgroupError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) || errors.Is(e.Err, unix.EROFS) {
		return "this user may not make control groups there: build as root, or inside systemd-run --user --scope -p Delegate=yes and name that scope's group"
	}
	if errors.Is(e.Err, unix.EINVAL) && !strings.Contains(e.Path, "subtree_control") || errors.Is(e.Err, unix.ERANGE) {
		return "the kernel does not take this value: /sys/devices/system has the processors (cpu/online) and memory nodes (node/online) of this machine, and a control group gives no more than the one above it"
	}
	return "is the controller there? cat /proc/cgroups; without the flag the limits are those of the shell that calls"
}

const cgroupRoot = "/sys/fs/cgroup"

// NewCgroup makes a group below parent, a path as /proc/PID/cgroup has it, and
// sets its limits. "" is a parent of whittle's own. Close removes it.
func NewCgroup(parent string, r Resources) (*Cgroup, error) {
	if parent == "" {
		parent = "whittle"
	}
	// "a-b.slice" is systemd's name for the slice inside a.slice.
	if name, ok := strings.CutSuffix(parent, ".slice"); ok && !strings.Contains(parent, "/") {
		parent = slicePath(name)
	}
	group := path.Join("/", parent, "whittle-"+strconv.Itoa(os.Getpid())+"-"+rand.Text()[:8])
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return nil, &CgroupError{cgroupRoot, err}
	}
	c := &Cgroup{}
	var err error
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		err = c.makeV2(group, r)
	} else {
		err = c.makeV1(group, r)
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

// setting is one file of a control group.
type setting struct{ controller, file, value string }

func (c *Cgroup) makeV2(group string, r Resources) error {
	list := r.v2()
	dir := cgroupRoot
	for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
		for _, s := range list {
			// What is on already may be said again.
			if err := writeSetting(dir, "cgroup.subtree_control", "+"+s.controller); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return &CgroupError{dir, errors.Unwrap(err)}
		}
	}
	c.dirs = []string{dir}
	for _, s := range list {
		if err := writeSetting(dir, s.file, s.value); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &CgroupError{dir, err}
	}
	c.v2 = f
	return nil
}

// makeV1 makes the group for the controllers that limit something and are
// there, and for every one that a limit is for.
func (c *Cgroup) makeV1(group string, r Resources) error {
	list := r.v1()
	controllers := []string{"memory", "cpu", "cpuset", "pids"}
	needed := map[string]bool{}
	for _, s := range list {
		controllers, needed[s.controller] = append(controllers, s.controller), true
	}
	made := map[string]bool{}
	for _, name := range controllers {
		top := filepath.Join(cgroupRoot, name)
		if _, err := os.Stat(top); made[name] || err != nil && !needed[name] {
			continue
		}
		made[name] = true
		dir := filepath.Join(top, group)
		if err := makeV1Folder(top, dir); err != nil {
			return err
		}
		c.dirs = append(c.dirs, dir)
	}
	if len(c.dirs) == 0 {
		return &CgroupError{cgroupRoot, errors.New("no controller is mounted there")}
	}
	for _, s := range list {
		if err := writeSetting(filepath.Join(cgroupRoot, s.controller, group), s.file, s.value); err != nil {
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
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		var pe *fs.PathError
		errors.As(err, &pe)
		return &CgroupError{dir, pe.Err}
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

func writeSetting(dir, file, value string) error {
	name := filepath.Join(dir, file)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if err != nil {
		return &CgroupError{name + "=" + value, err}
	}
	return nil
}

// born makes a child a member from its first instruction on.
func (c *Cgroup) born(attr *syscall.SysProcAttr) {
	if c != nil && c.v2 != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(c.v2.Fd())
	}
}

// add makes a process a member that is not one from birth.
func (c *Cgroup) add(pid int) error {
	if c == nil || c.v2 != nil {
		return nil
	}
	for _, dir := range c.dirs {
		if err := writeSetting(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the group. Its processes must have ended.
func (c *Cgroup) Close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.v2 != nil {
		errs = append(errs, c.v2.Close())
	}
	for _, dir := range c.dirs {
		if err := removeGroup(dir); err != nil {
			errs = append(errs, &CgroupError{dir, err})
		}
	}
	c.dirs = nil
	return errors.Join(errs...)
}

// folders are c's folders as the keeper is told them.
func (c *Cgroup) folders() []byte {
	if c == nil {
		return nil
	}
	return []byte(strings.Join(c.dirs, "\x00"))
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

func (r *Resources) v2() []setting {
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value}) }
	if r.Memory > 0 {
		add("memory", "memory.max", strconv.FormatInt(r.Memory, 10))
	}
	switch {
	case r.MemorySwap < 0:
		add("memory", "memory.swap.max", "max")
	case r.MemorySwap > 0: // both together, in version 1
		add("memory", "memory.swap.max", strconv.FormatInt(max(r.MemorySwap-r.Memory, 0), 10))
	}
	if r.CPUShares > 0 {
		// As OCI runtimes do: 2…262144 onto 1…10000.
		add("cpu", "cpu.weight", strconv.FormatUint(1+(max(r.CPUShares, 2)-2)*9999/262142, 10))
	}
	if r.CPUQuota > 0 || r.CPUPeriod > 0 {
		quota, period := "max", uint64(100_000)
		if r.CPUQuota > 0 {
			quota = strconv.FormatInt(r.CPUQuota, 10)
		}
		if r.CPUPeriod > 0 {
			period = r.CPUPeriod
		}
		add("cpu", "cpu.max", fmt.Sprintf("%s %d", quota, period))
	}
	if r.CPUs != "" {
		add("cpuset", "cpuset.cpus", r.CPUs)
	}
	if r.Mems != "" {
		add("cpuset", "cpuset.mems", r.Mems)
	}
	return out
}

func (r *Resources) v1() []setting {
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value}) }
	if r.Memory > 0 {
		add("memory", "memory.limit_in_bytes", strconv.FormatInt(r.Memory, 10))
	}
	if r.MemorySwap != 0 {
		add("memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(r.MemorySwap, 10))
	}
	if r.CPUShares > 0 {
		add("cpu", "cpu.shares", strconv.FormatUint(r.CPUShares, 10))
	}
	if r.CPUPeriod > 0 {
		add("cpu", "cpu.cfs_period_us", strconv.FormatUint(r.CPUPeriod, 10))
	}
	if r.CPUQuota > 0 {
		add("cpu", "cpu.cfs_quota_us", strconv.FormatInt(r.CPUQuota, 10))
	}
	if r.CPUs != "" {
		add("cpuset", "cpuset.cpus", r.CPUs)
	}
	if r.Mems != "" {
		add("cpuset", "cpuset.mems", r.Mems)
	}
	return out
}
