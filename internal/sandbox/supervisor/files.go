package supervisor

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// file is one that is served by this process although it has a place in the
// root: one of memory, a device, one that may only be
// read, or a stand-in.
type file struct {
	fd       int // of what is in memory
	memory   bool
	readOnly bool
	device   string
	standIn  bool // for something of /proc or /sys: a path leads there
}

// inode tells files apart, whatever name they were reached by.
type inode struct{ dev, ino uint64 }

// addFile takes f's content into a sealed file of memory.
func (s *Server) addFile(f File) error {
	fd, err := sealed(f.Content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if err := unix.Fchown(fd, f.UID, f.GID); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if err := unix.Fchmod(fd, f.Mode&0o777); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	own := &file{fd: fd, memory: true, readOnly: true}
	return s.watch(f.Path, own)
}

// watch serves the file at name from here. Its descriptor stays open: were the
// file removed and its inode free, the next new file would be taken for it.
func (s *Server) watch(name string, f *file) error {
	fd, err := s.beneath(clean(name), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	id, err := inodeOf(fd)
	s.inodes[id] = f
	return err
}

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	return inode{uint64(st.Dev), st.Ino}, err
}

// sealed is a new file of memory that nobody can change any more.
func sealed(content []byte) (int, error) {
	fd, err := unix.MemfdCreate("file", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	f := os.NewFile(uintptr(fd), "memory")
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil { // so that who gets it reads from the start
		return -1, err
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, err
	}
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
}

// own is a path of this process to one of its descriptors.
func own(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// clean is name as an absolute path without ".", ".." and empty elements. It
// must have no links.
func clean(name string) string { return join(split(name)) }

func join(elements []string) string { return "/" + strings.Join(elements, "/") }

// split returns the elements of an absolute path.
func split(name string) []string {
	var list []string
	for el := range strings.SplitSeq(name, "/") {
		switch el {
		case "", ".":
		case "..":
			list = list[:max(len(list)-1, 0)]
		default:
			list = append(list, el)
		}
	}
	return list
}

// beneath opens a file of the root by a path that has no links.
func (s *Server) beneath(name string, flags int) (int, error) {
	return openat2(s.root, strings.TrimPrefix(name, "/"), flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

// inRoot opens a file of the root as a process in it would.
func (s *Server) inRoot(name string, flags int) (int, error) {
	return openat2(s.root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		// EAGAIN: the kernel saw a rename meanwhile, openat2(2).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}
