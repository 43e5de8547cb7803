package execute

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/trace"
)

// from returns the file system that a COPY or ADD reads.
func (l *Local) from(ctx context.Context, c *plan.Copy, chain rootfs.Chain) (entry.FS, error) {
	in, ok := l.context(c.From)
	switch {
	case !ok:
		return l.Roots.View(ctx, chain)
	case in == nil:
		return entry.NewMem(), nil
	}
	return in.FS, nil
}

// request is the COPY as the copying package takes it, without a destination
// tree.
func (l *Local) request(ctx context.Context, c *plan.Copy, chain rootfs.Chain) (copying.Request, error) {
	fsys, err := l.from(ctx, c, chain)
	if err != nil {
		return copying.Request{}, err
	}
	in, ok := l.context(c.From)
	r := copying.Request{
		From: until{ctx, fsys}, Sources: c.Sources, FromContext: ok && (in == nil || !in.Owned),
		Dest: c.Dest, Chown: c.Chown, Chmod: c.Chmod, Parents: c.Parents, Excludes: c.Excludes,
	}
	if c.Dir != "" {
		r.HintDirs = []string{c.Dir}
	}
	return r, nil
}

// Content tells the digest of what job's COPY would copy, and fetches what has
// to be fetched for that.
func (l *Local) Content(ctx context.Context, job solve.Job) (digest.Digest, error) {
	d, err := l.localContent(ctx, job)
	if err != nil || len(job.Step.Copy.Remotes) == 0 {
		return d, err
	}
	d, err = l.remoteContent(ctx, job, d)
	return d, l.refused(ctx, job, err)
}

// localContent is about what is no remote source. What a chain of layers holds
// never changes, so the answer for a stage or an image is kept.
func (l *Local) localContent(ctx context.Context, job solve.Job) (digest.Digest, error) {
	c := job.Step.Copy
	if len(c.Sources) == 0 {
		return digest.Digest{}, nil // here-documents are in the step itself
	}
	in, ok := l.context(c.From)
	if ok && (in == nil || in.ID.IsZero()) {
		if err := l.readContext(ctx, job, in); err != nil {
			return digest.Digest{}, l.refused(ctx, job, err)
		}
		return l.contextContent(ctx, job, in)
	}
	if ok && !in.Identity.IsZero() {
		k := digest.NewKey("identity of a context")
		k.Digest("identity", in.Identity)
		k.List("sources", c.Sources)
		return k.Sum(), nil
	}
	name := l.contentName(job)
	if d, ok := l.remembered(ctx, name); ok {
		return d, nil
	}
	if l.mayPrepare(job) {
		d, err := l.attempt(ctx, job, l.prepare)
		if err == nil {
			return d, l.remember(name, d)
		}
		if ctx.Err() != nil {
			return d, context.Cause(ctx)
		}
	}
	r, err := l.request(ctx, c, job.From)
	if err != nil {
		return digest.Digest{}, err
	}
	r.From = hashed{until{ctx, r.From}}
	d, _, err := copying.Content(r, nil)
	if err != nil {
		return d, l.refused(ctx, job, err)
	}
	if ok {
		d = contextID(c, in, d)
	}
	return d, l.remember(name, d)
}

// contextContent is the content of a copy out of a context that may change.
func (l *Local) contextContent(ctx context.Context, job solve.Job, in *Context) (digest.Digest, error) {
	c := job.Step.Copy
	r, err := l.request(ctx, c, nil)
	if err != nil {
		return digest.Digest{}, err
	}
	var known entry.Digester
	if in != nil {
		known = in.Digests
	}
	d, _, err := copying.Content(r, known)
	return contextID(c, in, d), l.refused(ctx, job, err)
}

// contentKind is the kind of the cache files that keep contents.
const contentKind = "content"

// remembered returns the content that an earlier build found under this name,
// here or where Known knows it from.
func (l *Local) remembered(ctx context.Context, name digest.Digest) (d digest.Digest, ok bool) {
	b, err := os.ReadFile(l.Store.CacheFile(contentKind, l.Scope.Key(name).Hex()))
	ok = err == nil && json.Unmarshal(b, &d) == nil && !d.IsZero()
	if l.Known == nil {
		return d, ok
	}
	if !ok {
		if d, ok = l.Known.Content(ctx, name.Hex()); ok {
			_ = l.remember(name, d) // which only saves asking again
		}
	}
	if ok {
		l.Known.Copied(name.Hex(), d)
	}
	return d, ok
}

