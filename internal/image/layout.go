package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Layout says which image of an OCI layout in a folder is meant.
type Layout struct {
	Dir    string
	Tag    string        // "" means latest, or the only one that there is
	Digest digest.Digest // of its manifest or index; zero means that Tag says it
}

// ParseLayout reads PATH[:TAG][@sha256:HEX].
func ParseLayout(s string) (Layout, error) {
	path, text, named := strings.Cut(s, "@")
	l := Layout{Dir: path}
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		l.Dir, l.Tag = path[:i], path[i+1:]
	}
	if l.Dir == "" {
		return l, &Error{Msg: fmt.Sprintf("oci-layout://%s: names no folder", s), Way: "write oci-layout://PATH, oci-layout://PATH:TAG or oci-layout://PATH@sha256:…"}
	}
	if !named {
		return l, nil
	}
	var err error
	if l.Digest, err = digest.Parse(text); err != nil {
		return l, &Error{Msg: fmt.Sprintf("oci-layout://%s: %v", s, err), Way: "leave the digest out, or take it from the layout's index.json"}
	}
	return l, nil
}

// Load brings in the image that is meant, for the platform of sink, and returns
// it with the digest of its manifest or index. It puts nothing into the
// catalog.
func (lay Layout) Load(ctx context.Context, sink Sink) (_ *Image, err error) {
	dir, err := openLayout(lay.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	l := &loader{Sink: sink, a: dir, layers: map[digest.Digest]Layer{}}
	top, err := lay.find(l)
	if err != nil {
		return nil, err
	}
	d, err := l.pick([]Descriptor{top})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", lay.Dir, err)
	}
	m, err := l.byManifest(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%s: manifest %s: %w", lay.Dir, d.Digest.Short(), err)
	}
	m.Manifest = top.Digest
	return m, nil
}

// find returns what the layout says of the image that is meant.
func (lay Layout) find(l *loader) (Descriptor, error) {
	if !lay.Digest.IsZero() {
		b, err := readAll(l.a, blobPath(lay.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			return Descriptor{}, &Error{Msg: fmt.Sprintf("%s: has no blob %s", lay.Dir, lay.Digest), Err: err,
				Way: "take the digest from the layout's index.json, or name a tag"}
		}
		if err != nil {
			return Descriptor{}, err
		}
		p, err := manifest.Parse(b, "")
		if err == nil && p.Descriptor.Digest != lay.Digest {
			err = fmt.Errorf("blob %s: its content has the digest %s", lay.Digest, p.Descriptor.Digest)
		}
		if err != nil {
			return Descriptor{}, fmt.Errorf("%s: %w", lay.Dir, err)
		}
		return p.Descriptor, nil
	}
	entries, err := l.index()
	if err == nil && entries == nil {
		err = &Error{Msg: fmt.Sprintf("%s: no %s in it, so it is no OCI layout", lay.Dir, manifest.IndexFile),
			Way: "name the folder that an OCI tool wrote; an archive of one has to be unpacked first"}
	}
	if err == nil {
		err = l.layoutVersion()
	}
	if err != nil {
		return Descriptor{}, err
	}
	return lay.tagged(entries)
}

// tagged picks an entry of index.json by its tag. The only one there is goes by
// any.
func (lay Layout) tagged(entries []Descriptor) (Descriptor, error) {
	tag := lay.Tag
	if tag == "" {
		tag = "latest"
	}
	for _, key := range []string{manifest.AnnotationImageName, manifest.AnnotationRefName} {
		for _, d := range entries {
			if d.Annotations[key] == tag {
				return d, nil
			}
		}
	}
	if len(entries) == 1 {
		return entries[0], nil
	}
	var have []string
	for _, d := range entries {
		if t := d.Annotations[manifest.AnnotationRefName]; t != "" && len(have) < 8 {
			have = append(have, t)
		}
	}
	way := "name one by its digest, oci-layout://PATH@sha256:…"
	if len(have) > 0 {
		way = "its tags are: " + strings.Join(have, ", ")
	}
	return Descriptor{}, &Error{Msg: fmt.Sprintf("%s: %d images in the layout, and none has the tag %q", lay.Dir, len(entries), tag), Way: way}
}

// layoutDir is an archive in a folder. Nothing outside of the folder is opened,
// wherever its links lead.
type layoutDir struct {
	root *os.Root

	mu    sync.Mutex
	files []*os.File // that were opened
}

func openLayout(dir string) (*layoutDir, error) {
	root, err := os.OpenRoot(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Msg: fmt.Sprintf("%s: no such OCI layout", dir), Way: "name the folder that has its index.json", Err: err}
	case errors.Is(err, syscall.ENOTDIR):
		return nil, &Error{Msg: fmt.Sprintf("%s: an OCI layout is a folder, and this is none", dir), Way: "unpack the archive, or load it: whittle load -i FILE", Err: err}
	case err != nil:
		return nil, err
	}
	return &layoutDir{root: root}, nil
}

// open implements archive. What it opened stays open until close: layers are
// read while others are.
func (d *layoutDir) open(name string) (*io.SectionReader, error) {
	f, size, err := openRegular(d.root, name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, f)
	return io.NewSectionReader(f, 0, size), nil
}

// openRegular opens a file that is neither a pipe nor anything else that is waited for.
func openRegular(root *os.Root, name string) (f *os.File, size int64, err error) {
	if f, err = root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0); err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: is not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

func (d *layoutDir) close() error {
	errs := []error{d.root.Close()}
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
