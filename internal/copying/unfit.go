package copying

import (
	"io/fs"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// check refuses to make e an entry called name of a layer when a layer cannot
// hold it.
func check(e entry.Entry, name string) error {
	if e.Kind == entry.Whiteout {
		return &fs.PathError{Op: "copy", Path: e.Path, Err: fs.ErrInvalid}
	}
	if e.Kind == entry.Char && e.Major == 0 && e.Minor == 0 {
		return &Unfit{Path: e.Path, Reason: "a character device 0/0 deletes the file of that name in the layers below"}
	}
	return checkName(name, e.Path)
}

// checkName refuses names that no directory has, since every path of the
// result is made of names that it saw, and those that mean deletion to whoever
// reads a layer. p is what the name is for.
func checkName(name, p string) error {
	switch name {
	case ".", "..", "/", "":
		return &fs.PathError{Op: "copy", Path: p, Err: fs.ErrInvalid}
	}
	if strings.HasPrefix(name, ".wh.") {
		return &Unfit{Path: p, Reason: "a name that begins with .wh. deletes a file of the layers below"}
	}
	return nil
}

// steersOverlay reports whether an extended attribute is one in which
// overlayfs keeps its own notes; from elsewhere it would be believed.
func steersOverlay(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}
