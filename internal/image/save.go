package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Format is a kind of archive.
type Format string

const (
	// DockerArchive is what docker save writes since version 25: an OCI layout
	// with a manifest.json beside it, in one tar. docker load takes it since
	// version 1.10, skopeo as docker-archive: and as oci-archive:.
	DockerArchive Format = "docker"
	// OCIArchive is an OCI layout in a tar.
	OCIArchive Format = "oci"
)

// Export is one image to write, with the names that it gets in the archive.
type Export struct {
	Image *Image
	Names []Name
	// Others are the same image for other platforms: then an index of all of them is
	// written, with these annotations. Docker's archives have one platform.
	Others           []*Image
	IndexAnnotations map[string]string
	// Attached, if it is set, tells what is said of an image beside it, by the manifest that
	// it got: then there is an index too.
	Attached func(m *Image, d Descriptor) (Attached, error)
	// Described are annotations of the descriptor of each manifest in an index.
	Described map[digest.Digest]map[string]string
}

// Attached is a manifest about an image, with all blobs of it.
type Attached struct {
	Descriptor
	Blobs map[digest.Digest][]byte
}

// indexed says whether an index is written.
func (x *Export) indexed() bool { return len(x.Others) > 0 || x.Attached != nil }

// Exporter writes images. The same images give the same bytes.
type Exporter struct {
	// Blob opens a layer in the form in which it is to be written. What it gives is
	// checked against the descriptor. A nil reader leaves the layer out of the archive: who
	// reads that has it.
	Blob func(ctx context.Context, l Layer) (Descriptor, io.ReadCloser, error)
	// Style is the family of media types in manifests.
	Style manifest.Style
}

// Save writes images to w as one archive, and returns what names their
// manifests.
func (e Exporter) Save(ctx context.Context, w io.Writer, images []Export, f Format) ([]Descriptor, error) {
	if f != DockerArchive && f != OCIArchive {
		return nil, &Error{Msg: fmt.Sprintf("archive format %q is unknown", f), Way: "it is docker or oci"}
	}
	tw := tar.NewWriter(w)
	out := &tarTarget{tw: tw, files: map[string]int64{}}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(header(dir, 0, tar.TypeDir, 0o755)); err != nil {
			return nil, err
		}
	}
	saved, err := e.blobs(ctx, out, images)
	if err != nil {
		return nil, err
	}
	if err := writeIndex(out, entries(saved)); err != nil {
		return nil, err
	}
	if f == DockerArchive {
		if err := writeDocker(out, saved); err != nil {
			return nil, err
		}
	}
	return manifests(saved), tw.Close()
}

// target takes the files of a layout.
type target interface {
	// have says whether a file is there already, with that many bytes.
	have(name string, size int64) bool
	put(name string, size int64, r io.Reader) error
}

func putBytes(out target, name string, b []byte) error {
	if out.have(name, int64(len(b))) {
		return nil
	}
	return out.put(name, int64(len(b)), bytes.NewReader(b))
}

// saved is an image of which all blobs are written.
type saved struct {
	Export
	manifest Descriptor
	layers   []Descriptor
}

func manifests(images []saved) []Descriptor {
	list := make([]Descriptor, len(images))
	for i, s := range images {
		list[i] = s.named()
	}
	return list
}

// named is the descriptor of an image's manifest with its platform, or of its index.
func (s *saved) named() Descriptor {
	if s.indexed() {
		return s.manifest
	}
	d := s.manifest
	if p := s.Image.Platform(); p.OS != "" && p.Architecture != "" {
		d.Platform = &p
	}
	return d
}

func blobPath(d digest.Digest) string { return "blobs/sha256/" + d.Hex() }

func (e Exporter) blobs(ctx context.Context, out target, images []Export) ([]saved, error) {
	var done []saved
	for _, x := range images {
		s, err := e.one(ctx, out, x)
		if err == nil && x.indexed() {
			err = e.index(ctx, out, &s)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", x.Image.ID.Short(), err)
		}
		done = append(done, s)
	}
	return done, nil
}

// index writes the images for other platforms, and an index in the place of the
// manifest.
func (e Exporter) index(ctx context.Context, out target, s *saved) error {
	first := saved{Export: Export{Image: s.Image}, manifest: s.manifest}
	list := []Descriptor{first.named()}
	for _, m := range s.Others {
		other, err := e.one(ctx, out, Export{Image: m})
		if err != nil {
			return err
		}
		list = append(list, other.named())
	}
	for i, m := range append([]*Image{s.Image}, s.Others...) {
		list[i].Annotations = s.Described[m.ID]
		if s.Attached == nil {
			continue
		}
		a, err := s.Attached(m, list[i])
		if err != nil {
			return err
		}
		for d, b := range a.Blobs {
			if err := putBytes(out, blobPath(d), b); err != nil {
				return err
			}
		}
		list = append(list, a.Descriptor)
	}
	raw, d, err := manifest.NewIndex(e.Style, list, s.IndexAnnotations)
	if err != nil {
		return err
	}
	s.manifest = d
	return putBytes(out, blobPath(d.Digest), raw)
}

