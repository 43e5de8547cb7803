package store

import (
	"context"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// Usage is what one kind of thing takes on disk.
type Usage struct {
	Kind        string // "images", "cache", "blobs", "containers", "tmp", or the kind of another folder
	Count       int
	Bytes       int64
	Reclaimable int64 // bytes that Prune with All could free, as far as no build uses them
}

// Usage says what the store takes on disk, by kind, in a fixed order. The
// layers that keep wants are the images'; the others are cache. Both keeps
// may be nil, as in PruneOptions. Bytes of files with several names count
// once, in parts.
func (s *Store) Usage(ctx context.Context, keep, keepBlob func(digest.Digest) bool) ([]Usage, error) {
	images, cache, blobs := Usage{Kind: "images"}, Usage{Kind: "cache"}, Usage{Kind: "blobs"}
	items, err := s.items(ctx, PruneOptions{Keep: keep, KeepBlob: keepBlob})
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		u := &cache
		switch {
		case it.kind == blobDir:
			u = &blobs
		case it.kind == layerDir && it.kept:
			u = &images
		}
		u.add(it.bytes, !it.kept || it.rubbish)
	}
	all := []Usage{images, cache, blobs}
	kinds, err := readNames(s.path(folderDir))
	if err := ignoreAbsent(err); err != nil {
		return nil, err
	}
	if !slices.Contains(kinds, "container") {
		all = append(all, Usage{Kind: "containers"})
	}
	for _, k := range kinds {
		if k == "cache" {
			continue // counted above
		}
		u, err := s.folderUsage(k)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	tmp, err := s.tmpUsage()
	return append(all, tmp), err
}

func (s *Store) folderUsage(kind string) (Usage, error) {
	u := Usage{Kind: kind}
	if !strings.HasSuffix(kind, "s") {
		u.Kind += "s"
	}
	err := s.eachNamed(folderDir, kind, func(path, _ string, _ error) error {
		n, _, err := measure(path)
		u.add(n, kind == logKind)
		return err
	})
	return u, err
}

func (s *Store) tmpUsage() (Usage, error) {
	u := Usage{Kind: "tmp"}
	names, err := readNames(s.path(tmpDir))
	if err := ignoreAbsent(err); err != nil {
		return u, err
	}
	for _, n := range names {
		bytes, _, err := measure(s.path(tmpDir, n))
		if err != nil {
			return u, err
		}
		u.add(bytes, ownerDead(s.path(tmpDir, n)))
	}
	return u, nil
}

func (u *Usage) add(bytes int64, reclaimable bool) {
	u.Count++
	u.Bytes += bytes
	if reclaimable {
		u.Reclaimable += bytes
	}
}
