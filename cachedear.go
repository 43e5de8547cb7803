package whittle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// A shared cache is never to be slower than building. What steps took and how large
// their layers are is in its records, and how fast a registry is has been seen: a
// layer that would come later than it is made again is made again.

// pace is how fast blobs have come from one registry: bytes in a time. Later ones count
// more.
type pace struct {
	Bytes int64         `json:"bytes"`
	Took  time.Duration `json:"took"`
}

const (
	// unknownPace is what a registry is thought to give of which nothing is known, in bytes a
	// second, and nearPace one that was reached within near, as is usual on one machine or in one
	// network. To be wrong costs little either way, as a fetch that turns out to be slow is given up, unless
	// other steps run meanwhile: who is near may be a tunnel or hand out storage that is far.
	unknownPace = 20 << 20
	nearPace    = 100 << 20
	near        = 2 * time.Millisecond
	// folderPace is what a folder gives.
	folderPace = 1 << 30
	// worthPacing is how large a blob is that tells something of the pace.
	worthPacing = 1 << 20
	// margin is by how much a fetch has to be longer, so that it is not chance.
	margin = 250 * time.Millisecond

	paceKind = "pace"
)

// notePace notes that a blob has come from n's registry, unpacked and written.
func (w *Whittle) notePace(n image.Name, size int64, took time.Duration) {
	p := w.pace(n)
	p.Bytes, p.Took = p.Bytes/2+size, p.Took/2+took
	if b, err := json.Marshal(p); err == nil {
		_ = w.store.PutCacheFile(paceKind, n.Domain, b) // which only makes later guesses better
	}
}

func (w *Whittle) pace(n image.Name) (p pace) {
	b, err := os.ReadFile(w.store.CacheFile(paceKind, n.Domain))
	if err != nil || json.Unmarshal(b, &p) != nil || p.Bytes <= 0 || p.Took <= 0 {
		return pace{}
	}
	return p
}

// estimate is how long the blob of o takes to come.
func (c *caches) estimate(o origin) time.Duration {
	perSecond := float64(folderPace)
	if n, err := image.ParseName(o.Name); err == nil && o.folderOf() == "" {
		perSecond = guessedPace(c.client().Reach(n.Domain))
		if p := c.build.pace(n); p.Took > 0 {
			perSecond = float64(p.Bytes) / p.Took.Seconds()
		}
	}
	return time.Duration(float64(o.Blob.Size) / perSecond * float64(time.Second))
}

// guessedPace is that of a registry from which nothing has come but answers; 0 for reach means
// that nobody knows.
func guessedPace(reach time.Duration) float64 {
	if reach > 0 && reach <= near {
		return nearPace
	}
	return unknownPace
}

// away is where a layer that is not here comes from first; ok is false when it is here.
func (w *Whittle) away(id digest.Digest) (o origin, ok bool) {
	if w.hereAlready(id) {
		return o, false
	}
	from, err := readOrigins(filepath.Join(w.store.LayerDir(id), store.AwayName))
	if err != nil || len(from) == 0 {
		return o, false
	}
	return from[0], true
}

