package execute

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// prepared is the layer of a COPY out of a stage, written while its content was
// found out: so each file is read once, for the key and for the layer. The store
// does not have it before the step runs, and it is thrown away when that turns out
// to be cached.
type prepared struct {
	parts    parts
	stop     context.CancelCauseFunc // of what reads for it
	view     entry.FS                // that is copied from
	tmp      *store.Temp
	meta     layer.Meta
	items    *copying.Items
	warnings []copying.Warning
}

// Close gives back what p has taken; a layer that the store got by now stays.
func (p *prepared) Close() error {
	var err error
	p.stop(nil)
	forget(p.view)
	if p.tmp != nil {
		err = p.tmp.Remove()
	}
	return errors.Join(err, p.parts.close())
}

// mayPrepare says whether the layer of job's COPY is worth writing before its key is
// known: of a stage that has just run, and in a tar. A tree is written by copies
// within the kernel, where nothing is hashed on the way.
func (l *Local) mayPrepare(job solve.Job) bool {
	c := job.Step.Copy
	if _, isContext := l.context(c.From); isContext || job.Kept == nil || len(c.Remotes) > 0 || c.Unpack || len(c.Heredocs) > 0 {
		return false
	}
	if !job.InRoot {
		return true
	}
	provider, err := l.Roots.Provider()
	return err == nil && provider != rootfs.Tree
}

var errSmall = errors.New("not worth it")

// prepare writes the layer of job's COPY, keeps it for the step, and returns the
// digest of what is copied. It is an attempt: whatever goes wrong is told when the
// content is found out alone, or when the step runs.
func (l *Local) prepare(ctx context.Context, job solve.Job) (d digest.Digest, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &prepared{parts: parts{local: l, job: job}, stop: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.parts.gather(ctx); err != nil {
		return d, err
	}
	r := &p.parts.requests[0]
	p.view = bare(r.From)
	s := newSums(until{ctx, p.view})
	r.From = until{ctx, summed{p.view, s}}
	span := trace.Begin(ctx, "plan the copy")
	p.items, p.warnings, err = copying.Plan(p.parts.requests)
	span.End()
	if err != nil {
		return d, err
	}
	if !worth(p.items) {
		return d, errSmall
	}
	var told error
	var telling sync.WaitGroup
	telling.Go(func() {
		if d, _, told = copying.Content(*r, s); told != nil {
			cancel(told)
		}
	})
	err = l.writePrepared(ctx, job, p)
	if err != nil {
		cancel(err)
	}
	s.end()
	telling.Wait()
	if err = errors.Join(err, told); err == nil {
		job.Kept.Made = p
	}
	return d, err
}

func (l *Local) writePrepared(ctx context.Context, job solve.Job, p *prepared) (err error) {
	if p.tmp, err = l.Store.Temp("copy"); err != nil {
		return err
	}
	p.meta, err = l.writeTo(ctx, job, p.tmp, p.items, p.parts.requests)
	return err
}

// copyPrepared is copy for what is written already.
func (l *Local) copyPrepared(ctx context.Context, job solve.Job, p *prepared) (solve.Made, error) {
	l.warn(job, p.warnings)
	return l.writeAgain(ctx, job, p.items, func() (solve.Made, error) { return l.commitWritten(job, p.tmp, p.meta) })
}

// sums are digests of files by their paths, each told once: those who read the
// files note them, and who needs one waits for it.
type sums struct {
	from entry.FS

	mu   sync.Mutex
	more *sync.Cond
	of   map[string]digest.Digest
	over bool
}

func newSums(from entry.FS) *sums {
	s := &sums{from: from, of: map[string]digest.Digest{}}
	s.more = sync.NewCond(&s.mu)
	return s
}

func (s *sums) note(path string, d digest.Digest) {
	s.mu.Lock()
	s.of[path] = d
	s.mu.Unlock()
	s.more.Signal()
}

// end is called when nothing will be noted any more.
func (s *sums) end() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.more.Signal()
}

// FileDigest implements entry.Digester, for one caller at a time. A file that nobody
// has read by the end, as another name of a hard link, is read here.
func (s *sums) FileDigest(e entry.Entry) (d digest.Digest, err error) {
	s.mu.Lock()
	d, ok := s.of[e.Path]
	for !ok && !s.over {
		s.more.Wait()
		d, ok = s.of[e.Path]
	}
	delete(s.of, e.Path)
	s.mu.Unlock()
	if ok {
		return d, nil
	}
	f, err := summed{s.from, s}.Open(e.Path)
	if err != nil {
		return d, err
	}
	_, err = io.Copy(io.Discard, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return d, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[e.Path], nil
}

// summed is a file system that notes the digest of each file that is read to its
// end.
type summed struct {
	entry.FS
	sums *sums
}

// Open implements entry.FS.
func (s summed) Open(path string) (io.ReadCloser, error) {
	f, err := s.FS.Open(path)
	if err != nil {
		return nil, err
	}
	return &summing{f, sha256.New(), path, s.sums}, nil
}

// Loader implements entry.Loader's maker.
func (s summed) Loader() entry.Loader { return sumLoader{entry.LoaderOf(s.FS), s.sums} }

type sumLoader struct {
	entry.Loader
	sums *sums
}

func (l sumLoader) Load(path string, data []byte) error {
	err := l.Loader.Load(path, data)
	if err == nil {
		l.sums.note(path, sha256.Sum256(data))
	}
	return err
}

type summing struct {
	io.ReadCloser
	h    hash.Hash
	path string
	sums *sums
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.h.Write(p[:n])
	if err == io.EOF {
		var d digest.Digest
		s.h.Sum(d[:0])
		s.sums.note(s.path, d)
	}
	return n, err
}
