package whittle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/store"
)

// transfer is a pull or a push, as a display shows it: a step that no line of
// a Dockerfile says, which is there from its first blob on.
type transfer struct {
	w     *Whittle
	sink  progress.Sink
	label string
	id    int // below 0: instructions count up from 1
	begin sync.Once
	began bool
	made  func() *registry.Client // once
}

func (w *Whittle) transfer(label string, sink progress.Sink) *transfer {
	t := &transfer{w: w, sink: orNone(sink), label: label, id: -int(w.transfers.Add(1))}
	t.made = sync.OnceValue(func() *registry.Client { return w.client(t.event) })
	return t
}

// orNone lets a caller who wants to hear nothing pass nil.
func orNone(sink progress.Sink) progress.Sink {
	if sink == nil {
		return progress.Discard{}
	}
	return sink
}

// client is the one by which all of t goes.
func (t *transfer) client() *registry.Client { return t.made() }

// client talks to registries with the user's credentials.
func (w *Whittle) client(event func(registry.Event)) *registry.Client {
	keep := func(d manifest.Descriptor) registry.Kept {
		if p := w.store.Partial(d.Digest); p != nil {
			return p
		}
		return nil
	}
	return &registry.Client{Keep: keep, Keys: registry.Keychain{Files: w.opt.Credentials}, Hosts: w.opt.Registries, CertDirs: w.opt.CertDirs, Event: event}
}

func (t *transfer) emit(e progress.Event) {
	e.Vertex, e.Time = t.id, t.w.opt.Now()
	t.sink.Emit(e)
}

func (t *transfer) event(e registry.Event) {
	t.begin.Do(func() {
		t.began = true
		t.emit(progress.Event{Kind: progress.Begin, Vertices: []progress.Vertex{{ID: t.id, Label: t.label}}})
		t.emit(progress.Event{Kind: progress.Started})
	})
	blob := e.Blob.Digest.Short()
	switch e.Action {
	case registry.Have, registry.Exists, registry.Mounted:
		blob += " (there already)"
	case registry.Passing:
		t.emit(progress.Event{Kind: progress.Log, Stream: 2, Data: fmt.Appendf(nil, "%v: the next is asked\n", e.Err)})
		return
	case registry.Waiting:
		t.emit(progress.Event{Kind: progress.Log, Stream: 2, Data: fmt.Appendf(nil, "%v\n", e.Err)})
		return
	case registry.Retrying:
		t.emit(progress.Event{Kind: progress.Log, Stream: 2, Data: fmt.Appendf(nil, "%s: trying again: %v\n", blob, e.Err)})
		return
	}
	t.emit(progress.Event{Kind: progress.Status, Name: blob, Current: e.Done, Total: e.Blob.Size})
}

// done ends what was shown, if it was not ended before. Why it failed the caller tells, once: a display
// would say it twice more.
func (t *transfer) done(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		err = errors.New("did not end well")
	}
	if t.began {
		t.began = false
		t.emit(progress.Event{Kind: progress.Done, Err: err})
	}
}

func reference(n image.Name) registry.Ref {
	return registry.Ref{Domain: n.Domain, Path: n.Path, Tag: n.Tag, Digest: n.Digest}
}

// Pull brings an image into the store, and says what it does to sink, which
// may be nil.
func (w *Whittle) Pull(ctx context.Context, ref, platform string, sink progress.Sink) (_ image.Summary, err error) {
	n, err := image.ParseName(ref)
	if err != nil {
		return image.Summary{}, err
	}
	want, err := platformOf(platform)
	if err != nil {
		return image.Summary{}, err
	}
	lock, err := w.use(ctx)
	if err != nil {
		return image.Summary{}, err
	}
	defer join(&err, lock.Close)
	m, err := w.pull(ctx, n, want, false, sink)
	if err != nil {
		return image.Summary{}, err
	}
	return w.catalog.Summary(m.ID)
}

