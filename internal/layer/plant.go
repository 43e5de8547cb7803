package layer

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// UnpackOptions says what sort of tree is wanted.
type UnpackOptions struct {
	// Userxattr marks opaque directories with user.overlay.opaque, for
	// overlays in a user namespace, instead of trusted.overlay.opaque.
	Userxattr bool
}

// A planter writes entries into a tree. It may be used by several goroutines
// for different names.
type planter struct {
	prefix string // of overlay's attributes
	uid    uint32
	gid    uint32
	single bool // there is no other id
	side   sideWriter

	mu        sync.Mutex
	whiteouts map[string]bool // directories that delete something
}

func newPlanter(o UnpackOptions) *planter {
	p := &planter{
		prefix: prefixTrusted, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), whiteouts: map[string]bool{},
		single: SingleID(),
	}
	if o.Userxattr {
		p.prefix = prefixUser
	}
	p.side.s.Prefix = p.prefix
	return p
}

// plant makes e as name in dir. Directories get their final metadata only by
// finish, after their content. fill writes a regular file's content.
func (p *planter) plant(dir *fsroot.Root, name string, e *entry.Entry, fill func(*os.File) error) error {
	switch e.Kind {
	case entry.Dir:
		return dir.Mkdir(name, 0o700)
	case entry.Whiteout:
		p.mu.Lock()
		p.whiteouts[entry.Parent(e.Path)] = true
		p.mu.Unlock()
		return dir.Mknod(name, syscall.S_IFCHR, 0, 0)
	case entry.File:
		return p.file(dir, name, e, fill)
	case entry.Symlink:
		if err := dir.Symlink(e.Link, name); err != nil {
			return err
		}
	case entry.Char, entry.Block:
		if isWhiteoutDevice(e) {
			return errWhiteoutDevice
		}
		made, err := p.device(dir, name, e)
		if err != nil || !made {
			return err
		}
	case entry.Fifo:
		if err := dir.Mknod(name, syscall.S_IFIFO|e.Mode, 0, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a layer has no %s", e.Kind)
	}
	return p.finish(dir, name, e)
}

func (p *planter) file(dir *fsroot.Root, name string, e *entry.Entry, fill func(*os.File) error) (err error) {
	f, err := dir.OpenNoFollow(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if e.Size > 0 {
		if err := fill(f); err != nil {
			return err
		}
	}
	return p.finish(dir, name, e)
}

// device reports false for a device that this process may not make, which
// then goes to the side file.
func (p *planter) device(dir *fsroot.Root, name string, e *entry.Entry) (made bool, err error) {
	typ := uint32(syscall.S_IFCHR)
	if e.Kind == entry.Block {
		typ = syscall.S_IFBLK
	}
	err = dir.Mknod(name, typ|e.Mode, e.Major, e.Minor)
	if errors.Is(err, syscall.EPERM) {
		p.side.device(*e)
		return false, nil
	}
	return err == nil, err
}

// IDsHint is the way out for who lacks an id.
const IDsHint = "more ids are given in /etc/subuid and /etc/subgid; root has all of them"

// OwnerError is a file whose owner this process cannot give it.
type OwnerError struct {
	Path     string
	UID, GID uint32
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("/%s: owner %d:%d does not exist in this user namespace", e.Path, e.UID, e.GID)
}

// Hint returns the way out.
func (e *OwnerError) Hint() string {
	return IDsHint
}

// finish sets the metadata. The order matters: chown takes away the set-id
// bits and the capability attribute, and setting anything changes no mtime.
func (p *planter) finish(dir *fsroot.Root, name string, e *entry.Entry) error {
	if p.foreign(e) {
		p.side.owner(e)
	} else if e.UID != p.uid || e.GID != p.gid {
		err := dir.Chown(name, e.UID, e.GID)
		if errors.Is(err, syscall.EINVAL) {
			return &OwnerError{e.Path, e.UID, e.GID}
		}
		if err != nil {
			return err
		}
	}
	if e.Kind != entry.Symlink {
		if err := dir.Chmod(name, e.Mode); err != nil {
			return err
		}
	}
	if err := p.xattrs(dir, name, e); err != nil {
		return err
	}
	return dir.Utimes(name, e.Mtime)
}

func (p *planter) xattrs(dir *fsroot.Root, name string, e *entry.Entry) error {
	if e.Kind == entry.Dir {
		p.mu.Lock()
		whiteouts := p.whiteouts[e.Path]
		p.mu.Unlock()
		for n, v := range marks(e.Opaque, whiteouts) {
			if err := dir.Setxattr(name, p.prefix+n, v); err != nil {
				return err
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(e.Xattrs)) {
		err := dir.Setxattr(name, n, e.Xattrs[n])
		switch {
		case err == nil:
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.E2BIG):
			// This file system, or this process, cannot: trusted attributes in
			// a user namespace, user ones on a symlink, or too many of them.
			p.side.xattrs(e)
		default:
			return fmt.Errorf("%s: attribute %s: %w", e.Path, n, errnoOf(err))
		}
	}
	return nil
}

// errnoOf leaves the path of the tree, which nobody knows, out of an error.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// copyIn copies size bytes of r to a new file.
func copyIn(f *os.File, r io.Reader, size int64) error {
	n, err := io.Copy(f, io.LimitReader(r, size))
	if err != nil {
		return err
	}
	if n < size {
		return fmt.Errorf("content ended %d bytes early: %w", size-n, io.ErrUnexpectedEOF)
	}
	return nil
}
