package execute

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/solve"
)

// parts are the sources of one COPY or ADD by kind, in order: plain ones, what
// is fetched, archives that an ADD unpacks, here-documents.
type parts struct {
	local    *Local
	job      solve.Job
	requests []copying.Request
	closers  []func() error // of what must stay open until the layer is written
}

func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}

// gather makes the requests.
func (p *parts) gather(ctx context.Context) error {
	c := p.job.Step.Copy
	r, err := p.local.request(ctx, c, p.job.From)
	if err != nil {
		return err
	}
	r.Now = p.local.now()
	if r.To, err = p.below(ctx); err != nil {
		return err
	}
	if len(c.Remotes) > 0 || c.Unpack {
		err = p.gatherAdd(ctx, r)
	} else if len(r.Sources) > 0 {
		p.requests = append(p.requests, r)
	}
	if err != nil {
		return err
	}
	if len(c.Heredocs) > 0 {
		p.requests = append(p.requests, heredocs(r, c))
	}
	return nil
}

// below is what the layer will lie on, as far as the step may know it.
func (p *parts) below(ctx context.Context) (entry.FS, error) {
	if p.job.Step.Copy.Link {
		return entry.NewMem(), nil
	}
	return p.local.Roots.View(ctx, p.job.Below)
}

// gatherAdd takes the sources of an ADD apart, in order: each that is fetched
// is a request of its own, and so is an archive.
func (p *parts) gatherAdd(ctx context.Context, r copying.Request) error {
	remotes, err := p.local.bringAll(ctx, p.job)
	if err != nil {
		return err
	}
	for i := range len(r.Sources) + 1 {
		for len(remotes) > 0 && remotes[0].at == i {
			if err := p.gatherOne(ctx, remotes[0].request(ctx, r), remotes[0].unpack); err != nil {
				return err
			}
			remotes = remotes[1:]
		}
		if i == len(r.Sources) {
			break
		}
		one := r
		one.Sources = []string{r.Sources[i]}
		if err := p.gatherOne(ctx, one, p.job.Step.Copy.Unpack); err != nil {
			return err
		}
	}
	return nil
}

// gatherOne takes one source, of which an archive, told by its content, is a
// request of its own where archives are unpacked.
func (p *parts) gatherOne(ctx context.Context, one copying.Request, unpack bool) error {
	if !unpack {
		p.requests = append(p.requests, one)
		return nil
	}
	names, err := copying.Match(one)
	if err != nil {
		return err
	}
	var archives []string
	for _, n := range names {
		ok, err := isArchive(one.From, n)
		if err != nil {
			return err
		}
		if ok {
			archives = append(archives, n)
		}
	}
	if len(archives) == 0 {
		p.requests = append(p.requests, one)
		return nil
	}
	return p.mixed(ctx, one, names, archives)
}

// mixed takes the matches of one pattern, some of which are archives.
func (p *parts) mixed(ctx context.Context, r copying.Request, names, archives []string) error {
	for _, n := range names {
		if len(archives) == 0 || n != archives[0] {
			one := r
			one.Sources, one.Literal = []string{n}, true
			p.requests = append(p.requests, one)
			continue
		}
		archives = archives[1:]
		if err := p.unpacked(ctx, r, n); err != nil {
			return &copying.InArchive{Archive: n, Err: err}
		}
	}
	return nil
}

// unpacked makes a request of the archive name. It is read into a layer of its
// own first, so that its entries have a file system's meaning before any of
// them meets the root: a link in it can lead nowhere else.
func (p *parts) unpacked(ctx context.Context, r copying.Request, name string) error {
	tmp, err := p.local.Store.Temp("add")
	if err != nil {
		return err
	}
	p.closers = append(p.closers, tmp.Remove)
	path, err := entry.Resolve(r.From, name, true)
	if err != nil {
		return err
	}
	e, err := r.From.Lstat(path)
	if err != nil {
		return err
	}
	f, err := r.From.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// A file may have grown since the scan: what it had then is copied.
	meta, implied, err := layer.ImportArchive(ctx, tmp.Path, io.LimitReader(f, e.Size))
	if err != nil {
		return err
	}
	if err := verify(r.From, path, f); err != nil {
		return err
	}
	index := filepath.Join(tmp.Path, layer.IndexName)
	if meta.Implied {
		// Folders that the archive has only as parents of something keep what
		// they have in the image.
		index += "-below"
		dest, err := entry.Resolve(r.To, r.Dest, true)
		if err != nil {
			return err
		}
		if err := layer.Reindex(tmp.Path, below{r.To, dest}, index); err != nil {
			return err
		}
		r.Implied = func(name string) bool { return implied[name] }
	}
	v, err := layer.OpenTar(tmp.Path, index)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, v.Close)
	r.From, r.Sources, r.Archive, r.Name = v, nil, true, name
	p.requests = append(p.requests, r)
	return nil
}

func isArchive(fsys entry.FS, name string) (bool, error) {
	path, err := entry.Resolve(fsys, name, true)
	if err != nil {
		return false, err
	}
	e, err := fsys.Lstat(path)
	if err != nil || e.Kind != entry.File {
		return false, err
	}
	f, err := fsys.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return layer.SniffArchive(io.LimitReader(f, e.Size)), nil
}

// heredocs are files of mode 0644 named after their delimiters.
func heredocs(r copying.Request, c *plan.Copy) copying.Request {
	mem := entry.NewMem()
	r.From, r.Sources, r.Literal, r.FromContext, r.Archive, r.Parents = mem, nil, true, true, false, false
	for _, h := range c.Heredocs {
		mem.Add(entry.Entry{Path: entry.Clean(h.Name), Kind: entry.File, Mode: 0o644, Mtime: r.Now}, h.Content)
		r.Sources = append(r.Sources, h.Name)
	}
	return r
}

// below is a folder of a file system as a file system of its own: links in it
// lead nowhere else, as for the archive that is unpacked there.
type below struct {
	entry.FS
	dir string // physical
}

// Lstat implements entry.FS for layer.Reindex, which asks for folders: a link
// counts as what it leads to.
func (b below) Lstat(name string) (entry.Entry, error) {
	p, err := entry.Resolve(plainBelow{b}, name, true)
	if err != nil {
		return entry.Entry{}, err
	}
	e, err := plainBelow{b}.Lstat(p)
	e.Path = name
	return e, err
}

// plainBelow follows no links.
type plainBelow struct{ below }

func (b plainBelow) Lstat(name string) (entry.Entry, error) {
	return b.FS.Lstat(entry.Join(b.dir, name))
}
