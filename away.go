package whittle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/cacheplace"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/store"
)

// A layer that nobody has read yet need not be here: the store has a placeholder
// for it, which says what it is and where its bytes are, and the first that
// opens it fetches it. So a base image of which nothing but files that are known
// already is copied, or on which nothing is run, never travels.

// originName is the part of a layer's folder that says where it was fetched
// from; a placeholder has the same in store.AwayName.
const originName = "origin.json"

// origin is a place that has a layer.
type origin struct {
	Name string              `json:"name"` // of an image or a cache; its repository counts
	Blob manifest.Descriptor `json:"blob"`
}

func originsOf(n image.Name, l registry.Layer) []origin {
	return []origin{{n.String(), l.Descriptor.Bare()}}
}

func writeOrigins(path string, from []origin) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func readOrigins(path string) ([]origin, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var from []origin
	if err := json.Unmarshal(b, &from); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return from, nil
}

// isBrought says whether a layer came, or is to come, from elsewhere.
func isBrought(dir string) bool {
	for _, name := range []string{originName, store.AwayName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// withOrigin adds to a layer what is known of its compressed form: what was
// fetched need not be compressed again to be pushed.
func (w *Whittle) withOrigin(l image.Layer, form string) image.Layer {
	name := originName
	if form == layer.FormAway {
		name = store.AwayName
	}
	from, err := readOrigins(filepath.Join(w.store.LayerDir(l.ID), name))
	if err == nil && len(from) > 0 {
		l.Blob, l.Source = &from[0].Blob, from[0].Name
	}
	return l
}

// passOn brings the compressed form of a layer that is elsewhere into the store,
// to be sent on as it is.
func (w *Whittle) passOn(ctx context.Context, l image.Layer) (manifest.Descriptor, error) {
	if _, err := w.store.StatBlob(l.Blob.Digest); err == nil {
		return *l.Blob, nil
	}
	return *l.Blob, fetchingOf(ctx, w).from(ctx, origin{l.Source, *l.Blob}, func(r io.Reader) error {
		_, _, err := w.store.PutBlob(r)
		return err
	})
}

// placeholders notes the layers of r, which n names, that the store has not.
func (w *Whittle) placeholders(r *registry.Remote, n image.Name) error {
	for _, l := range r.Layers {
		if err := w.putAway(l.DiffID, layer.Meta{DiffID: l.DiffID, Size: l.Size}, originsOf(n, l)); err != nil {
			return err
		}
	}
	return nil
}

// errOther is for a layer of which something else is known than is said now.
var errOther = errors.New("another layer has this id")

// putAway makes a placeholder for the layer id, unless the layer is here, or adds
// places to the one that is there. meta is what is known of it.
func (w *Whittle) putAway(id digest.Digest, meta layer.Meta, from []origin) (err error) {
	// One at a time, or the second would replace what the first has just said of it.
	k := digest.NewKey("put away")
	k.Digest("layer", id)
	lock, err := w.store.LockKey(context.Background(), k.Sum(), nil)
	if err != nil {
		return err
	}
	defer join(&err, lock.Close)
	dir := w.store.LayerDir(id)
	if w.store.HasLayer(id) {
		was, err := layer.ReadMeta(dir)
		if err != nil {
			return err
		}
		// That of a tree that was made here is not known, and nobody else can make one of its id.
		if was.DiffID != meta.DiffID && !was.DiffID.IsZero() {
			return fmt.Errorf("layer %s: %w", id.Short(), errOther)
		}
		if was.Form != layer.FormAway {
			return nil
		}
		known, err := readOrigins(filepath.Join(dir, store.AwayName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has come meanwhile
			return err
		}
		if from = merged(from, known); slices.EqualFunc(from, known, samePlace) {
			return nil
		}
		meta = was
	}
	tmp, err := w.store.Temp("away")
	if err != nil {
		return err
	}
	defer join(&err, tmp.Remove)
	meta.Form = layer.FormAway
	if err := errors.Join(layer.WriteMeta(tmp.Path, meta), writeOrigins(filepath.Join(tmp.Path, store.AwayName), from)); err != nil {
		return w.store.Explain(err)
	}
	return w.store.CommitLayer(tmp, id)
}

// merged are the places of both, those of a first.
func merged(a, b []origin) []origin {
	const most = 8
	out := slices.Clone(a)
	for _, o := range b {
		if !slices.ContainsFunc(out, func(p origin) bool { return samePlace(p, o) }) && len(out) < most {
			out = append(out, o)
		}
	}
	return out
}

func samePlace(a, b origin) bool { return a.Name == b.Name && a.Blob.Digest == b.Blob.Digest }

// hereAlready says whether a layer can be opened without being fetched.
func (w *Whittle) hereAlready(id digest.Digest) bool {
	_, ok := w.metaHere(id)
	return ok
}

// metaHere is the meta of a layer that can be opened without being fetched.
func (w *Whittle) metaHere(id digest.Digest) (meta layer.Meta, ok bool) {
	if !w.store.HasLayer(id) {
		return meta, false
	}
	meta, err := layer.ReadMeta(w.store.LayerDir(id))
	return meta, err == nil && meta.Form != layer.FormAway
}

// fetchLayer makes sure that a layer is here. Of several processes that need it
// one fetches it and the others wait.
func (w *Whittle) fetchLayer(ctx context.Context, id digest.Digest) error {
	if w.hereAlready(id) {
		return nil
	}
	k := digest.NewKey("fetch")
	k.Digest("layer", id)
	one, err := w.store.LockKey(ctx, k.Sum(), func() {})
	if err != nil {
		return err
	}
	defer one.Close()
	dir := w.store.LayerDir(id)
	meta, err := layer.ReadMeta(dir)
	if err != nil || meta.Form != layer.FormAway {
		return err
	}
	from, err := readOrigins(filepath.Join(dir, store.AwayName))
	if err != nil {
		return err
	}
	f := fetchingOf(ctx, w)
	if lost := f.soughtInVain(id, len(from)); lost != nil {
		return lost
	}
	lost := &rootfs.LostError{Layer: id}
	for _, o := range from {
		err := f.layer(ctx, id, meta.DiffID, o)
		if err == nil || ctx.Err() != nil {
			return err
		}
		var full *store.FullError
		if err = w.store.Explain(err); errors.As(err, &full) {
			return err
		}
		lost.Err = errors.Join(lost.Err, err)
	}
	f.remember(lost, len(from))
	return lost
}

// reachable says whether some place has a layer that is not here.
func (w *Whittle) reachable(ctx context.Context, id digest.Digest) bool {
	from, _ := readOrigins(filepath.Join(w.store.LayerDir(id), store.AwayName))
	for _, o := range from {
		if dir := o.folderOf(); dir != "" {
			if ok, err := cacheplace.Folder(dir, "").Has(ctx, o.Blob); ok && err == nil {
				return true
			}
			continue
		}
		n, err := image.ParseName(o.Name)
		if err != nil {
			continue
		}
		if ok, err := fetchingOf(ctx, w).client(n).HasBlob(ctx, reference(n), o.Blob); ok && err == nil {
			return true
		}
	}
	return false
}

// gather fetches the layers of an image that are not here, and tells sink.
func (w *Whittle) gather(ctx context.Context, m *image.Image, sink progress.Sink) error {
	err := w.rootFS().Gather(withFetching(ctx, w, sink), chainOf(m))
	if n := len(lostIn(err)); n > 0 && ctx.Err() == nil {
		err = &hinted{fmt.Errorf("image %s: %s that nothing needed until now cannot be fetched: %w", m.ID.Short(), count(n, "layer"), err),
			"when its registry can be reached, whittle pull brings all of an image"}
	}
	return err
}

// fetching is the context of all that fetches layers in this build. stop ends
// what fetchAhead has begun, and waits for it.
func (b *build) fetching(ctx context.Context) (_ context.Context, stop func()) {
	f := newFetching(b.Whittle, b.sink)
	f.again = b.remade
	ctx, cancel := context.WithCancel(context.WithValue(ctx, fetchingKey{}, f))
	return ctx, func() { cancel(); b.fetches.Wait() }
}

// fetchAhead begins to fetch the base images that this build will need: that of
// the target where the image stays here, and where no shared cache may know what
// steps make, those under steps that look into them. Who needs a layer before it
// is here waits for it, and is told of an error.
func (b *build) fetchAhead(ctx context.Context, p *plan.Plan) {
	under := map[*plan.Step]*plan.Ref{} // the image that a step's file system begins with
	begins := func(root plan.Root) *plan.Ref {
		if root.Step != nil {
			return under[root.Step]
		}
		return root.Image
	}
	for _, s := range p.Steps { // each after the one below it
		under[s] = begins(s.Below)
	}
	bases := map[plan.Ref]bool{}
	if base := begins(p.Target.Root); base != nil && b.shell == nil && !b.onlyPushed() {
		bases[*base] = true
	}
	if len(b.req.CacheFrom) == 0 {
		for s, base := range under {
			if linked := s.Copy != nil && s.Copy.Link; base != nil && !linked {
				bases[*base] = true
			}
		}
	}
	for base := range bases {
		if m := b.images[base]; m != nil {
			b.fetches.Go(func() { _ = b.rootFS().Gather(ctx, chainOf(m)) })
		}
	}
}

// fetching is what fetches layers for one build or verb, and shows it: a step
// for each repository that layers come from, which ends when none is on its way.
type fetching struct {
	w     *Whittle
	sink  progress.Sink
	slots chan struct{}
	// again, which may be nil, is how long it takes to make a layer again; ok is false
	// when nobody can.
	again func(layer digest.Digest) (took time.Duration, ok bool)

	mu    sync.Mutex
	repos map[string]*fetchedRepo
	lost  map[search]*rootfs.LostError
}

// search is a layer with the number of places where it was looked for.
type search struct {
	layer  digest.Digest
	places int
}

// fetchedRepo is a repository that layers come from.
type fetchedRepo struct {
	client *registry.Client
	shown  *transfer // nil when nothing is on its way
	users  int
}

type fetchingKey struct{}

// withFetching has layers that are fetched under ctx tell sink.
func withFetching(ctx context.Context, w *Whittle, sink progress.Sink) context.Context {
	return context.WithValue(ctx, fetchingKey{}, newFetching(w, sink))
}

func newFetching(w *Whittle, sink progress.Sink) *fetching {
	return &fetching{w: w, sink: orNone(sink), slots: make(chan struct{}, maxFetches), repos: map[string]*fetchedRepo{}, lost: map[search]*rootfs.LostError{}}
}

// soughtInVain is how a layer was not found before, in as many places; nil when it
// was not looked for: who comes second need not wait for all the pauses again.
func (f *fetching) soughtInVain(id digest.Digest, places int) *rootfs.LostError {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost[search{id, places}]
}

func (f *fetching) remember(lost *rootfs.LostError, places int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost[search{lost.Layer, places}] = lost
}

// maxFetches is how many layers come at once: what a pull has.
const maxFetches = 4

// fetchingOf is that of ctx, or one that tells nobody.
func fetchingOf(ctx context.Context, w *Whittle) *fetching {
	if f, ok := ctx.Value(fetchingKey{}).(*fetching); ok {
		return f
	}
	return newFetching(w, nil)
}

// layer fetches one layer from o.
func (f *fetching) layer(ctx context.Context, id, diffID digest.Digest, o origin) error {
	h, ctx := f.hurried(ctx, id, o)
	return h.end(f.from(ctx, o, func(r io.Reader) error {
		_, err := f.w.takeLayerFrom(ctx, h.watch(f, o, r), diffID, id, []origin{o})
		return err
	}))
}

// from gives the blob of o to take, as registry.Fetch does.
func (f *fetching) from(ctx context.Context, o origin, take func(io.Reader) error) error {
	if !slot(ctx, f.slots) {
		return context.Cause(ctx)
	}
	defer func() { <-f.slots }()
	if dir := o.folderOf(); dir != "" {
		return fromFolder(ctx, dir, o.Blob, take)
	}
	n, err := image.ParseName(o.Name)
	if err != nil {
		return err
	}
	c := f.enter(n)
	defer f.leave(n)
	began := time.Now()
	if err := c.Fetch(ctx, reference(n), o.Blob, take); err != nil {
		return err
	}
	if o.Blob.Size >= worthPacing {
		f.w.notePace(n, o.Blob.Size, time.Since(began))
	}
	return nil
}

func fromFolder(ctx context.Context, dir string, d manifest.Descriptor, take func(io.Reader) error) (err error) {
	from, err := image.OpenFolder(dir, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	in, err := from.Open(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	err = take(in)
	var broken *layer.BrokenError
	if err != nil && !errors.As(err, &broken) {
		return err
	}
	// What is checked is the whole; what is wrong with that says more than where it showed.
	_, whole := io.Copy(io.Discard, &cancelled{ctx, in})
	return cmp.Or(whole, err)
}

// enter returns the client for n's repository, from which one more layer comes.
func (f *fetching) enter(n image.Name) *registry.Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.repo(n)
	if r.users++; r.shown == nil {
		r.shown = f.w.transfer("pull "+n.Familiar(), f.sink)
	}
	return r.client
}

// repo is n's repository. The caller holds mu.
func (f *fetching) repo(n image.Name) *fetchedRepo {
	r := f.repos[n.Repository()]
	if r == nil {
		r = &fetchedRepo{}
		r.client = f.w.client(func(e registry.Event) { f.event(r, e) })
		f.repos[n.Repository()] = r
	}
	return r
}

// client is what n's repository is asked with, while no layer comes.
func (f *fetching) client(n image.Name) *registry.Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.repo(n).client
}

func (f *fetching) event(r *fetchedRepo, e registry.Event) {
	f.mu.Lock()
	t := r.shown
	f.mu.Unlock()
	if t != nil {
		t.event(e)
	}
}

// leave ends what enter began. What went wrong is told by who needed the layer, if
// it is worth telling.
func (f *fetching) leave(n image.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.repos[n.Repository()]
	if r.users--; r.users == 0 {
		r.shown.done(nil)
		r.shown = nil
	}
}