// Dear implements solve.Elsewhere.
func (c *caches) Dear(_ context.Context, need []digest.Digest, remake func(digest.Digest) (solve.Remake, bool)) error {
	var errs []error
	for _, id := range need {
		o, ok := c.build.away(id)
		if !ok {
			continue
		}
		m, ok := remake(id)
		if !ok {
			continue
		}
		fetch, again := c.estimate(o), m.Took
		for _, in := range m.Inputs {
			if o, ok := c.build.away(in); ok && !slices.Contains(need, in) {
				again += c.estimate(o)
			}
		}
		if fetch > again+again/4+margin {
			errs = append(errs, &rootfs.LostError{Layer: id, Err: &dear{o.Blob.Size, fetch, again}})
			continue
		}
		c.mu.Lock()
		c.worth[id] = again
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// remade is how long it takes to make a layer again that Dear had fetched all the same.
func (b *build) remade(layer digest.Digest) (time.Duration, bool) {
	c := b.caches
	if c == nil {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	took, ok := c.worth[layer]
	return took, ok
}

const (
	// look is how often a fetch is asked how long it will take.
	look = 300 * time.Millisecond
	// trial is how long one runs, from its first byte, before what came tells something, if that
	// is less than worthPacing: connections begin slowly.
	trial = 2 * time.Second
)

// hurry gives up the fetch of a layer that turns out to take longer than to make it again:
// the pace that it was thought to have was a guess, or is not what it was. While other
// steps run nothing is given up: they would be stopped for it. A nil hurry has time.
type hurry struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	size   int64
	again  time.Duration
	first  atomic.Pointer[time.Time] // when the first bytes came
	came   atomic.Int64
	ended  chan struct{}
}

// hurried returns the context of the fetch of a layer from o.
func (f *fetching) hurried(ctx context.Context, id digest.Digest, o origin) (*hurry, context.Context) {
	if f.again == nil {
		return nil, ctx
	}
	again, ok := f.again(id)
	if !ok {
		return nil, ctx
	}
	h := &hurry{size: o.Blob.Size, again: again, ended: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	return h, h.ctx
}

// watch wraps what reads the blob of o.
func (h *hurry) watch(f *fetching, o origin, r io.Reader) io.Reader {
	if h == nil {
		return r
	}
	go h.follow(f, o)
	return &tallied{r, h}
}

func (h *hurry) follow(f *fetching, o origin) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	var before int64
	for {
		select {
		case <-h.ended:
			return
		case <-tick.C:
		}
		first, came := h.first.Load(), h.came.Load()
		if first == nil {
			continue // what it takes to connect says nothing of the pace
		}
		ran := time.Since(*first)
		perSecond := max(float64(came)/ran.Seconds(), float64(came-before)/look.Seconds())
		before = came
		if came < worthPacing && ran < trial || !solve.Alone(h.ctx) {
			continue
		}
		left := time.Duration(float64(h.size-came) / perSecond * float64(time.Second))
		if left > h.again+h.again/4+4*margin {
			h.cancel(&dear{h.size, ran + left, h.again})
			if n, err := image.ParseName(o.Name); err == nil && o.folderOf() == "" {
				f.w.notePace(n, came, ran) // who comes next knows
			}
			return
		}
	}
}

// end returns what came of a fetch: that it was given up says more than how.
func (h *hurry) end(err error) error {
	if h == nil {
		return err
	}
	close(h.ended)
	defer h.cancel(nil)
	if late, ok := context.Cause(h.ctx).(*dear); ok && err != nil {
		return late
	}
	return err
}

// tallied counts what is read, until it is given up.
type tallied struct {
	r io.Reader
	h *hurry
}

func (t *tallied) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 && t.h.first.Load() == nil {
		now := time.Now()
		t.h.first.Store(&now)
	}
	t.h.came.Add(int64(n))
	if t.h.ctx.Err() != nil {
		err = context.Cause(t.h.ctx)
	}
	return n, err
}

// dear is why a layer is not fetched.
type dear struct {
	size         int64
	fetch, again time.Duration
}

func (d *dear) Error() string {
	return fmt.Sprintf("to fetch its %s would take about %s, to make it again %s", progress.HumanSize(d.size), d.fetch.Round(10*time.Millisecond), d.again.Round(10*time.Millisecond))
}

// worthGathering is Dear for the layers of the image, once all steps are solved. Those of
// its base are fetched first: nothing makes them, and how long that takes tells the pace.
func (b *build) worthGathering(ctx context.Context, p *plan.Plan, solved *solve.Result) error {
	chain := solved.Chain(p.Target.Root)
	if err := b.rootFS().Gather(ctx, chain[:min(b.baseLayersOf(p), len(chain))]); err != nil {
		return err
	}
	return b.caches.Dear(ctx, chain, func(layer digest.Digest) (solve.Remake, bool) { return solved.Remake(p, layer, nil) })
}