func (e Exporter) one(ctx context.Context, out target, x Export) (saved, error) {
	s := saved{Export: x}
	for i, l := range x.Image.Layers {
		d, err := e.layer(ctx, out, l)
		if err != nil {
			return s, fmt.Errorf("layer %d: %w", i, err)
		}
		s.layers = append(s.layers, d)
	}
	cfg := Descriptor{Digest: x.Image.ID, Size: int64(len(x.Image.Raw))}
	raw, desc, err := manifest.New(e.Style, cfg, s.layers, x.Image.Annotations)
	if err != nil {
		return s, err
	}
	if err := putBytes(out, blobPath(cfg.Digest), x.Image.Raw); err != nil {
		return s, err
	}
	s.manifest = desc
	return s, putBytes(out, blobPath(desc.Digest), raw)
}

// layer writes one layer unless it is there.
func (e Exporter) layer(ctx context.Context, out target, l Layer) (_ Descriptor, err error) {
	if err := context.Cause(ctx); err != nil {
		return Descriptor{}, err
	}
	d, rc, err := e.Blob(ctx, l)
	if err != nil {
		return d, err
	}
	if rc == nil {
		return d, nil
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	if out.have(blobPath(d.Digest), d.Size) {
		return d, nil
	}
	return d, out.put(blobPath(d.Digest), d.Size, d.Verify(&interruptible{ctx, rc}))
}

// interruptible ends a long copy when its context does.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(p)
}

// entries are what index.json says of images: one entry for each name.
func entries(images []saved) []Descriptor {
	var list []Descriptor
	for _, s := range images {
		if len(s.Names) == 0 {
			list = append(list, s.named())
		}
		for _, n := range s.Names {
			d := s.named()
			d.Annotations = map[string]string{manifest.AnnotationImageName: n.String()}
			if n.Tag != "" {
				d.Annotations[manifest.AnnotationRefName] = n.Tag
			}
			list = append(list, d)
		}
	}
	return list
}

// writeIndex writes oci-layout and index.json.
func writeIndex(out target, list []Descriptor) error {
	raw, _, err := manifest.NewIndex(manifest.OCI, list, nil)
	if err != nil {
		return err
	}
	layout, err := json.Marshal(struct {
		Version string `json:"imageLayoutVersion"`
	}{manifest.LayoutVersion})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{manifest.IndexFile, raw}, {manifest.LayoutFile, layout}} {
		if err := out.put(f.name, int64(len(f.b)), bytes.NewReader(f.b)); err != nil {
			return err
		}
	}
	return nil
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// writeDocker writes manifest.json, and repositories for tools older than it.
func writeDocker(out target, images []saved) error {
	list := []dockerImage{}
	repos := map[string]map[string]string{}
	for _, s := range images {
		one := dockerImage{Config: blobPath(s.Image.ID), Layers: []string{}}
		for _, d := range s.layers {
			one.Layers = append(one.Layers, blobPath(d.Digest))
		}
		for _, n := range s.Names {
			if n.Tag == "" {
				continue
			}
			n.Digest = digest.Digest{}
			one.RepoTags = append(one.RepoTags, n.Familiar())
			if len(s.layers) == 0 {
				continue
			}
			repo := n.FamiliarRepository()
			if repos[repo] == nil {
				repos[repo] = map[string]string{}
			}
			repos[repo][n.Tag] = s.layers[len(s.layers)-1].Digest.Hex()
		}
		list = append(list, one)
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := putBytes(out, "manifest.json", raw); err != nil || len(repos) == 0 {
		return err
	}
	if raw, err = json.Marshal(repos); err != nil {
		return err
	}
	return putBytes(out, "repositories", raw)
}

// tarTarget writes a layout as a tar; files are those in it, with their sizes.
type tarTarget struct {
	tw    *tar.Writer
	files map[string]int64
}

func (t *tarTarget) have(name string, size int64) bool {
	have, ok := t.files[name]
	return ok && have == size
}

func (t *tarTarget) put(name string, size int64, r io.Reader) error {
	if err := t.tw.WriteHeader(header(name, size, tar.TypeReg, 0o644)); err != nil {
		return err
	}
	if _, err := io.Copy(t.tw, r); err != nil {
		return err
	}
	t.files[name] = size
	return nil
}

// header is the same for all times and users: the archive's bytes depend on
// nothing but the images.
func header(name string, size int64, kind byte, mode int64) *tar.Header {
	return &tar.Header{Typeflag: kind, Name: name, Size: size, Mode: mode, ModTime: time.Unix(0, 0)}
}