// remember keeps the content d for remembered.
func (l *Local) remember(name, d digest.Digest) error {
	if l.Known != nil {
		l.Known.Copied(name.Hex(), d)
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return l.Store.PutCacheFile(contentKind, l.Scope.Key(name).Hex(), text)
}

// contentName names the content of a copy: it covers all that copying.Content
// looks at. Sources, owner and mode decide what counts; the chain decides the
// rest.
func (l *Local) contentName(job solve.Job) digest.Digest {
	c := job.Step.Copy
	k := digest.NewKey(copying.ContentFormat)
	if in, ok := l.context(c.From); ok {
		k.Digest("context", in.ID)
		k.Bool("main", c.From == nil)
	} else {
		k.Digest("chain", job.From.ID())
	}
	k.List("source", c.Sources)
	k.Bool("parents", c.Parents)
	k.List("exclude", c.Excludes)
	k.Text("chown", c.Chown)
	k.Text("chmod", c.Chmod)
	return k.Sum()
}

// copy writes what a COPY or ADD changes.
func (l *Local) copy(ctx context.Context, job solve.Job) (_ solve.Made, err error) {
	l.noteCopied(job)
	if job.Kept != nil {
		if p, ok := job.Kept.Made.(*prepared); ok {
			return l.copyPrepared(ctx, job, p)
		}
	}
	p := parts{local: l, job: job}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.gather(ctx); err != nil {
		return solve.Made{}, l.refused(ctx, job, err)
	}
	span := trace.Begin(ctx, "plan the copy")
	list, warnings, err := copying.Plan(p.requests)
	if err != nil {
		span.End()
		return solve.Made{}, l.refused(ctx, job, err)
	}
	span.Set("entries", list.Len)
	span.End()
	l.warn(job, warnings)
	made, err := l.writeAgain(ctx, job, list, func() (solve.Made, error) { return l.write(ctx, job, list, p.requests) })
	for _, r := range p.requests {
		forget(bare(r.From))
	}
	return made, l.notOwned(job, err)
}

// writeAgain calls write, unless there is a layer with just these items.
func (l *Local) writeAgain(ctx context.Context, job solve.Job, items *copying.Items, write func() (solve.Made, error)) (solve.Made, error) {
	if !worth(items) {
		return write()
	}
	key, err := l.writtenKey(job, items)
	if err != nil {
		return solve.Made{}, l.refused(ctx, job, err)
	}
	if !job.Fresh {
		if made, ok := l.written(key.Sum()); ok {
			return made, nil
		}
	}
	made, err := write()
	if err != nil {
		return made, err
	}
	return made, l.noteWritten(job, key, made)
}

// workdir writes the directory of a WORKDIR; its layer is empty when the
// directory is there already.
func (l *Local) workdir(ctx context.Context, job solve.Job) (solve.Made, error) {
	w := job.Step.Workdir
	to, err := l.Roots.View(ctx, job.Below)
	if err != nil {
		return solve.Made{}, err
	}
	uid, gid, err := copying.User(to, w.User)
	if err != nil {
		return solve.Made{}, l.refused(ctx, job, err)
	}
	list, err := copying.Workdir(to, w.Path, uid, gid, l.now())
	if err != nil {
		return solve.Made{}, l.refused(ctx, job, err)
	}
	return l.write(ctx, job, list, nil)
}

func (l *Local) warn(job solve.Job, warnings []copying.Warning) {
	line := job.Step.Line
	for _, w := range warnings {
		l.Sink.Emit(progress.Event{Kind: progress.Warned, Vertex: job.Vertex, Time: l.Now(), Warning: &progress.Warning{
			File: l.File.Name, Line: line.Pos.Line, Text: l.File.Line(line.Pos.Line), Msg: w.Message, Hint: w.Hint}})
	}
}

// now is the time of folders that steps make.
func (l *Local) now() entry.Time {
	t := l.Now()
	if l.Epoch != nil {
		t = *l.Epoch
	}
	return entry.Time{Sec: t.Unix()}
}