// pull brings in the image that n names for platform p. Layers that the store
// has do not come again; a lazy pull leaves all others where they are, until
// somebody needs them.
func (w *Whittle) pull(ctx context.Context, n image.Name, p plan.Platform, lazy bool, sink progress.Sink) (_ *image.Image, err error) {
	t := w.transfer("pull "+n.Familiar(), sink)
	defer func() { t.done(err) }()
	c := t.client()
	r, err := c.Resolve(ctx, reference(n), manifest.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant})
	if err != nil {
		return nil, err
	}
	one, err := w.pulling(ctx, r.Manifest.Digest, sink)
	if err != nil {
		return nil, err
	}
	defer one.Close()
	if lazy {
		err = w.placeholders(r, n)
	} else {
		err = c.Pull(ctx, r, registry.Sink{
			Have: func(d digest.Digest) bool { _, ok := w.haveLayer(d); return ok },
			Layer: func(ctx context.Context, _ int, l registry.Layer, in io.Reader) error {
				_, err := w.takeLayerFrom(ctx, in, l.DiffID, l.DiffID, originsOf(n, l))
				return err
			},
		})
	}
	if err != nil {
		return nil, err
	}
	layers := make([]image.Layer, len(r.Layers))
	for i, l := range r.Layers {
		d := l.Descriptor
		layers[i] = image.Layer{ID: l.DiffID, DiffID: l.DiffID, Size: w.layerSize(l.DiffID), Blob: &d, Source: n.String()}
	}
	m, err := image.New(r.Config, layers)
	if err != nil {
		return nil, err
	}
	m.Manifest, m.Source = r.Manifest.Digest, n.String()
	if r.Index != nil {
		m.Manifest = r.Index.Digest
	}
	return m, w.keep(m, n)
}

// pulling makes one pull of a manifest wait for another, in whatever process:
// then it finds all layers there and brings nothing a second time.
func (w *Whittle) pulling(ctx context.Context, d digest.Digest, sink progress.Sink) (*store.Lock, error) {
	k := digest.NewKey("pull")
	k.Digest("manifest", d)
	return w.store.LockKey(ctx, k.Sum(), func() {
		orNone(sink).Emit(progress.Event{Kind: progress.Note, Time: w.opt.Now(), Text: "another process is pulling this image: waiting for it"})
	})
}

// Compression is the form in which layers leave the store: gzip, zstd or
// uncompressed; "" is gzip. Level 0 is the form's default; gzip has 1 to 9, zstd
// 1 to 22.
type Compression struct {
	Format string
	Level  int
}

// Check reports what no layer can be compressed with.
func (c Compression) Check() error {
	most, ok := map[string]int{"": 9, "gzip": 9, "zstd": 22, "uncompressed": 0}[c.Format]
	switch {
	case !ok:
		return fmt.Errorf("compression %q: there are gzip, zstd and uncompressed", c.Format)
	case c.Level < 0 || c.Level > most && most > 0:
		return fmt.Errorf("compression level %d: want 1 to %d", c.Level, most)
	case c.Level > most:
		return fmt.Errorf("compression level %d: what is uncompressed has none", c.Level)
	}
	return nil
}

// algorithm is what the layer package calls the form, and its media type.
func (c Compression) algorithm() (alg, mediaType string) {
	switch c.Format {
	case "zstd":
		return layer.Zstd, manifest.OCILayerZstd
	case "uncompressed":
		return layer.None, manifest.OCILayer
	}
	return layer.Gzip, manifest.OCILayerGzip
}

// Push uploads the image that ref names, and returns its manifest's digest. What
// was pulled and the registry has, or lends, keeps the form that it came in; the
// rest gets that of c. sink may be nil.
func (w *Whittle) Push(ctx context.Context, ref string, c Compression, sink progress.Sink) (d digest.Digest, err error) {
	if err := c.Check(); err != nil {
		return d, err
	}
	n, err := image.ParseName(ref)
	if err != nil {
		return d, err
	}
	if !n.Digest.IsZero() {
		return d, &hinted{fmt.Errorf("push %s: a digest is no name to push to, it follows from what is pushed", ref),
			fmt.Sprintf("give the image a tag, whittle tag %s %s:TAG, and push that", ref, n.FamiliarRepository())}
	}
	lock, err := w.use(ctx)
	if err != nil {
		return d, err
	}
	defer join(&err, lock.Close)
	m, known, err := w.catalog.Resolve(ref)
	if err != nil {
		return d, err
	}
	also, said, err := w.alsoOf(known)
	if err != nil {
		return d, err
	}
	t := w.transfer("push "+n.Familiar(), sink)
	defer func() { t.done(err) }()
	ctx = withFetching(ctx, w, sink)
	var done manifest.Descriptor
	if len(also) > 0 {
		done, err = w.pushAll(ctx, n, append([]*image.Image{m}, also...), said, pushForm{Compression: c}, t)
	} else {
		done, err = w.pushImage(ctx, n, m, pushForm{Compression: c}, t)
	}
	return done.Digest, err
}

// pushForm is the form in which an image goes to a registry.
type pushForm struct {
	Compression
	force bool // also of layers that came from a registry
	style manifest.Style
}

