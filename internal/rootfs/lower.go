package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/layer"
)

// Upper is where a mounted root keeps what is changed in it: two folders on
// the store's file system, empty at the first mount.
type Upper struct {
	Dir, Work string
	// Volatile promises that nobody needs the changes after a power cut unless
	// the store was synced since, and that they are mounted once.
	Volatile bool
	// MountPoints puts empty places for what a sandbox mounts (/dev, /proc,
	// /sys, two files in /etc) below the image.
	MountPoints bool
	// Metacopy lets overlayfs note in Dir, in attributes of its own, that an
	// inherited file has another owner, mode or place, without its content. What
	// Dir stands for then only MountChanged shows. It is for root in the first
	// user namespace, and not for steps that may set such attributes themselves.
	Metacopy bool
}

// maxLowers is how many layers of an image overlayfs stacks: OVL_MAX_STACK, and
// one is taken by the mount points.
const maxLowers = 500 - 1

// DepthError says that a file system has more layers than can be mounted.
type DepthError struct{ Layers int }

func (e *DepthError) Error() string {
	return fmt.Sprintf("a file system of %d layers; overlayfs mounts %d at most", e.Layers, maxLowers)
}

// Hint returns the way out.
func (e *DepthError) Hint() string {
	return "join instructions (RUN a && b), or begin a stage FROM scratch with COPY --from=STAGE / /"
}

// MountlessError says that the provider is Chroot, where a mount is needed.
type MountlessError struct{}

func (e *MountlessError) Error() string {
	return "a container needs mounts, which cannot be made here (provider chroot): only builds run without them"
}

// Hint returns the way out.
func (e *MountlessError) Hint() string {
	return "try what was built in a further RUN, or in a stage that nothing is copied from (--target); or take it elsewhere: whittle save, push or build --output"
}

// Mount returns the merged root of chain, detached. With an upper it can be
// written to; without, it is read-only. The root of an upper that is empty
// takes the metadata of the merged root below it.
func (r *Roots) Mount(ctx context.Context, chain Chain, upper *Upper) (*os.File, error) {
	if p, err := r.choose(); err != nil {
		return nil, err
	} else if p == Chroot {
		return nil, &MountlessError{}
	}
	o, err := r.overlay(ctx, chain)
	if err != nil {
		return nil, err
	}
	if upper == nil {
		if len(o.lowers) == 1 {
			// Without an upper overlayfs wants two layers.
			other, err := r.emptyFolder("empty too")
			if err != nil {
				return nil, err
			}
			o.lowers = append(o.lowers, other)
		}
		return r.mount(&o)
	}
	if upper.MountPoints {
		points, err := r.mountPoints()
		if err != nil {
			return nil, err
		}
		o.lowers = append(o.lowers, points)
	}
	o.upper, o.work, o.volatile, o.metacopy = upper.Dir, upper.Work, upper.Volatile, upper.Metacopy
	fresh, err := isEmpty(upper.Dir)
	if err != nil {
		return nil, err
	}
	m, err := r.mount(&o)
	if err != nil || !fresh {
		return m, err
	}
	if err := r.adoptRoot(ctx, m, chain); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// MountChanged returns the merged root of chain and of what an upper with
// Metacopy has, read-only and without places for mounts. Nothing may be mounted
// on the upper, nor written to it, at the same time.
func (r *Roots) MountChanged(ctx context.Context, chain Chain, upper *Upper) (*os.File, error) {
	o, err := r.overlay(ctx, chain)
	if err != nil {
		return nil, err
	}
	top, err := os.Open(upper.Dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	o.lowers, o.metacopy = slices.Concat([]*os.File{top}, o.lowers), true
	return r.mount(&o)
}

// overlay describes the mount of chain without an upper. It has one lower
// directory at least.
func (r *Roots) overlay(ctx context.Context, chain Chain) (overlay, error) {
	lowers, err := r.lowerDirs(ctx, chain)
	if err != nil {
		return overlay{}, err
	}
	empty, err := r.emptyFolder("empty")
	if err != nil {
		return overlay{}, err
	}
	if len(lowers) == 0 {
		lowers = append(lowers, empty)
	}
	return overlay{lowers: lowers, userxattr: r.user, scratch: empty.Name()}, nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0, nil
}

// emptyFolder is a folder in which nothing ever lies. Roots of scratch need a
// layer, and mount(2) a place that hides nothing else.
func (r *Roots) emptyFolder(name string) (*os.File, error) {
	return r.lowers.get(name, func() (*os.File, error) {
		dir, err := r.store.Folder("rootfs", name)
		if err != nil {
			return nil, err
		}
		return os.Open(dir)
	})
}

// mountPoints is a layer of empty places for what a sandbox mounts. Without it
// each run would make those that the image lacks, which copies /etc into the
// upper, and have to take them away again. They are in no view and no layer.
func (r *Roots) mountPoints() (*os.File, error) {
	return r.lowers.get("mount points", func() (*os.File, error) {
		dir, err := r.store.Folder("rootfs", "mount points")
		if err != nil {
			return nil, err
		}
		for _, d := range []string{"dev", "etc", "proc", "sys"} {
			path := filepath.Join(dir, d)
			if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, r.store.Explain(err)
			}
			if err := os.Chmod(path, 0o755); err != nil { // whatever the umask is: /etc shows through
				return nil, err
			}
		}
		for _, name := range []string{"etc/hosts", "etc/resolv.conf"} {
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|os.O_CREATE, 0o644)
			if err != nil {
				return nil, r.store.Explain(err)
			}
			f.Close()
		}
		return os.Open(dir)
	})
}

