package execute

import (
	"context"
	"errors"
	"sync"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
)

// fetched is a remote source that is there.
type fetched struct {
	at     int // so many local sources come before it
	files  entry.FS
	source string         // in files
	known  entry.Digester // of files; nil for those of a checkout
	unpack bool
	chain  rootfs.Chain // of a checkout
	// identity stands for the content of a checkout that is not the same each
	// time it is made.
	identity digest.Digest
}

// atOnce is how many sources are fetched side by side.
const atOnce = 8

// Prefetch begins to fetch everything that p's steps will ask for. What fails
// is told to the step that asks. Close ends it.
func (l *Local) Prefetch(ctx context.Context, p *plan.Plan) (stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, s := range p.Steps {
		if s.Copy == nil {
			continue
		}
		for i := range s.Copy.Remotes {
			wg.Go(func() {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
				defer func() { <-slots }()
				_, _ = l.bring(ctx, s.Line.Number, s.Copy, &s.Copy.Remotes[i])
			})
		}
	}
	return func() {
		cancel(context.Canceled)
		wg.Wait()
	}
}

// bringAll returns the remote sources of a step in order.
func (l *Local) bringAll(ctx context.Context, job solve.Job) ([]*fetched, error) {
	c := job.Step.Copy
	out, errs := make([]*fetched, len(c.Remotes)), make([]error, len(c.Remotes))
	var wg sync.WaitGroup
	for i := range c.Remotes {
		wg.Go(func() { out[i], errs[i] = l.bring(ctx, job.Vertex, c, &c.Remotes[i]) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *Local) bring(ctx context.Context, vertex int, c *plan.Copy, r *plan.Remote) (*fetched, error) {
	if l.Fetch == nil {
		return nil, errors.New(r.String() + ": this build does not fetch")
	}
	if r.Repo != nil {
		return l.fetchRepo(ctx, vertex, r)
	}
	f, err := l.Fetch.HTTP(ctx, fetch.Download{URL: r.URL, Checksum: r.Checksum, Progress: l.transfer(vertex, r.String())})
	if err != nil {
		return nil, err
	}
	name := address.FileName(r.URL)
	files := f.FS(name)
	known, _ := files.(entry.Digester)
	return &fetched{at: r.At, files: files, source: name, known: known, unpack: c.UnpackRemote}, nil
}

func (l *Local) fetchRepo(ctx context.Context, vertex int, r *plan.Remote) (*fetched, error) {
	tree, err := l.Fetch.Git(ctx, *r.Repo, fetch.GitOptions{KeepGitDir: r.KeepGitDir, CommitTime: l.Epoch != nil, Progress: l.transfer(vertex, r.String())})
	if err != nil {
		return nil, err
	}
	chain := rootfs.Chain{tree.Layer}
	files, err := l.Roots.View(ctx, chain)
	if err != nil {
		return nil, err
	}
	if err := tree.CheckSubdir(files, r.Repo); err != nil {
		return nil, err
	}
	return &fetched{at: r.At, files: files, source: tree.Subdir, chain: chain, identity: tree.Identity}, nil
}

// transfer tells the display of a download, as often as people can see.
func (l *Local) transfer(vertex int, name string) fetch.Progress {
	const grain = 1 << 20
	var told int64
	return func(done, total int64) {
		if done-told < grain && done != total && done > 0 {
			return
		}
		told = done
		l.Sink.Emit(progress.Event{Kind: progress.Status, Vertex: vertex, Time: l.Now(), Name: name, Current: done, Total: total})
	}
}

// request is f as a part of the COPY that base is.
func (f *fetched) request(ctx context.Context, base copying.Request) copying.Request {
	base.From, base.Sources, base.Literal, base.FromContext = until{ctx, f.files}, []string{f.source}, true, true
	base.HintDirs = nil
	return base
}

// remoteContent is the digest of all that job copies: local, of what is no
// remote source, and the content of those that are, whatever their addresses.
func (l *Local) remoteContent(ctx context.Context, job solve.Job, local digest.Digest) (digest.Digest, error) {
	list, err := l.bringAll(ctx, job)
	if err != nil {
		return digest.Digest{}, err
	}
	base, err := l.request(ctx, job.Step.Copy, job.From)
	if err != nil {
		return digest.Digest{}, err
	}
	k := digest.NewKey("content")
	k.Digest("local", local)
	for _, f := range list {
		d, err := l.contentOf(ctx, f, f.request(ctx, base))
		if err != nil {
			return digest.Digest{}, err
		}
		k.Digest("remote", d)
	}
	return k.Sum(), nil
}

// contentOf is the digest of one remote source. That of a checkout is kept: its
// layer never changes.
func (l *Local) contentOf(ctx context.Context, f *fetched, r copying.Request) (digest.Digest, error) {
	if f.known != nil {
		d, _, err := copying.Content(r, f.known)
		return d, err
	}
	k := digest.NewKey(copying.ContentFormat)
	k.Digest("identity", f.identity)
	k.Text("source", f.source)
	k.List("exclude", r.Excludes)
	k.Text("chown", r.Chown)
	k.Text("chmod", r.Chmod)
	if !f.identity.IsZero() {
		return k.Sum(), nil
	}
	k.Digest("checkout", f.chain.ID())
	name := k.Sum()
	if d, ok := l.remembered(ctx, name); ok {
		return d, nil
	}
	d, _, err := copying.Content(r, nil)
	if err != nil {
		return d, err
	}
	return d, l.remember(name, d)
}