// reuses says whether a layer goes on in the form in which a registry had it.
func (f pushForm) reuses(l image.Layer) bool {
	return l.Blob != nil && !f.force && (f.style == manifest.OCI || !manifest.IsZstd(l.Blob.MediaType))
}

// pushImage uploads m under the name n; t shows it, and is not at its end then.
func (w *Whittle) pushImage(ctx context.Context, n image.Name, m *image.Image, form pushForm, t *transfer) (manifest.Descriptor, error) {
	var sent []manifest.Descriptor
	up := registry.Upload{Ref: reference(n), Config: m.Raw,
		Manifest: func(c manifest.Descriptor, layers []manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
			sent = layers
			return manifest.New(form.style, c, layers, m.Annotations)
		},
	}
	for _, l := range m.Layers {
		up.Layers = append(up.Layers, w.upload(m, l, form))
	}
	done, err := t.client().Push(ctx, up)
	if err == nil {
		err = w.nowAt(n, m, sent)
	}
	return done, err
}

// nowAt notes of the layers of m that are elsewhere that n has them too.
func (w *Whittle) nowAt(n image.Name, m *image.Image, sent []manifest.Descriptor) error {
	for i, l := range m.Layers {
		meta, err := layer.ReadMeta(w.store.LayerDir(l.ID))
		if err != nil || meta.Form != layer.FormAway {
			continue
		}
		if err := w.putAway(l.ID, meta, []origin{{n.String(), sent[i]}}); err != nil {
			return err
		}
	}
	return nil
}

// upload is one layer of a push, compressed when the registry lacks it.
func (w *Whittle) upload(m *image.Image, l image.Layer, c pushForm) registry.UploadLayer {
	var d manifest.Descriptor
	up := registry.UploadLayer{
		Blob: func(ctx context.Context, see func(io.ReadCloser)) (_ manifest.Descriptor, err error) {
			if c.reuses(l) && !w.hereAlready(l.ID) {
				d, err = w.passOn(ctx, l)
				return d, err
			}
			if err := w.fetchLayer(ctx, l.ID); err != nil {
				return d, err
			}
			d, err = w.compressed(ctx, l, c.Compression, see)
			return d, err
		},
		Open: func() (io.ReadCloser, error) { return w.store.OpenBlob(d.Digest) },
	}
	if !c.reuses(l) {
		return up
	}
	// A layer that was pulled: the registry may have it still.
	up.Known = l.Blob
	for _, source := range []string{l.Source, m.Source} {
		if from, err := image.ParseName(source); err == nil && source != "" {
			up.From = append(up.From, reference(from))
		}
	}
	return up
}

// worthSeeing is how large a layer is that is sent while it is compressed: it takes
// a request more.
const worthSeeing = 1 << 20

// compressed returns the form c of a layer, which is made once and kept as a
// blob. While a large one is made, see gets it.
func (w *Whittle) compressed(ctx context.Context, l image.Layer, c Compression, see func(io.ReadCloser)) (d manifest.Descriptor, err error) {
	const kind = "compressed"
	alg, mediaType := c.algorithm()
	name := l.DiffID.Hex() + "." + alg
	if c.Level != 0 {
		name += fmt.Sprintf("-%d", c.Level)
	}
	if b, err := w.store.Doc(kind, name); err == nil {
		if json.Unmarshal(b, &d) == nil {
			if _, err := w.store.StatBlob(d.Digest); err == nil {
				return d, nil
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	in, _, err := w.openTar(ctx, l)
	if err != nil {
		return d, err
	}
	defer in.Close()
	pr, pw := io.Pipe()
	var compressing sync.WaitGroup
	compressing.Go(func() { pw.CloseWithError(layer.Compress(pw, &cancelled{ctx, in}, alg, c.Level)) })
	d = manifest.Descriptor{MediaType: mediaType}
	if l.Size < worthSeeing {
		see = nil
	}
	d.Digest, d.Size, err = w.store.GrowBlob(pr, see)
	pr.CloseWithError(err) // stops the other side when the blob could not be written
	compressing.Wait()
	if err != nil {
		return d, err
	}
	b, err := json.Marshal(d)
	if err != nil {
		return d, err
	}
	return d, w.store.PutDoc(kind, name, b)
}

// cancelled is a reader that ends with its context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// CredentialFiles lists where the environment says that the credentials of
// docker login and podman login are.
func CredentialFiles(getenv func(string) string) []string { return registry.CredentialFiles(getenv) }
