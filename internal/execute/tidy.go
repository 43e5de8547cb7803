package execute

import (
	"errors"
	"io/fs"
	"maps"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// tidy takes out of a step's upper directory what making mount points has left
// there: directories that overlayfs copied up, and that nobody changed. below
// is the file system under the step.
func tidy(upper string, points []string, below entry.FS) (err error) {
	if len(points) == 0 {
		return nil
	}
	root, err := fsroot.Open(upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, p := range points {
		for dir := entry.Parent(entry.Clean(p)); dir != "."; dir = entry.Parent(dir) {
			gone, err := tidyDir(root, dir, below)
			if err != nil {
				return err
			}
			if !gone {
				break
			}
		}
	}
	return nil
}

// tidyDir removes dir if it says nothing that is not so without it.
func tidyDir(root *fsroot.Root, dir string, below entry.FS) (gone bool, err error) {
	e, err := root.FS().Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // so it is for the next point of the same directory
	}
	if err != nil || e.Kind != entry.Dir {
		return false, err
	}
	was, err := below.Lstat(dir)
	if err != nil || was.Kind != entry.Dir || !sameDir(e, was) {
		return false, nil
	}
	names, err := root.ReadDir(dir)
	if err != nil || len(names) > 0 {
		return false, err
	}
	parent := entry.Parent(dir)
	before, err := root.FS().Lstat(parent)
	if err != nil {
		return false, err
	}
	if err := root.Remove(dir); err != nil {
		return false, err
	}
	return true, root.Utimes(parent, before.Mtime)
}

// sameDir compares a directory of an upper with one of a view. An opaque one
// hides what is below, and is never the same.
func sameDir(upper, below entry.Entry) bool {
	attrs := map[string]string{}
	for name, value := range upper.Xattrs {
		_, mark, overlay := strings.Cut(name, ".overlay.")
		if overlay && mark == "opaque" {
			return false
		}
		if !overlay {
			attrs[name] = value
		}
	}
	return upper.Mode == below.Mode && upper.UID == below.UID && upper.GID == below.GID &&
		upper.Mtime == below.Mtime && maps.Equal(attrs, below.Xattrs)
}
