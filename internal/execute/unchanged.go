package execute

import (
	"errors"
	"io/fs"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// leaveOut takes out of a step's upper directory what is in the file system
// below just so: what overlayfs copied up for a chown to the same owner, and
// directories in which files came and went. Of a directory the time does not
// count, as with the reference builder, whose layers never say either what the
// root directory is: here one that was changed is said.
func leaveOut(upper string, below entry.FS) (err error) {
	view, err := layer.OpenTree(upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	root, err := fsroot.Open(upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	l := leaver{root: root, upper: view, below: below}
	e, err := view.Lstat(".")
	if err != nil {
		return err
	}
	was, err := below.Lstat(".")
	if err != nil {
		return err
	}
	if _, err := l.dir(e); err != nil {
		return err
	}
	if e.Opaque || !entry.SameAttributes(e, was) {
		return nil
	}
	return layer.ImplyRoot(upper)
}

type leaver struct {
	root         *fsroot.Root
	upper, below entry.FS
}

// dir leaves out what is in a directory that both have, and reports whether
// nothing is left in it.
func (l *leaver) dir(dir entry.Entry) (empty bool, err error) {
	list, err := l.upper.ReadDir(dir.Path)
	if err != nil {
		return false, err
	}
	left := len(list)
	for _, e := range list {
		same, err := l.same(e)
		if err != nil {
			return false, err
		}
		if !same {
			continue
		}
		if err := l.root.Remove(e.Path); err != nil {
			return false, err
		}
		left--
	}
	if left < len(list) {
		return left == 0, l.root.Utimes(dir.Path, dir.Mtime)
	}
	return left == 0, nil
}

// same reports whether an entry of the upper says nothing, after it has left
// out what is in it.
func (l *leaver) same(e entry.Entry) (bool, error) {
	if e.Kind == entry.Whiteout || e.Opaque {
		return false, nil
	}
	was, err := l.below.Lstat(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || was.Kind != e.Kind {
		return false, err
	}
	if e.Kind == entry.Dir {
		empty, err := l.dir(e)
		return empty && entry.SameAttributes(e, was), err
	}
	if !entry.SameAttributes(e, was) || e.Mtime != was.Mtime || e.Size != was.Size || e.Link != was.Link || e.Major != was.Major || e.Minor != was.Minor {
		return false, nil
	}
	if e.Kind != entry.File || e.Size == 0 {
		return true, nil
	}
	return entry.SameContent(l.upper, e.Path, l.below, e.Path)
}
