package layer

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// A user without subordinate ids is root of a user namespace with a single id:
// every file in a tree is this one's, whoever's it is in the layer. Whose it is
// then stands in the side file, by path; a step sees all files as root's.

// SingleID reports whether this process's user namespace has one id only.
var SingleID = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(b))
	return err == nil && len(f) == 3 && f[2] == "1"
})

// foreign reports whether e is somebody's who is not there.
func (p *planter) foreign(e *entry.Entry) bool {
	return p.single && (e.UID != uint32(os.Geteuid()) || e.GID != uint32(os.Getegid()))
}

// KeepOwners notes for the tree, the upper directory of a step that has ended,
// whose the files are that overlayfs copied into it from the file system below,
// to be changed: those who are not there stay the owners. What a step makes is
// root's. Where there is more than one id the kernel has kept the owners, and
// nothing is done.
//
// That a file was copied is known by an attribute that overlayfs sets, and that
// no step can; a file that the step renamed has lost its place, and is root's.
func KeepOwners(tree string, below entry.FS) (err error) {
	if !SingleID() {
		return nil
	}
	view, err := OpenTree(tree)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	root, err := fsroot.Open(tree)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	s := view.view.(*treeView).side
	self := owner{uint32(os.Geteuid()), uint32(os.Getegid())}
	changed := false
	err = entry.Walk(view, ".", func(e entry.Entry) error {
		if e.Kind == entry.Whiteout {
			return nil
		}
		was, err := below.Lstat(e.Path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (was.Kind != e.Kind || owner{was.UID, was.GID} == self) {
			return nil
		}
		if err != nil {
			return err
		}
		copied, err := isCopy(root, e, was)
		if copied {
			s.own(e.Path, owner{was.UID, was.GID})
			changed = true
		}
		return err
	})
	if err != nil || !changed {
		return err
	}
	return s.write(tree)
}

// isCopy reports whether overlayfs made e of was, which has the same name. The
// root it makes of nothing, and gives it what the root below has. A symbolic
// link has no attributes: it is a copy if it is alike.
func isCopy(root *fsroot.Root, e, was entry.Entry) (bool, error) {
	switch {
	case e.Path == ".":
		return true, nil
	case e.Kind == entry.Symlink:
		return e.Link == was.Link && e.Mtime == was.Mtime, nil
	}
	attrs, err := root.Getxattrs(e.Path)
	_, copied := attrs[prefixUser+"origin"]
	return copied, err
}
