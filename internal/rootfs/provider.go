package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
)

// Provider is a way to make a root file system out of layers.
type Provider string

// The providers.
const (
	Erofs Provider = "erofs" // tar layers mounted through their index, nothing unpacked
	Tree  Provider = "tree"  // tar layers unpacked once
	// Chroot mounts nothing: see Plants.
	Chroot Provider = "chroot"
)

var providers = [...]Provider{Erofs, Tree, Chroot}

// Finding is what the probe found of one provider.
type Finding struct {
	Provider Provider `json:"provider"`
	Works    bool     `json:"works"`
	Why      string   `json:"why,omitempty"` // what was refused
}

// Known reports whether want is a provider's name, or "", which names none.
func Known(want string) bool {
	return want == "" || slices.Contains(providers[:], Provider(want))
}

// Choose returns the provider to use in the store that the folder dir is in:
// it is tried there, and left empty. want forces one
// ("" lets the probe decide); a forced one that does not work is an error that
// says why. Choosing is by trying in the store itself, never by the kernel's
// version: the same kernel may refuse on another file system or in a user
// namespace. box says whether a process can be kept apart in a root that is no
// mount; nil is for who does not know, and then Chroot must be forced.
func Choose(dir, want string, userNS bool, box func(dir string) error) (Provider, error) {
	if !Known(want) {
		return "", fmt.Errorf("root file system provider %q: there are erofs, tree and chroot", want)
	}
	refused := &RefusedError{forced: want != ""}
	for _, p := range providers {
		if want != "" && p != Provider(want) || want == "" && p == Chroot && box == nil {
			continue
		}
		err := try(dir, p, userNS, box)
		if err == nil {
			return p, nil
		}
		refused.reasons = append(refused.reasons, fmt.Sprintf("%s: %v", p, err))
		refused.files = refused.files || errors.Is(err, unix.EMFILE)
		refused.rights = refused.rights || p == Tree && errors.Is(err, unix.EPERM)
		refused.boxless = p == Chroot && refused.rights
	}
	return "", refused
}

// RefusedError is why none of the providers that may be used works.
type RefusedError struct {
	reasons []string
	rights  bool // tree, which needs the least of those that mount, may not either
	boxless bool // and no step can run in a chroot
	forced  bool
	files   bool // one may have worked, had it been allowed to open more files
}

// Is makes the limit of open files known as the cause.
func (e *RefusedError) Is(target error) bool { return e.files && target == unix.EMFILE }

func (e *RefusedError) Error() string {
	return "no way to make a root file system: " + strings.Join(e.reasons, "; ")
}

// Hint returns the way out.
func (e *RefusedError) Hint() string {
	switch {
	case e.boxless:
		return "this user may not mount (CAP_SYS_ADMIN is missing), and steps cannot run in a chroot for the reason above: " +
			"run whittle as a user who is not root and has subordinate ids, or give the container Docker's default capabilities"
	case e.rights:
		return "this user may not mount (CAP_SYS_ADMIN is missing, as it is for root in most containers): " +
			"leave the provider and the isolation to whittle, run it as a user who is not root and has subordinate ids, or give the container that capability"
	case e.forced:
		return "leave WHITTLE_ROOTFS and --isolation out: the first provider that works is taken"
	}
	return "keep the store on a disk's file system, such as ext4, xfs or btrfs: --root DIR"
}

// Probe tries every provider in the folder dir of a store.
func Probe(dir string, userNS bool, box func(dir string) error) []Finding {
	var out []Finding
	for _, p := range providers {
		if p == Chroot && box == nil {
			continue
		}
		f := Finding{Provider: p, Works: true}
		if err := try(dir, p, userNS, box); err != nil {
			f.Works, f.Why = false, err.Error()
		}
		out = append(out, f)
	}
	return out
}

// try mounts a root of one tiny layer with an upper, as a step would.
func try(dir string, p Provider, userNS bool, box func(dir string) error) (err error) {
	if p == Chroot && box != nil {
		return box(dir)
	}
	if p == Chroot {
		return nil
	}
	tmp, err := os.MkdirTemp(dir, "probe")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	for _, d := range []string{"layer", "tree", "up", "work", "scratch"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o755); err != nil {
			return err
		}
	}
	var lower *os.File
	if p == Erofs {
		lower, err = tryErofs(filepath.Join(tmp, "layer"))
	} else {
		lower, err = os.Open(filepath.Join(tmp, "tree"))
	}
	if err != nil {
		return err
	}
	defer lower.Close()
	o := overlay{lowers: []*os.File{lower}, upper: filepath.Join(tmp, "up"), work: filepath.Join(tmp, "work"),
		userxattr: userNS, volatile: true, scratch: filepath.Join(tmp, "scratch")}
	m, _, err := o.mountAnyhow()
	if err != nil {
		return err
	}
	return m.Close()
}

func tryErofs(dir string) (*os.File, error) {
	b, err := layer.Create(dir)
	if err != nil {
		return nil, err
	}
	err = b.Add(entry.Entry{Path: "probe", Kind: entry.File, Mode: 0o644, Size: 5}, strings.NewReader("probe"))
	if err != nil {
		b.Abort()
		return nil, err
	}
	if _, err := b.Finish(); err != nil {
		return nil, err
	}
	return mountErofs(filepath.Join(dir, "index"), filepath.Join(dir, "tar"))
}

// setRoot gives the root of a mounted overlay the metadata of e.
func setRoot(m *os.File, e entry.Entry, userNS bool) error {
	fd, err := unix.Openat(int(m.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Fchown(fd, int(e.UID), int(e.GID))
	if errors.Is(err, unix.EINVAL) && layer.SingleID() {
		err = nil // there is no such id here: see layer.KeepOwners
	}
	if err != nil {
		return fmt.Errorf("root directory: chown: %w", err)
	}
	if err := unix.Fchmod(fd, e.Mode); err != nil {
		return fmt.Errorf("root directory: chmod: %w", err)
	}
	for name, value := range e.Xattrs {
		if userNS && strings.HasPrefix(name, "trusted.") {
			continue // nobody in a user namespace can see it either
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
			return fmt.Errorf("root directory: %s: %w", name, err)
		}
	}
	// The time comes last. The step changes it when it changes the directory.
	t := unix.Timespec{Sec: e.Mtime.Sec, Nsec: int64(e.Mtime.Nsec)}
	if err := unix.UtimesNanoAt(fd, ".", []unix.Timespec{t, t}, 0); err != nil {
		return fmt.Errorf("root directory: time: %w", err)
	}
	return nil
}
