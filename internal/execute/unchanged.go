package execute

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// leaveOut takes out of a step's upper directory what is in the file system
// below just so: what overlayfs copied up for a chown to the same owner, and
// directories in which files came and went. Of a directory the time does not
// count, as with the reference builder, whose layers never say either what the
// root directory is: here one that was changed is said. Steered says that it did
// nothing, as something in the directory stands for what lies elsewhere.
func leaveOut(up *rootfs.Upper, below entry.FS) (steered bool, err error) {
	view, err := layer.OpenTree(up.Dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if up.Metacopy {
		if steered, err = isSteered(view); steered || err != nil {
			return steered, err
		}
	}
	root, err := fsroot.Open(up.Dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	l := leaver{root: root, upper: view, below: below}
	e, err := view.Lstat(".")
	if err != nil {
		return false, err
	}
	was, err := below.Lstat(".")
	if err != nil {
		return false, err
	}
	if _, err := l.dir(e, false); err != nil {
		return false, err
	}
	if e.Opaque || !entry.SameAttributes(e, was) {
		return false, nil
	}
	return false, layer.ImplyRoot(up.Dir)
}

type leaver struct {
	root         *fsroot.Root
	upper, below entry.FS
}

// dir leaves out what is in a directory that both have, and reports whether
// nothing is left in it. What an opaque one hides is deleted name by name, as in
// the reference's layers: so what is the same can be left out there too.
func (l *leaver) dir(dir entry.Entry, hides bool) (empty bool, err error) {
	list, err := l.upper.ReadDir(dir.Path)
	if err != nil {
		return false, err
	}
	left, changed := len(list), false
	if hides {
		n, err := l.delete(dir.Path, list)
		if err != nil {
			return false, err
		}
		left, changed = left+n, n > 0
	}
	for _, e := range list {
		same, err := l.same(e, hides)
		if err != nil {
			return false, err
		}
		if !same {
			continue
		}
		if err := l.root.Remove(e.Path); err != nil {
			return false, err
		}
		left, changed = left-1, true
	}
	if changed {
		return left == 0, l.root.Utimes(dir.Path, dir.Mtime)
	}
	return left == 0, nil
}

// delete makes a whiteout of each name that the directory has below and not in
// the upper, and reports how many these are.
func (l *leaver) delete(dir string, upper []entry.Entry) (int, error) {
	gone, err := lacking(upper, l.below, dir)
	if err != nil {
		return 0, err
	}
	for n, name := range gone {
		if err := l.root.Mknod(name, syscall.S_IFCHR, 0, 0); err != nil {
			return n, err
		}
	}
	return len(gone), nil
}

// lacking returns the paths that the directory dir of below has and list, which
// lies over it, has not.
func lacking(list []entry.Entry, below entry.FS, dir string) ([]string, error) {
	had, err := below.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for i := range list {
		there[list[i].Path] = true
	}
	var gone []string
	for i := range had {
		if !there[had[i].Path] {
			gone = append(gone, had[i].Path)
		}
	}
	return gone, nil
}

// justSo reports whether e, of a layer and no directory, is what was, of the same
// kind, is in the file system below.
func justSo(e entry.Entry, upper entry.FS, was entry.Entry, below entry.FS) (bool, error) {
	if !entry.SameAttributes(e, was) || e.Mtime != was.Mtime {
		return false, nil
	}
	return entry.SameFile(e, upper, e.Path, was, below)
}

// same reports whether an entry of the upper says nothing, after it has left
// out what is in it. Hidden says that below shows nothing at its place so far.
func (l *leaver) same(e entry.Entry, hidden bool) (bool, error) {
	if e.Kind == entry.Whiteout {
		return false, nil
	}
	was, err := l.below.Lstat(e.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if e.Opaque {
		if err := l.unmark(e.Path); err != nil {
			return false, err
		}
	}
	if err != nil || was.Kind != e.Kind {
		return false, nil
	}
	if e.Kind == entry.Dir {
		empty, err := l.dir(e, hidden || e.Opaque)
		return empty && entry.SameAttributes(e, was), err
	}
	return justSo(e, l.upper, was, l.below)
}

// unmark makes a directory no longer opaque. Which attribute says so depends on
// who mounted the overlay.
func (l *leaver) unmark(dir string) error {
	attrs, err := l.root.Getxattrs(dir)
	if err != nil {
		return err
	}
	for name := range attrs {
		if strings.HasSuffix(name, ".overlay.opaque") {
			err = errors.Join(err, l.root.Removexattr(dir, name))
		}
	}
	return err
}
