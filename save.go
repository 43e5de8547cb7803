package whittle

import (
	"context"
	"io"
	"runtime"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Save writes images to out as one archive, in an image.Format; the layers get the
// form of c. Of a name for several platforms an OCI layout has all, docker's archive the one
// that the name means.
func (w *Whittle) Save(ctx context.Context, out io.Writer, refs []string, format string, c Compression) (err error) {
	if err := c.Check(); err != nil {
		return err
	}
	lock, err := w.use(ctx)
	if err != nil {
		return err
	}
	defer join(&err, lock.Close)
	var list []image.Export
	for _, ref := range refs {
		m, n, err := w.catalog.Resolve(ref)
		if err == nil {
			err = w.gather(ctx, m, nil)
		}
		if err != nil {
			return err
		}
		x := image.Export{Image: m}
		if !n.IsZero() {
			x.Names = []image.Name{n}
		}
		if image.Format(format) == image.OCIArchive {
			var said image.Said
			if x.Others, said, err = w.alsoOf(n); err != nil {
				return err
			}
			x.IndexAnnotations, x.Described = said.Index, said.Descriptors
		}
		for _, other := range x.Others {
			if err := w.gather(ctx, other, nil); err != nil {
				return err
			}
		}
		list = append(list, x)
	}
	e := image.Exporter{Blob: w.uncompressed, Style: manifest.OCI}
	if c.Format != "uncompressed" {
		a := w.compressAhead(ctx, list, c)
		defer a.end()
		e.Blob = a.blob
	}
	_, err = e.Save(ctx, out, list, image.Format(format))
	return err
}

// uncompressed opens a layer as it is.
func (w *Whittle) uncompressed(ctx context.Context, l image.Layer) (manifest.Descriptor, io.ReadCloser, error) {
	in, size, err := w.openTar(ctx, l)
	return manifest.Descriptor{MediaType: manifest.OCILayer, Digest: l.DiffID, Size: size}, in, err
}

// ahead are layers that are compressed side by side, while those before them are
// written.
type ahead struct {
	w      *Whittle
	blobs  map[digest.Digest]func() (manifest.Descriptor, error)
	cancel context.CancelFunc
	all    sync.WaitGroup
}

func (w *Whittle) compressAhead(ctx context.Context, images []image.Export, c Compression) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{w: w, blobs: map[digest.Digest]func() (manifest.Descriptor, error){}, cancel: cancel}
	var order []func() (manifest.Descriptor, error)
	for _, m := range allOf(images) {
		for _, l := range m.Layers {
			if a.blobs[l.DiffID] == nil {
				a.blobs[l.DiffID] = sync.OnceValues(func() (manifest.Descriptor, error) { return w.compressed(ctx, l, c, nil) })
				order = append(order, a.blobs[l.DiffID])
			}
		}
	}
	next := make(chan func() (manifest.Descriptor, error), len(order))
	for _, compress := range order {
		next <- compress
	}
	close(next)
	for range runtime.GOMAXPROCS(0) {
		a.all.Go(func() {
			for compress := range next {
				_, _ = compress() // blob tells
			}
		})
	}
	return a
}

// allOf are the images of exports, for all platforms.
func allOf(list []image.Export) (images []*image.Image) {
	for _, x := range list {
		images = append(append(images, x.Image), x.Others...)
	}
	return images
}

func (a *ahead) blob(_ context.Context, l image.Layer) (d manifest.Descriptor, in io.ReadCloser, err error) {
	if d, err = a.blobs[l.DiffID](); err == nil {
		in, err = a.w.store.OpenBlob(d.Digest)
	}
	return d, in, err
}

// end stops what is not written any more.
func (a *ahead) end() {
	a.cancel()
	a.all.Wait()
}
