package layer

import (
	"fmt"
	"io"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// steeredView reads an upper directory in which overlayfs notes by attributes
// what else it stands for: files without their content (metacopy), directories
// that were moved here with all that is in them (redirect). What is there at all
// the directory says; what it is says the mounted overlay, in the words of the
// kernel that wrote the attributes.
type steeredView struct {
	upper  *fsroot.Root
	tree   entry.FS // upper, as it lies
	mount  *fsroot.Root
	merged entry.FS             // mount
	moved  map[string]bool      // directories with a redirect
	inodes map[[2]uint64]uint64 // device and inode → small numbers
}

// OpenSteered opens an upper directory that was mounted as root with metacopy,
// as the layer that it is; mount is the overlay with it, which stays the
// caller's, and is not changed meanwhile. Directories that hide what is below
// are Opaque, those that were moved here too. The view is for one goroutine, and
// for a walk from the root: a directory is listed before what is in it.
func OpenSteered(upper string, mount *fsroot.Root) (*View, error) {
	root, err := fsroot.Open(upper)
	if err != nil {
		return nil, err
	}
	return &View{&steeredView{
		upper: root, tree: root.FS(), mount: mount, merged: mount.FS(), moved: map[string]bool{}, inodes: map[[2]uint64]uint64{},
	}}, nil
}

// Close implements view.
func (v *steeredView) Close() error { return v.upper.Close() }

// RootImplied implements view.
func (v *steeredView) RootImplied() bool { return false }

// Lstat implements entry.FS.
func (v *steeredView) Lstat(p string) (entry.Entry, error) {
	e, err := v.tree.Lstat(p)
	if err != nil {
		return e, err
	}
	return v.convert(e)
}

// ReadDir implements entry.FS.
func (v *steeredView) ReadDir(p string) ([]entry.Entry, error) {
	within := v.within(p)
	from := v.tree
	if within {
		from = v.merged
	}
	list, err := from.ReadDir(p)
	for i := range list {
		if err != nil {
			return nil, err
		}
		if within {
			list[i].Xattrs = keptXattrs(list[i].Xattrs)
			err = v.number(&list[i])
		} else {
			list[i], err = v.convert(list[i])
		}
	}
	return list, err
}

// within reports whether p is a directory that was moved, or lies in one.
func (v *steeredView) within(p string) bool {
	for len(v.moved) > 0 && p != "." {
		if v.moved[p] {
			return true
		}
		p = entry.Parent(p)
	}
	return false
}

// Open implements entry.FS.
func (v *steeredView) Open(p string) (io.ReadCloser, error) { return v.merged.Open(p) }

// Loader is view's.
func (v *steeredView) Loader() entry.Loader { return entry.LoaderOf(v.merged) }

// convert makes a layer's entry of what lies in the upper directory.
func (v *steeredView) convert(raw entry.Entry) (entry.Entry, error) {
	if isWhiteoutDevice(&raw) {
		return entry.Entry{Path: raw.Path, Kind: entry.Whiteout}, nil
	}
	if _, ok := raw.Xattrs[prefixTrusted+"whiteout"]; ok || raw.Xattrs[opaqueTrusted] == "x" {
		return raw, pathError("read", raw.Path, fmt.Errorf("whiteout by attributes: %w", ErrSteering))
	}
	e, err := v.merged.Lstat(raw.Path)
	if err != nil {
		return e, err
	}
	if e.Kind != raw.Kind {
		return e, pathError("read", raw.Path, fmt.Errorf("it is a %s, and a %s in the mount: %w", raw.Kind, e.Kind, ErrSteering))
	}
	if _, ok := raw.Xattrs[prefixTrusted+"redirect"]; ok && e.Kind == entry.Dir {
		v.moved[raw.Path] = true
		e.Opaque = true
	}
	e.Opaque = e.Opaque || e.Kind == entry.Dir && raw.Xattrs[opaqueTrusted] == "y"
	e.Xattrs = keptXattrs(e.Xattrs)
	return e, v.number(&e)
}

// number gives the inodes of hard links small numbers. An overlay shows those of
// its layers, on devices of their own.
func (v *steeredView) number(e *entry.Entry) error {
	if e.Inode == 0 {
		return nil
	}
	i, err := v.mount.Lstat(e.Path)
	if err != nil {
		return err
	}
	key := [2]uint64{i.Dev, i.Ino}
	if v.inodes[key] == 0 {
		v.inodes[key] = uint64(len(v.inodes)) + 1
	}
	e.Inode = v.inodes[key]
	return nil
}
