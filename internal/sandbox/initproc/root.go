package initproc

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// root is a file system that its owner does not trust, by a descriptor of its
// top directory. No path in it is ever resolved by the kernel's usual rules.
type root struct {
	fd    int
	mount uint64 // id of the mount at the top; what lies on others is not the root's
}

const maxLinks = 40 // as the kernel's MAXSYMLINKS, path_resolution(7)

// open opens name as a process with this root would. Links through /proc to
// files elsewhere are refused.
func (r *root) open(name string, flags int) (int, error) {
	return r.openHow(name, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// openPlain opens name, a path that has no links in it and crosses no ".."; if
// it does, that is an error.
func (r *root) openPlain(name string, flags int) (int, error) {
	return r.openHow(name, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}

func (r *root) openHow(name string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(r.fd, name, how)
		// EAGAIN: the kernel saw a rename or mount meanwhile, openat2(2).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// maker makes what is missing on the way to a path and says what it made.
type maker struct {
	root
	mode uint32 // of directories
	made func(parent int, physical string, dir bool, before int64) error
}

// place opens the file or directory at name with O_PATH, following links
// inside the root, and makes it and its parents when they do not exist.
func (m *maker) place(name string, dir bool) (int, error) {
	if fd, err := m.open(name, unix.O_PATH); err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	fd, _, err := m.placeAt(name, dir)
	return fd, err
}

// placeAt is place, and says where the file or directory is: by a path from
// the root without links.
func (m *maker) placeAt(name string, dir bool) (fd int, physical string, err error) {
	rest := splitPath(name)
	cur := "." // physical
	for links := 0; len(rest) > 0; {
		el := rest[0]
		rest = rest[1:]
		if el == ".." {
			cur = path.Dir(cur)
			continue
		}
		next := path.Join(cur, el)
		target, err := m.step(cur, next, el, dir || len(rest) > 0)
		if err != nil {
			return -1, cur, err
		}
		if target == "" {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return -1, cur, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			cur = "."
		}
		rest = append(splitPath(target), rest...)
	}
	fd, err = m.openPlain(cur, unix.O_PATH)
	return fd, cur, err
}

// step looks at the element el of the physical directory cur. It returns the
// target if el is a link, and makes el if it does not exist.
func (m *maker) step(cur, next, el string, dir bool) (string, error) {
	parent, err := m.openPlain(cur, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	err = unix.Fstatat(parent, el, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return "", m.makeAt(parent, el, next, dir)
	}
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, el, buf)
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return string(buf[:max(n, 0)]), err
}

func (m *maker) makeAt(parent int, el, physical string, dir bool) error {
	before, err := mtime(parent)
	if err != nil {
		return err
	}
	if dir {
		err = unix.Mkdirat(parent, el, m.mode)
	} else {
		err = unix.Mknodat(parent, el, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return err
	}
	return m.made(parent, physical, dir, before)
}

// splitPath returns the elements of name without the empty and "." ones.
func splitPath(name string) []string {
	var list []string
	for el := range strings.SplitSeq(name, "/") {
		if el != "" && el != "." {
			list = append(list, el)
		}
	}
	return list
}

func mtime(fd int) (int64, error) {
	var st unix.Stat_t
	err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	return st.Mtim.Nano(), err
}

// mountID returns the id of the mount that fd is on.
func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err
}

// describe fills in what removeStub has to know of what was just made.
func describe(parent int, physical string, dir bool, before int64) (Stub, error) {
	s := Stub{path: physical, dir: dir, before: before}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, path.Base(physical), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return s, err
	}
	s.ino = st.Ino
	var err error
	s.after, err = mtime(parent)
	return s, err
}

// RemoveStubs removes from the directory rootFD the mount points of a run that
// has ended, the last made first. What the run has put in their place, or put
// something into, stays. A directory that held one gets its mtime from before
// the run back, unless the run changed the directory too.
func RemoveStubs(rootFD int, stubs []Stub) error {
	r := root{fd: rootFD}
	var errs []error
	for i := len(stubs) - 1; i >= 0; i-- {
		if err := r.removeStub(stubs[i]); err != nil {
			errs = append(errs, fmt.Errorf("mount point /%s: %w", stubs[i].path, err))
		}
	}
	return errors.Join(errs...)
}

func (r *root) removeStub(s Stub) error {
	parent, err := r.openPlain(path.Dir(s.path), unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil // the run has put something else there
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	name := path.Base(s.path)
	var st unix.Stat_t
	err = unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil || !s.is(&st) {
		return err
	}
	last, err := mtime(parent)
	if err != nil {
		return err
	}
	flags := 0
	if s.dir {
		flags = unix.AT_REMOVEDIR
	}
	err = unix.Unlinkat(parent, name, flags)
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	if err != nil {
		return err
	}
	if last == s.after {
		last = s.before
	}
	return setMtime(parent, last)
}

// is reports whether st is the Stub itself, with nothing put into it.
func (s Stub) is(st *unix.Stat_t) bool {
	if st.Ino != s.ino {
		return false
	}
	if s.dir {
		return st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
}

// setMtime sets the mtime of the open directory fd.
func setMtime(fd int, nsec int64) error {
	sec, rest := nsec/int64(time.Second), nsec%int64(time.Second)
	if rest < 0 { // before 1970
		sec, rest = sec-1, rest+int64(time.Second)
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(0)}
	ts[1] = unix.Timespec{Sec: sec, Nsec: rest}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), ts, 0)
}
