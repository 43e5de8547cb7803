package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
)

// Sink takes what Load finds.
type Sink struct {
	// Layer stores one layer. r is the blob as the archive has it, perhaps
	// compressed; its end is only reached when it is whole and right, so a
	// layer may be kept once r is read to io.EOF. The layer must come out with
	// diffID, which is also checked after the call.
	Layer func(ctx context.Context, diffID digest.Digest, r io.Reader) (Layer, error)
	// Have, if set, returns a layer that the store has already.
	Have func(diffID digest.Digest) (Layer, bool)
	// TempDir is where an archive that cannot be read at any place is kept
	// while it is loaded; "" means the system's.
	TempDir string
	// Platform is picked from indexes.
	Platform Platform
	// MaxBytes bounds an archive after decompression; 0 means 256 GiB.
	MaxBytes int64
	// Jobs is how many layers are taken at once; 0 means 2.
	Jobs int
}

// Loaded is one image of an archive with its names there.
type Loaded struct {
	Image *Image
	Names []Name
}

// Load reads an archive of images: a Docker archive (of docker save since
// 1.10) or an OCI layout in a tar, compressed as layers may be or not at all.
// It stores nothing but layers: putting and tagging is the caller's.
func Load(ctx context.Context, r io.Reader, sink Sink) (_ []Loaded, err error) {
	limit := sink.MaxBytes
	if limit == 0 {
		limit = defaultMaxArchive
	}
	at, size, done, err := spool(ctx, r, sink.TempDir, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	a, err := openTar(ctx, at, size)
	if err != nil {
		return nil, err
	}
	return load(ctx, a, sink)
}

func load(ctx context.Context, a archive, sink Sink) ([]Loaded, error) {
	l := &loader{Sink: sink, a: a, layers: map[digest.Digest]Layer{}}
	docker, err := l.dockerList()
	if err != nil {
		return nil, err
	}
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	if docker != nil {
		return l.docker(ctx, docker, index)
	}
	if index != nil {
		return l.oci(ctx, index)
	}
	if _, err := a.open("repositories"); err == nil {
		return nil, &Error{
			Msg: "archive: written by a docker older than 1.10", Way: "load it with docker and save it again",
		}
	}
	return nil, &Error{
		Msg: "archive: neither manifest.json nor index.json in it, so it holds no image",
		Way: "a tar of a root file system is imported: whittle import FILE NAME",
	}
}

// loader loads one archive. Layers that several images share are taken once.
type loader struct {
	Sink
	a      archive
	layers map[digest.Digest]Layer
}

// source is one layer to load.
type source struct {
	path   string
	diffID digest.Digest
	blob   *Descriptor // nil when only the diffID vouches for it
}

// image makes an image of a config and the places of its layers.
func (l *loader) image(ctx context.Context, raw []byte, paths []string, blobs []Descriptor) (*Image, error) {
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if len(cfg.DiffIDs) != len(paths) {
		return nil, fmt.Errorf("%d layers, the config has %d diffIDs", len(paths), len(cfg.DiffIDs))
	}
	var todo []source
	for i, p := range paths {
		s := source{path: p, diffID: cfg.DiffIDs[i]}
		if blobs != nil {
			s.blob = &blobs[i]
		}
		if _, ok := l.layers[s.diffID]; !ok && !slices.ContainsFunc(todo, func(t source) bool { return t.diffID == s.diffID }) {
			todo = append(todo, s)
		}
	}
	if err := l.takeAll(ctx, todo); err != nil {
		return nil, err
	}
	return New(raw, l.inOrder(cfg))
}

func (l *loader) inOrder(cfg *config.Image) []Layer {
	var out []Layer
	for _, d := range cfg.DiffIDs {
		out = append(out, l.layers[d])
	}
	return out
}

// takeAll takes layers, Jobs at once, and returns the first error after all
// that were begun have ended.
func (l *loader) takeAll(ctx context.Context, todo []source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := l.Jobs
	if jobs <= 0 {
		jobs = 2
	}
	slots := make(chan struct{}, jobs)
	got := make([]Layer, len(todo))
	var wg sync.WaitGroup
	for i, s := range todo {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			layer, err := l.take(ctx, s)
			if err != nil {
				cancel(fmt.Errorf("layer %s: %w", s.diffID.Short(), err))
			}
			got[i] = layer
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, s := range todo {
		l.layers[s.diffID] = got[i]
	}
	return nil
}

func (l *loader) take(ctx context.Context, s source) (Layer, error) {
	if l.Have != nil {
		if layer, ok := l.Have(s.diffID); ok {
			return layer, nil
		}
	}
	content, err := l.a.open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Layer{}, fmt.Errorf("%s is not in the archive", s.path)
	}
	if err != nil {
		return Layer{}, err
	}
	var r io.Reader = &interruptible{ctx, content}
	if s.blob != nil {
		if size := content.Size(); size != s.blob.Size {
			return Layer{}, fmt.Errorf("blob %s has %d bytes, its manifest says %d", s.blob.Digest.Short(), size, s.blob.Size)
		}
		v := s.blob.Verify(r)
		layer, err := l.Layer(ctx, s.diffID, v)
		if err != nil {
			return Layer{}, err
		}
		if err := v.Drain(); err != nil {
			return Layer{}, err
		}
		if s.blob.Digest != s.diffID && layer.Blob == nil {
			layer.Blob = &Descriptor{MediaType: s.blob.MediaType, Digest: s.blob.Digest, Size: s.blob.Size}
		}
		return layer, checkDiffID(layer, s.diffID)
	}
	layer, err := l.Layer(ctx, s.diffID, r)
	if err != nil {
		return Layer{}, err
	}
	return layer, checkDiffID(layer, s.diffID)
}

func checkDiffID(layer Layer, want digest.Digest) error {
	if layer.DiffID != want {
		return fmt.Errorf("its content has the diffID %s, the config says %s", layer.DiffID, want)
	}
	return nil
}

// blob reads a document that a descriptor names.
func (l *loader) blob(d Descriptor) ([]byte, error) {
	b, err := readAll(l.a, blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w in the archive", d.Digest, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return b, d.Bytes(b)
}

// dockerList reads manifest.json; nil when there is none.
func (l *loader) dockerList() ([]dockerImage, error) {
	b, err := readAll(l.a, "manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []dockerImage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(list) == 0 {
		return nil, noImage("manifest.json")
	}
	if len(list) > maxImages {
		return nil, fmt.Errorf("manifest.json: %d images, more than %d", len(list), maxImages)
	}
	names := 0
	for _, d := range list {
		names += len(d.RepoTags)
	}
	if names > maxImages {
		return nil, fmt.Errorf("manifest.json: %d names, more than %d", names, maxImages)
	}
	return list, nil
}

// noImage is the error for a list of images that is empty.
func noImage(file string) error {
	return &Error{
		Msg: "the archive has no image in it: " + file + " names none",
		Way: "save it again with the name of an image: whittle save -o FILE IMAGE",
	}
}

// docker loads by manifest.json. When the archive is an OCI layout as well,
// both must speak of the same images: else one tool would load this, another
// that.
func (l *loader) docker(ctx context.Context, list []dockerImage, index []Descriptor) ([]Loaded, error) {
	var reachable map[digest.Digest]bool
	if index != nil {
		reachable = map[digest.Digest]bool{}
		if err := l.configs(index, map[digest.Digest]bool{}, reachable); err != nil {
			return nil, err
		}
	}
	var out []Loaded
	for _, d := range list {
		raw, err := readAll(l.a, d.Config)
		if err != nil {
			return nil, fmt.Errorf("manifest.json: config: %w", err)
		}
		id := digest.Of(raw)
		if named, ok := hexIn(d.Config); ok && named != id {
			return nil, fmt.Errorf("%s: its content has the digest %s", d.Config, id)
		}
		if reachable != nil && !reachable[id] {
			return nil, fmt.Errorf("archive: manifest.json names the image %s, index.json does not: it would be another image to another tool", id.Short())
		}
		var names []Name
		for _, t := range d.RepoTags {
			n, err := ParseName(t)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			names = append(names, n)
		}
		m, err := l.image(ctx, raw, d.Layers, nil)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", id.Short(), err)
		}
		out = merge(out, Loaded{m, names})
	}
	return out, nil
}

// hexIn returns the digest that a path's last element states: HEX or HEX.json.
func hexIn(p string) (digest.Digest, bool) {
	base := strings.TrimSuffix(p[strings.LastIndexByte(p, '/')+1:], ".json")
	d, err := digest.ParseHex(base)
	return d, err == nil
}
