// Package cachemount owns the form in which cache mounts travel: a folder that
// an export writes and an import reads, and that is copied in between by
// whatever copies folders.
//
// The folder is an OCI image layout. Every cache is a manifest in its index:
//
//	config     its [Identity], as JSON
//	layers[0]  its tree: names, modes, owners, times and the pieces of files
//	layers[1…] packs: pieces of files one after the other, compressed
//
// A piece is a file, or a part of a large file whose ends are found by its
// content. All blobs are named by their SHA-256, and none is ever written to
// twice. An export into a folder that has an older export keeps the packs in
// it and adds the pieces that it lacks; packs that are mostly dead are written
// anew, and those that nothing needs go. So what has to be copied is about
// what has changed, wherever in the cache that is.
//
// The index is replaced last: a crash leaves the older export whole, and
// rubbish that the next export removes. What is imported is hostile until
// proven otherwise: every byte is checked against its digest, names stay
// inside, there are no devices and no attributes of overlayfs, and sizes are
// bounded.
//
// Nothing here knows of the store or of builds.
package cachemount

import (
	"errors"
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// Identity is what makes a cache the one that a step asks for. It is the same
// on every machine.
type Identity struct {
	ID string `json:"id"` // with its namespace
	// Seeded says that it began as a copy of the files whose content is Seed.
	Seeded bool          `json:"seeded,omitempty"`
	Seed   digest.Digest `json:"seed,omitzero"`
	Owner  string        `json:"owner,omitempty"` // mode and owner of the folder, where they were asked for
	// From says in the Dockerfile's words what Seed was. It is for people.
	From string `json:"from,omitempty"`
}

// Name is the name of the cache: with another owner, or begun with other
// files, it is another cache.
func (i Identity) Name() digest.Digest {
	k := digest.NewKey("cache mount")
	k.Text("id", i.ID)
	k.Bool("from", i.Seeded)
	if i.Seeded {
		k.Digest("content", i.Seed)
	}
	if i.Owner != "" {
		k.Text("owner", i.Owner)
	}
	return k.Sum()
}

// maxText bounds every text of an identity.
const maxText = 4096

func (i Identity) check() error {
	if i.ID == "" || len(i.ID) > maxText || len(i.Owner) > maxText || len(i.From) > maxText || strings.ContainsRune(i.ID, 0) {
		return errors.New("the identity of a cache is not one that a build gives")
	}
	return nil
}

// Media types.
const (
	configType = "application/vnd.whittle.cache-mount.v1+json"
	treeType   = "application/vnd.whittle.cache-mount.tree.v1+zstd"
	packType   = "application/vnd.whittle.cache-mount.pack.v1+zstd"
)

// Sizes of pieces and packs. A pack is large enough for a registry and for a
// compressor to do well, and small enough that one dead half does no harm.
const (
	minPiece = 512 << 10
	maxPiece = 4 << 20
	whole    = 2 << 20 // a file up to this size is one piece
	fullPack = 8 << 20
	maxPack  = fullPack + maxPiece
	// fewSmall is how many packs of less than a quarter of fullPack may be
	// there: more of them are made one.
	fewSmall = 8
)

// Bounds on what is imported.
const (
	maxEntries = 1 << 20
	maxTree    = 512 << 20
	maxPath    = 4095
	maxName    = 255
	maxLink    = 4095
	maxXattrs  = 64 << 10
	maxFile    = 1 << 42
)

// A DamagedError is a folder that is not what an export writes, or no longer.
type DamagedError struct {
	Dir string
	Err error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("%s: %v", e.Dir, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }

// Hint returns the way out.
func (e *DamagedError) Hint() string {
	return "nothing was imported from it; export it again, whole: into an empty folder"
}

// A ForeignError is a folder that holds something else.
type ForeignError struct{ Dir, Has string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s: holds %q and no export of cache mounts", e.Dir, e.Has)
}

// Hint returns the way out.
func (e *ForeignError) Hint() string {
	return "name an empty or new folder, or one of an earlier export"
}
