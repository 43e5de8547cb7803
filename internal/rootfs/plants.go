package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/store"
)

// Plants are the roots that the provider chroot makes: plain folders in the
// store's tmp, written out of the layers. A root belongs to one step at a time.
// After it the root is what the next step of the stage begins with, so it is kept
// and handed on; where only layers lie between, those are written over it. The
// zero value with Roots set is ready; Close removes all of them, and a process
// that is killed leaves garbage that the store's sweep removes.
type Plants struct {
	Roots *Roots

	mu    sync.Mutex
	idle  []*Planted // that was kept last comes last
	going sync.WaitGroup
	errs  []error
}

// maxIdle is how many roots are kept that no step has.
const maxIdle = 8

// A Planted is one root, which belongs to whoever took it.
type Planted struct {
	tmp     *store.Temp
	chain   Chain
	lacks   map[string]map[string]string // attributes that it cannot hold, by path
	noted   noted
	inexact bool // it is not all that its chain says
}

// Dir is the folder that is the root.
func (p *Planted) Dir() string { return filepath.Join(p.tmp.Path, "root") }

// Lock is the open file that says that the root is in use.
func (p *Planted) Lock() *os.File { return p.tmp.Lock() }

// Open opens the root for a process.
func (p *Planted) Open() (*os.File, error) {
	return os.OpenFile(p.Dir(), unix.O_PATH|unix.O_DIRECTORY, 0)
}

// Scratch is an empty folder beside the root, for what a sandbox puts there
// while a process runs.
func (p *Planted) Scratch() (string, error) {
	dir := filepath.Join(p.tmp.Path, "scratch")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

func (p *Planted) listing() string { return filepath.Join(p.tmp.Path, "listing") }

// Take returns a root with the file system of chain: one that was kept, with
// the layers that it lacks written over it, else a new one. Keep or Drop must
// follow.
func (s *Plants) Take(ctx context.Context, chain Chain) (*Planted, error) {
	p, err := s.take(ctx, chain)
	if err == nil {
		p.noted.settle()
	}
	return p, err
}

func (s *Plants) take(ctx context.Context, chain Chain) (*Planted, error) {
	if p := s.nearest(chain); p != nil {
		err := s.raise(ctx, p, chain)
		if err == nil {
			return p, nil
		}
		s.Drop(p)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return s.plant(ctx, chain)
}

// nearest takes out the idle root that has most of chain and nothing else.
func (s *Plants) nearest(chain Chain) *Planted {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, p := range s.idle {
		n := len(p.chain)
		if n <= len(chain) && slices.Equal(p.chain, chain[:n]) && (best < 0 || n >= len(s.idle[best].chain)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	p := s.idle[best]
	s.idle = slices.Delete(s.idle, best, best+1)
	return p
}

// raise writes the layers over p that it lacks.
func (s *Plants) raise(ctx context.Context, p *Planted, chain Chain) error {
	if len(p.chain) == len(chain) {
		return nil
	}
	if len(p.lacks) > 0 {
		return errLacks
	}
	for i := len(p.chain); i < len(chain); i++ {
		v, err := s.Roots.Layer(ctx, chain[:i+1])
		if err != nil {
			return err
		}
		lacks, err := layer.Lay(ctx, v.(*layer.View), p.Dir())
		if err != nil {
			return err
		}
		p.lacks = lacks
		if len(lacks) > 0 && i+1 < len(chain) {
			return errLacks
		}
	}
	p.chain = chain
	return p.list()
}

// plant makes a new root.
func (s *Plants) plant(ctx context.Context, chain Chain) (_ *Planted, err error) {
	view, err := s.Roots.View(ctx, chain)
	if err != nil {
		return nil, err
	}
	tmp, err := s.Roots.store.Temp("root")
	if err != nil {
		return nil, err
	}
	p := &Planted{tmp: tmp, chain: chain}
	if p.lacks, err = layer.Grow(ctx, view, p.Dir()); err == nil {
		err = p.list()
	}
	if err != nil {
		return nil, errors.Join(err, tmp.Remove())
	}
	return p, nil
}

// errLacks is for a root whose missing attributes would have to be followed
// through what is written over it.
var errLacks = errors.New("it lacks attributes")

// list writes down what is in the root.
func (p *Planted) list() (err error) {
	root, err := fsroot.Open(p.Dir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := os.Remove(p.listing()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rec, err := newRecorder(p.listing())
	if err != nil {
		return err
	}
	err = errors.Join(rec.all(root), rec.close())
	p.noted = rec.noted
	return err
}

// Changes adds to to what is in p otherwise than it was when p was taken. All
// processes that could write there have ended. It is called once; then p is
// dropped, or kept as the root of the chain with the layer that was written.
func (s *Plants) Changes(ctx context.Context, p *Planted, to Sink) (err error) {
	below, err := s.Roots.View(ctx, p.chain)
	if err != nil {
		return err
	}
	root, err := fsroot.Open(p.Dir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	was, err := openListing(p.listing())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, was.close()) }()
	next := p.listing() + ".new"
	now, err := newRecorder(next)
	if err != nil {
		return err
	}
	d := differ{root: root, files: root.FS(), was: was, now: now, below: below, lacks: p.lacks, to: to, links: map[uint64]*group{}}
	if err := errors.Join(d.run(), now.close()); err != nil {
		return err
	}
	p.inexact, p.noted = d.inexact, now.noted
	return os.Rename(next, p.listing())
}

// Keep keeps p for the next step, as the root of chain: what Changes wrote is
// its topmost layer.
func (s *Plants) Keep(p *Planted, chain Chain) {
	if p.inexact || !s.room(p) {
		s.Drop(p)
		return
	}
	p.chain = chain
	s.mu.Lock()
	s.idle = append(s.idle, p)
	var old *Planted
	if len(s.idle) > maxIdle {
		old = s.idle[0]
		s.idle = slices.Delete(s.idle, 0, 1)
	}
	s.mu.Unlock()
	if old != nil {
		s.Drop(old)
	}
}

// room says whether the disk has place for as much again: what is kept must not
// be why the next step has none.
func (s *Plants) room(p *Planted) bool {
	free, err := s.Roots.store.Free()
	return err == nil && free > p.noted.bytes
}

// Drop removes p, in the background.
func (s *Plants) Drop(p *Planted) {
	s.going.Go(func() {
		if err := p.tmp.Remove(); err != nil {
			s.mu.Lock()
			s.errs = append(s.errs, fmt.Errorf("root file system: %w", err))
			s.mu.Unlock()
		}
	})
}

// Close removes the roots that were kept, and waits for those that are being
// removed.
func (s *Plants) Close() error {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, p := range idle {
		s.Drop(p)
	}
	s.going.Wait()
	return errors.Join(s.errs...)
}
