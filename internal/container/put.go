package container

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// put unpacks a tar into the directory dir of c, whose own files are in root.
// Links in the container lead where they lead for its processes, never out of
// it; ".." and a leading slash in the tar stay in dir. What belongs into a
// folder of the host that is mounted there goes into that.
func put(root *fsroot.Root, c *Container, dir string, r io.Reader) (err error) {
	fsys, err := see(root.FS(), c.Spec.Mounts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fsys.close()) }()
	p := putter{root: root, fs: fsys, c: c, at: dir}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if err := p.entry(h, tr); err != nil {
			return fmt.Errorf("%s: %w", path.Join("/", dir, entry.Clean(h.Name)), err)
		}
	}
	for i := len(p.dirs) - 1; i >= 0; i-- {
		d := p.dirs[i]
		if err := d.root.Utimes(d.name, d.time); err != nil {
			return err
		}
	}
	// To the end of the stream, so that its writer is not cut off.
	_, err = io.Copy(io.Discard, r)
	return err
}

type putter struct {
	root *fsroot.Root // of the container's own files
	fs   *seen
	c    *Container
	at   string
	dirs []dirTime // whose times come last: what is put into them changes it
}

type dirTime struct {
	spot
	time entry.Time
}

func (p *putter) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader || entry.Clean(h.Name) == "." {
		return nil // a comment of git's; and the directory itself stays as it is
	}
	if err := check(h); err != nil {
		return err // before anything is removed for it
	}
	at, err := p.place(h.Name)
	switch {
	case err != nil:
		return err
	case at.name == "." && h.Typeflag == tar.TypeDir:
		return nil // what is mounted stays as it is, too
	case at.name == ".":
		return errors.New("is a folder that is mounted there, and a file does not replace it")
	}
	if h.Typeflag == tar.TypeLink {
		if err := p.checkLink(at, h.Linkname); err != nil {
			return err
		}
	}
	there, err := at.root.Lstat(at.name)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return p.dir(at, h, there.Kind, exists)
	}
	if exists && there.Kind == entry.Dir {
		return errors.New("is a directory, and a file does not replace it")
	}
	if exists {
		if err := at.root.Remove(at.name); err != nil {
			return err
		}
	}
	if err := p.make(at, h, content); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // all else is that of its other name
	}
	if err := attributes(at, h); err != nil {
		return err
	}
	return at.root.Utimes(at.name, entryTime(h))
}

// check refuses what could never be made.
func check(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeLink, tar.TypeFifo:
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= unix.PathMax {
			return fmt.Errorf("symlink with a target of %d bytes", len(h.Linkname))
		}
	case tar.TypeChar, tar.TypeBlock:
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return &Error{Msg: "character device 0/0 would delete a file of the layers below", Way: "leave it out of the archive: overlayfs takes it for a deletion"}
		}
		if sandbox.InUserNS() {
			return &Error{Msg: "is a device, and only root can make one", Way: "leave it out of the archive", Err: unix.EPERM}
		}
	default:
		return fmt.Errorf("entry type %q is unknown", h.Typeflag)
	}
	if h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID {
		return fmt.Errorf("owner %d:%d: there is no such id", h.Uid, h.Gid)
	}
	return nil
}

// checkLink refuses a hard link to nothing, to a directory, to itself and to
// where no hard link leads.
func (p *putter) checkLink(at spot, target string) error {
	old, err := p.place(target)
	if err != nil {
		return err
	}
	if old.root != at.root {
		return fmt.Errorf("hard link to /%s: is in another mount", old.path)
	}
	e, err := old.root.Lstat(old.name)
	if err == nil && (old == at || e.Kind == entry.Dir) {
		err = fmt.Errorf("hard link to /%s: is no other file", old.path)
	}
	return err
}

func entryTime(h *tar.Header) entry.Time {
	return entry.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())}
}

// place is where a name in the tar belongs: links on the way are followed, the
// last element is not. What is missing on the way is made.
func (p *putter) place(name string) (spot, error) {
	clean := entry.Clean(name)
	parent, err := entry.Resolve(p.fs, entry.Join(p.at, entry.Parent(clean)), true)
	if err != nil {
		return spot{}, err
	}
	if _, err := p.fs.Lstat(parent); err != nil {
		at, err := p.fs.spot(p.root, p.c, parent)
		if err != nil {
			return spot{}, err
		}
		if err := at.root.MkdirAll(at.name, 0o755); err != nil {
			return spot{}, err
		}
	}
	return p.fs.spot(p.root, p.c, entry.Join(parent, path.Base(clean)))
}

// dir makes a directory, or takes the one that is there, through a link too:
// many images have their /lib and /bin elsewhere.
func (p *putter) dir(at spot, h *tar.Header, there entry.Kind, exists bool) error {
	if exists && there == entry.Symlink {
		to, err := entry.Resolve(p.fs, at.path, true)
		if err != nil {
			return err
		}
		e, err := p.fs.Lstat(to)
		if err != nil || e.Kind != entry.Dir {
			return errors.New("is a link to no directory, and a directory does not replace it")
		}
		return nil
	}
	if exists && there != entry.Dir {
		return errors.New("is no directory, and one does not replace it")
	}
	if !exists {
		if err := at.root.Mkdir(at.name, 0o700); err != nil {
			return err
		}
	}
	p.dirs = append(p.dirs, dirTime{at, entryTime(h)})
	return attributes(at, h)
}

func (p *putter) make(at spot, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return makeFile(at, content)
	case tar.TypeSymlink:
		return at.root.Symlink(h.Linkname, at.name)
	case tar.TypeLink:
		old, err := p.place(h.Linkname)
		if err != nil {
			return err
		}
		return at.root.Link(old.name, at.name)
	case tar.TypeFifo:
		return at.root.Mknod(at.name, unix.S_IFIFO|0o600, 0, 0)
	case tar.TypeChar:
		return at.root.Mknod(at.name, unix.S_IFCHR|0o600, uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeBlock:
		return at.root.Mknod(at.name, unix.S_IFBLK|0o600, uint32(h.Devmajor), uint32(h.Devminor))
	}
	return fmt.Errorf("entry type %q is unknown", h.Typeflag)
}

func makeFile(at spot, content io.Reader) (err error) {
	f, err := at.root.OpenNoFollow(at.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, content)
	return err
}

// attributes sets owner, mode and extended attributes, in the order in which
// one does not undo the other.
func attributes(at spot, h *tar.Header) error {
	err := at.root.Chown(at.name, uint32(h.Uid), uint32(h.Gid))
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("owner %d:%d: is outside this user's range of ids (/etc/subuid, /etc/subgid)", h.Uid, h.Gid)
	}
	if err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := at.root.Chmod(at.name, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok || attr != "security.capability" && !strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "user.overlay.") {
			continue // others are the host's, or would steer overlayfs
		}
		if err := at.root.Setxattr(at.name, attr, v); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

// maxID is the last id; the one after it means "leave as it is" to chown(2).
const maxID = 1<<32 - 2
