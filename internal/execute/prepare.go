package execute

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
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

// prepared is the layer of a COPY, written while its content was
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
	if _, isContext := l.context(job.Step.Copy.From); isContext || !preparable(job) {
		return false
	}
	if !job.InRoot {
		return true
	}
	provider, err := l.Roots.Provider()
	return err == nil && provider != rootfs.Tree
}

// preparable says of a COPY whether all that it copies is one set of files that are
// there.
func preparable(job solve.Job) bool {
	c := job.Step.Copy
	return job.Kept != nil && len(c.Remotes) == 0 && !c.Unpack && len(c.Heredocs) == 0
}

// readContext sees to the files of a context that nobody has read, all of them small:
// a layer that cannot be there yet is written of them, which tells their digests; for
// one that may be there they are read side by side.
func (l *Local) readContext(ctx context.Context, job solve.Job, in *Context) error {
	if in == nil || in.Late == nil {
		return nil
	}
	if !in.Late.Unread() {
		return nil
	}
	if preparable(job) && !l.wasCopied(job) {
		moved := in.Late.Moved()
		_, err := l.attempt(ctx, job, l.prepareContext)
		if err == nil && in.Late.Moved() != moved {
			// Another step has found a file changed, which may have been written as it was.
			err = errors.Join(errMoved, job.Kept.Made.Close())
			job.Kept.Made = nil
		}
		if err == nil || errors.Is(err, errSmall) {
			return nil // what is so small is read file by file
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return in.Late.ReadRest(ctx)
}

// copiedKind is the kind of the cache files that say of steps that they ran in this store,
// with whatever content: of one without, no layer is there.
const copiedKind = "copied"

// wasCopied says so of job. A layer that came from elsewhere is not known here, which costs
// no more than what is prepared in vain.
func (l *Local) wasCopied(job solve.Job) bool {
	_, err := os.Stat(l.Store.CacheFile(copiedKind, copiedName(job)))
	return err == nil
}

// noteCopied has wasCopied say yes.
func (l *Local) noteCopied(job solve.Job) {
	if in, ok := l.context(job.Step.Copy.From); ok && in != nil && in.Late != nil {
		_ = l.Store.PutCacheFile(copiedKind, copiedName(job), nil) // which only saves work
	}
}

// copiedName names a step by all but the content that it copies.
func copiedName(job solve.Job) string {
	k := digest.NewKey("copy of whatever content")
	job.Step.KeyFields(k)
	if !job.Step.Copy.Link {
		k.Digest("below", job.Below.ID())
	}
	return k.Sum().Hex()
}

var errMoved = errors.New("a file changed meanwhile")

var errSmall = errors.New("not worth it")

// attempt prepares the layer of job's COPY, keeps it for the step, and returns the digest
// of what is copied. Whatever goes wrong is told when the content is found out alone, or
// when the step runs.
func (l *Local) attempt(ctx context.Context, job solve.Job, prepare func(context.Context, solve.Job, *prepared) (digest.Digest, error)) (d digest.Digest, err error) {
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
	if d, err = prepare(ctx, job, p); err == nil {
		job.Kept.Made = p
	}
	return d, err
}

// prepareContext writes the layer of a COPY out of a folder, which digests the files that
// it reads.
func (l *Local) prepareContext(ctx context.Context, job solve.Job, p *prepared) (d digest.Digest, err error) {
	if err := p.plan(ctx); err != nil {
		return d, err
	}
	return d, l.writePrepared(ctx, job, p)
}

// plan lists what is written.
func (p *prepared) plan(ctx context.Context) (err error) {
	span := trace.Begin(ctx, "plan the copy")
	p.items, p.warnings, err = copying.Plan(p.parts.requests)
	span.End()
	if err == nil && !worth(p.items) {
		err = errSmall
	}
	return err
}

// prepare writes the layer of a COPY out of a stage, and returns the digest of what it
// reads.
func (l *Local) prepare(ctx context.Context, job solve.Job, p *prepared) (d digest.Digest, err error) {
	r := &p.parts.requests[0]
	p.view = bare(r.From)
	s := newSums(until{ctx, p.view})
	r.From = until{ctx, summed{p.view, s}}
	if err := p.plan(ctx); err != nil {
		return d, err
	}
	var told error
	var telling sync.WaitGroup
	telling.Go(func() {
		if d, _, told = copying.Content(*r, s); told != nil {
			p.stop(told)
		}
	})
	err = l.writePrepared(ctx, job, p)
	if err != nil {
		p.stop(err)
	}
	s.end()
	telling.Wait()
	return d, errors.Join(err, told)
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
