// Package layer owns the two forms of a layer and the ways between them.
//
// A layer is what one step changed. As a tar it is a folder with the
// uncompressed tar, whose SHA-256 is the layer's diffID, and an index: an
// EROFS image that holds all metadata and whose files' blocks point into the
// tar, so the kernel mounts the pair without unpacking anything. As a tree it
// is an upper directory of overlayfs. Either form reads as an entry.FS, in
// which deletions are entries of kind Whiteout and directories marked Opaque;
// Merge stacks such views into the file system that a container would see.
//
// A layer folder holds
//
//	layer.json      Meta
//	tar, index      the tar form
//	index-HEX       an index that depends on the layers below (Meta.Implied)
//	tree/           the tree form
//	devices.json    what the tree form cannot hold as a file
//
// Tars written here are deterministic: the same entries in the same order
// give the same bytes. Tars that come from elsewhere are kept byte for byte
// and are hostile until proven otherwise: names stay inside the layer, sizes
// and counts are bounded, and nothing in them can steer overlayfs.
//
// Nothing here is atomic: callers work in a temporary folder and rename it
// when it is complete. Nothing here knows of images, keys or the store.
package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// The names inside a layer folder.
const (
	TarName   = "tar"
	IndexName = "index"
	TreeName  = "tree"
	MetaName  = "layer.json"
	SideName  = "devices.json"
)

// The forms of a layer.
const (
	FormTar  = "tar"
	FormTree = "tree"
	FormAway = "away" // only layer.json is here: what else there is lies elsewhere
)

// Meta is what is known of a layer without reading it.
type Meta struct {
	Form    string        `json:"form"`
	DiffID  digest.Digest `json:"diffID"`            // of the tar; zero for a tree
	TarSize int64         `json:"tarSize,omitempty"` // bytes of the tar
	Size    int64         `json:"size"`              // sum of the bytes of regular files, each inode once
	Entries int           `json:"entries"`           // names in the layer's view, without the root
	// Implied says that the tar has directories that no entry describes, so
	// that their owner and mode are those of the layers below: see Reindex.
	// The root directory does not count.
	Implied bool `json:"implied,omitempty"`
	// OpaqueRoot says that nothing of the layers below shows.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
	// Plain says that the tar is an archive of files, in which names that
	// begin with .wh. mean nothing: see ImportArchive.
	Plain bool `json:"plain,omitempty"`
}

// ReadMeta reads the layer.json of a layer folder.
func ReadMeta(dir string) (Meta, error) {
	var m Meta
	b, err := os.ReadFile(filepath.Join(dir, MetaName))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("layer %s: %s: %w", dir, MetaName, err)
	}
	return m, nil
}

// WriteMeta writes the layer.json of a layer folder.
func WriteMeta(dir string, m Meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, MetaName), append(b, '\n'), 0o644)
}

// Bounds on what one layer may hold. They are far above what images have and
// far below what would exhaust a machine.
const (
	maxEntries  = 4 << 20
	maxPath     = 4095 // PATH_MAX without its NUL
	maxName     = 255  // NAME_MAX, and what an EROFS directory block holds
	maxLinkText = 4095
	maxXattrs   = 64 << 10 // bytes of all names and values of one file
	maxText     = 64 << 20 // bytes of all attributes and link targets of a layer
	maxTar      = 1 << 40  // the largest file that one EROFS chunk holds
)

// ErrWhiteoutName is for a file that no layer can hold.
var ErrWhiteoutName = errors.New("names that begin with " + whPrefix + " stand for deleted files in a layer")

// ErrLongPath is for another such file.
var ErrLongPath = errors.New("longer than a layer can have")

// ErrBound is wrapped by errors about a layer that is over a bound.
var ErrBound = errors.New("over the limit")

// A BrokenError is a stream that is no whole tar: it ends too early, or what it
// is packed or compressed with does not add up. The reader of the stream may
// also have failed.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// Whiteouts of the image format (OCI image-spec, layer.md).
const (
	whPrefix = ".wh."
	whOpaque = ".wh..wh..opq"
	whAufs   = ".wh..wh." // other names so begun are AUFS's own and no files
)

// isOverlayXattr reports the attributes by which overlayfs keeps its state.
// They never come from outside and never leave a tree.
func isOverlayXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// keepXattr says whether an extended attribute is part of a layer. Labels
// that the machine's own security modules put on every file are not.
func keepXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	if isOverlayXattr(name) {
		return false
	}
	return len(name) <= maxName && (strings.HasPrefix(name, "user.") && name != "user." ||
		strings.HasPrefix(name, "trusted.") && name != "trusted.")
}

func keptXattrs(attrs map[string]string) map[string]string {
	drop := false
	for n := range attrs {
		drop = drop || !keepXattr(n)
	}
	if !drop {
		return attrs
	}
	var kept map[string]string
	for n, v := range attrs {
		if !keepXattr(n) {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[n] = v
	}
	return kept
}
