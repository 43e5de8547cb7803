package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

const (
	// maxNesting bounds indexes within indexes.
	maxNesting = 4
	// maxDocuments bounds the manifests and indexes that are looked at: each
	// image for some dozen platforms.
	maxDocuments = 16 * maxImages
)

// oci loads by index.json: of each name, or of all unnamed entries that tell
// their platforms, the one for the platform asked for.
func (l *loader) oci(ctx context.Context, entries []Descriptor) ([]Loaded, error) {
	if err := l.layoutVersion(); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, noImage(manifest.IndexFile)
	}
	var out []Loaded
	for _, group := range grouped(entries) {
		d, err := l.pick(group)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", manifest.IndexFile, err)
		}
		m, err := l.byManifest(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest.Short(), err)
		}
		var names []Name
		if n, ok := nameOf(group[0]); ok {
			names = append(names, n)
		}
		out = merge(out, Loaded{m, names})
	}
	return out, nil
}

// index returns the entries of index.json, none if there is none.
func (l *loader) index() ([]Descriptor, error) {
	b, err := readAll(l.a, manifest.IndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, manifest.OCIIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.IndexFile, err)
	}
	return p.Index.Manifests, nil
}

func (l *loader) layoutVersion() error {
	b, err := readAll(l.a, manifest.LayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{Msg: "archive: index.json without " + manifest.LayoutFile + ": not an OCI layout"}
	}
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), `"`+manifest.LayoutVersion+`"`) {
		return fmt.Errorf("%s: %.100q, want version %s", manifest.LayoutFile, b, manifest.LayoutVersion)
	}
	return nil
}

// grouped puts entries together that are one image for several platforms:
// those of one name, and the unnamed ones with a platform.
func grouped(entries []Descriptor) [][]Descriptor {
	var out [][]Descriptor
	at := map[string]int{}
	for _, d := range entries {
		key := d.Annotations[manifest.AnnotationImageName] + " " + d.Annotations[manifest.AnnotationRefName]
		i, ok := at[key]
		if !ok || d.Platform == nil {
			at[key] = len(out)
			out = append(out, []Descriptor{d})
			continue
		}
		out[i] = append(out[i], d)
	}
	return out
}

// pick follows indexes to the manifest for the platform.
func (l *loader) pick(group []Descriptor) (Descriptor, error) {
	x := &manifest.Index{Manifests: group}
	for range maxNesting {
		d := x.Manifests[0]
		if len(x.Manifests) > 1 || d.Platform != nil {
			var err error
			if d, err = x.Pick(l.platform(x)); err != nil {
				return d, err
			}
		}
		if manifest.IsManifest(d.MediaType) {
			return d, nil
		}
		b, err := l.blob(d)
		if err != nil {
			return d, err
		}
		p, err := manifest.Parse(b, d.MediaType)
		if err != nil {
			return d, err
		}
		if p.Index == nil || len(p.Index.Manifests) == 0 {
			return d, fmt.Errorf("%s is no index of images", d.Digest.Short())
		}
		x = p.Index
	}
	return Descriptor{}, fmt.Errorf("indexes within indexes, more than %d deep", maxNesting)
}

// platform is the one asked for. An archive with a single image is loaded
// whatever that runs on, as docker load does.
func (l *loader) platform(x *manifest.Index) Platform {
	if have := x.Platforms(); len(have) == 1 {
		return have[0]
	}
	return l.Platform
}

func (l *loader) byManifest(ctx context.Context, d Descriptor) (*Image, error) {
	b, err := l.blob(d)
	if err != nil {
		return nil, err
	}
	p, err := manifest.Parse(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	if p.Manifest == nil {
		return nil, fmt.Errorf("an index where an image is expected")
	}
	raw, err := l.blob(p.Manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var paths []string
	for i, layer := range p.Manifest.Layers {
		if !manifest.IsLayer(layer.MediaType) {
			return nil, fmt.Errorf("layer %d: media type %q is no file system layer", i, layer.MediaType)
		}
		paths = append(paths, blobPath(layer.Digest))
	}
	return l.image(ctx, raw, paths, p.Manifest.Layers)
}

// nameOf returns the name that a layout gives an entry: the full name that
// docker, containerd and whittle write, or a ref.name that is more than a tag.
func nameOf(d Descriptor) (Name, bool) {
	full := d.Annotations[manifest.AnnotationImageName]
	if full == "" {
		full = d.Annotations[manifest.AnnotationRefName]
		if !strings.ContainsAny(full, ":/") {
			return Name{}, false
		}
	}
	n, err := ParseName(full)
	return n, err == nil
}

// merge adds an image, or its names to the same image.
func merge(list []Loaded, one Loaded) []Loaded {
	for i := range list {
		if list[i].Image.ID == one.Image.ID {
			list[i].Names = append(list[i].Names, one.Names...)
			return list
		}
	}
	return append(list, one)
}

// configs collects the configs of all images that entries lead to and that
// are in the archive. Each document is read once, however many indexes name
// it, so that a small archive cannot make a long walk; seen are those that
// were.
func (l *loader) configs(entries []Descriptor, seen, found map[digest.Digest]bool) error {
	for _, d := range entries {
		if seen[d.Digest] {
			continue
		}
		if seen[d.Digest] = true; len(seen) > maxDocuments {
			return fmt.Errorf("archive: more than %d manifests and indexes", maxDocuments)
		}
		b, err := l.blob(d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another platform's, which docker save leaves out
		}
		if err != nil {
			return err
		}
		p, err := manifest.Parse(b, d.MediaType)
		if err != nil {
			return err
		}
		if p.Manifest != nil {
			found[p.Manifest.Config.Digest] = true
			continue
		}
		if err := l.configs(p.Index.Manifests, seen, found); err != nil {
			return err
		}
	}
	return nil
}