// lowerDirs opens the layers of chain, topmost first. Of a layer that is in
// the chain more than once only the topmost counts: it says everything that
// the others say, and overlayfs refuses a folder that it has already. Images
// with the same empty layer many times are common.
func (r *Roots) lowerDirs(ctx context.Context, chain Chain) ([]*os.File, error) {
	var tops []int
	seen := map[digest.Digest]bool{}
	for i, id := range slices.Backward(chain) {
		if !seen[id] {
			tops = append(tops, i)
		}
		seen[id] = true
	}
	if len(tops) > maxLowers {
		return nil, &DepthError{len(tops)}
	}
	if err := r.Gather(ctx, chain); err != nil {
		return nil, err
	}
	var lowers []*os.File
	for _, i := range tops {
		d, err := r.lower(ctx, chain[:i+1])
		if err != nil {
			return nil, err
		}
		lowers = append(lowers, d)
		t, err := r.top(ctx, chain[:i+1])
		if err != nil {
			return nil, err
		}
		if t.meta.OpaqueRoot {
			break // overlayfs knows opaque folders, but no opaque root
		}
	}
	return lowers, nil
}

// lower returns the topmost layer of chain as a directory, mounted or
// unpacked as the provider does it.
func (r *Roots) lower(ctx context.Context, chain Chain) (*os.File, error) {
	t, err := r.top(ctx, chain)
	if err != nil {
		return nil, err
	}
	return r.lowers.get(t.name(), func() (*os.File, error) {
		f, err := r.openLower(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", t.id.Short(), err)
		}
		return f, nil
	})
}

func (r *Roots) openLower(ctx context.Context, t topLayer) (*os.File, error) {
	if t.meta.Form == layer.FormTree {
		return os.Open(filepath.Join(t.dir, layer.TreeName))
	}
	provider, err := r.choose()
	if err != nil {
		return nil, err
	}
	index, err := r.index(ctx, t)
	if err != nil {
		return nil, err
	}
	if provider == Erofs {
		return mountErofs(index, filepath.Join(t.dir, layer.TarName))
	}
	path, err := r.unpacked(ctx, t, index)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// unpacked returns the folder of a tar layer for the tree provider. It is the
// folder "tree" inside a part of the layer, so that the side file which
// unpacking leaves beside it is part of it too.
func (r *Roots) unpacked(ctx context.Context, t topLayer, index string) (string, error) {
	name := "unpacked" + t.suffix
	path := filepath.Join(t.dir, name, layer.TreeName)
	if exists(path) {
		return path, nil
	}
	return path, r.store.AddToLayer(t.id, name, func(tmp string) error {
		if err := os.Mkdir(tmp, 0o700); err != nil {
			return err
		}
		return layer.Unpack(ctx, t.dir, index, filepath.Join(tmp, layer.TreeName), layer.UnpackOptions{Userxattr: r.user})
	})
}

// mount tries the new mount API and falls back to mount(2).
func (r *Roots) mount(o *overlay) (*os.File, error) {
	r.leaving.await(o)
	o.old = r.old.Load()
	m, old, err := o.mountAnyhow()
	if err == nil && old {
		r.old.Store(true)
	}
	return m, err
}

// mountAnyhow mounts with the new mount API, or where the kernel's overlayfs
// cannot be configured by it, with mount(2). Before Linux 6.5 such an overlay
// takes every option and refuses them all at the end; until 6.7 it refuses
// lowerdir+.
func (o *overlay) mountAnyhow() (m *os.File, old bool, err error) {
	if o.old {
		m, err = o.mountOld()
		return m, true, err
	}
	m, err = o.mountNew()
	if !errors.Is(err, errInvalid) {
		return m, false, err
	}
	m, oldErr := o.mountOld()
	if oldErr == nil {
		return m, true, nil
	}
	if errors.Is(err, errNoLowerdirPlus) {
		return nil, true, oldErr
	}
	return nil, false, err
}

// adoptRoot gives the root directory of a fresh upper the metadata of the root
// that the layers show: overlayfs takes them from the upper.
func (r *Roots) adoptRoot(ctx context.Context, m *os.File, chain Chain) error {
	fsys, err := r.View(ctx, chain)
	if err != nil {
		return err
	}
	e, err := fsys.Lstat(".")
	if err != nil {
		return err
	}
	return setRoot(m, e, r.user)
}
