package image

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// SaveLayout adds images to the OCI layout in the folder dir, which is made when it
// is not there, and returns what names their manifests. Other images that are in it
// stay, but for the names that these take. Blobs come first and the index last, so
// a crash leaves at most blobs that nothing names. Those who write one folder at
// once wait for each other. When it fails, no empty folder is left that it made.
func (e Exporter) SaveLayout(ctx context.Context, dir string, images []Export) (_ []Descriptor, err error) {
	_, gone := os.Stat(filepath.Join(dir, manifest.BlobsDir))
	undo, err := fsroot.MakeAll(dir)
	if err != nil {
		return nil, err
	}
	f, err := OpenFolder(dir, true)
	if err != nil {
		undo()
		return nil, err
	}
	defer func() {
		if err != nil && gone != nil {
			f.removeEmpty()
			undo()
		}
		err = errors.Join(err, f.Close())
	}()
	saved, err := e.blobs(ctx, &f.dirTarget, images)
	if err != nil {
		return nil, err
	}
	unlock, err := f.Lock(ctx, true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return manifests(saved), f.add(entries(saved))
}

// removeEmpty removes the folders for blobs when none is in them.
func (f *Folder) removeEmpty() {
	for _, dir := range []string{manifest.BlobsDir + "/sha256", manifest.BlobsDir} {
		if f.root.Remove(dir) != nil {
			return
		}
	}
}

// replaced is an index with more in it: a name is in it once.
func replaced(old, more []Descriptor) []Descriptor {
	same := func(a, b Descriptor) bool {
		if n := imageName(a); n != "" || imageName(b) != "" {
			return n == imageName(b)
		}
		return a.Digest == b.Digest
	}
	old = slices.DeleteFunc(old, func(d Descriptor) bool {
		return slices.ContainsFunc(more, func(m Descriptor) bool { return same(d, m) })
	})
	return append(old, more...)
}

// imageName is what an entry of an index is called: "" when it is not.
func imageName(d Descriptor) string {
	return cmp.Or(d.Annotations[manifest.AnnotationImageName], d.Annotations[manifest.AnnotationRefName])
}
