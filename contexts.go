package whittle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/source"
)

// buildContext is a build context that is open.
type buildContext struct {
	*execute.Context
	folder *source.Context // is scanned, and closed at the end; nil for what cannot change
	bytes  int64           // of what was brought in
	// made tells the time of what came from elsewhere; nil when it has none.
	made func() (*time.Time, error)
	from *attest.Material // where it was fetched; nil for what was here
}

// contextSize is what the classic builder prints as the size of the build
// context. A Dockerfile from standard input it sends as an archive of that.
func (b *build) contextSize() int64 {
	const block = 512
	switch {
	case b.main == nil:
		return 3*block + (int64(len(b.text))+block-1)/block*block
	case b.main.folder != nil:
		return b.main.folder.Size()
	}
	return b.main.bytes
}

func (c *buildContext) files() *execute.Context {
	if c == nil {
		return nil
	}
	return c.Context
}

func (c *buildContext) close() {
	if c != nil && c.folder != nil {
		c.folder.Close() // saves the stat cache; without it the next build is slower, no more
	}
}

// closeContexts ends the use of all contexts.
func (b *build) closeContexts() {
	b.main.close()
	for _, c := range b.named {
		c.close()
	}
}

// readMain finds out what the main context is, and reads the Dockerfile if that
// is neither elsewhere nor in a context that is.
func (b *build) readMain(ctx context.Context) error {
	switch b.kind = kindOfContext(b.req.Context); {
	case b.kind == stdinContext:
		return b.readStdin(ctx)
	case b.kind == imageContext, b.kind == layoutContext, b.kind == folderContext && strings.Contains(b.req.Context, "://"):
		return &hinted{fmt.Errorf("%s: no kind of build context", address.Redact(b.req.Context)),
			"name a folder, - for standard input, a git repository or an http(s) URL; an image can be a named context, --build-context NAME=docker-image://…"}
	case b.kind == gitContext:
		if _, err := parseRepo(b.req.Context); err != nil {
			return err
		}
		if b.req.File != "-" {
			return nil // enter brings it in
		}
	case b.kind != folderContext && b.req.File != "-", address.KindOf(b.req.File) == address.URL:
		return nil // enter brings it in
	}
	return b.readFile(ctx)
}

// sniffed is how much of standard input tells an archive from a Dockerfile.
const sniffed = 4096

// readStdin reads standard input as the build context: an archive is left to
// enter, all else is the Dockerfile of an empty context.
func (b *build) readStdin(ctx context.Context) error {
	if b.req.File == "-" {
		return &hinted{errors.New("-f -: standard input is the build context already, and cannot be the Dockerfile too"),
			"name a file of the archive with -f, or give a folder as the context"}
	}
	if b.req.In == nil {
		return errors.New("build context -: there is no standard input")
	}
	in := bufio.NewReaderSize(untilDone(ctx, b.req.In), sniffed)
	head, err := in.Peek(sniffed)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("standard input: %w", err)
	}
	if layer.SniffPacked(head) {
		b.stdin = in
		return nil
	}
	if len(head) == 0 {
		return &hinted{errors.New("standard input: is empty, and the build context is to come from it"),
			"pipe a Dockerfile or the archive of a context in, or name a folder"}
	}
	if b.req.File != "" {
		return &hinted{fmt.Errorf("-f %s: standard input is a Dockerfile too, and no archive", b.req.File),
			"leave -f out, or give a folder or an archive as the context"}
	}
	b.path = "-"
	b.text, err = source.ReadDockerfile(in, "stdin")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// untilDone is r until ctx ends: a read that goes on then is left behind.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.CopyBuffer(pw, struct{ io.Reader }{r}, make([]byte, 128<<10))
		pw.CloseWithError(err)
	}()
	return pr
}

// enter opens a main context that is not a folder, and takes the Dockerfile
// from it if that is not known yet.
func (b *build) enter(ctx context.Context) (err error) {
	if b.entered {
		return nil
	}
	if address.KindOf(b.req.File) == address.URL {
		f, err := b.download(ctx, "[internal] load remote Dockerfile", b.req.File)
		if err != nil {
			return err
		}
		b.path, b.remote = address.Public(b.req.File), true
		if b.text, err = dockerfileIn(f, b.path); err != nil {
			return err
		}
	}
	switch b.kind {
	case folderContext:
		return nil
	case stdinContext:
		if b.stdin == nil {
			return nil
		}
		id, size, ierr := b.importArchive(ctx, "standard input", b.stdin)
		if ierr != nil {
			return ierr
		}
		b.main, err = b.layerContext(ctx, id, size)
	case urlContext:
		err = b.enterURL(ctx)
	case gitContext:
		b.main, err = b.checkOut(ctx, "[internal] load git source", b.req.Context, b.gitOptions())
	}
	if err != nil || b.path != "" {
		return err
	}
	return b.findFile()
}

// findFile reads the Dockerfile of a main context that is not a folder.
func (b *build) findFile() (err error) {
	if filepath.IsAbs(b.req.File) {
		b.path, b.text, err = source.FindDockerfile(filepath.Dir(b.req.File), b.req.File)
		return err
	}
	b.path, b.text, err = source.FindIn(b.main.FS, b.mainName(), b.req.File)
	return err
}

// mainName is how messages call the main context.
func (b *build) mainName() string {
	if b.kind == stdinContext {
		return "the archive from standard input"
	}
	return address.Redact(b.req.Context)
}

// importArchive takes an archive in. It becomes a layer of a kind of its own, so
// nothing of it is unpacked, and who reads it needs no more than for an image.
func (b *build) importArchive(ctx context.Context, what string, r io.Reader) (id digest.Digest, size int64, err error) {
	tmp, err := b.store.Temp("context")
	if err != nil {
		return id, 0, err
	}
	defer join(&err, tmp.Remove)
	meta, _, err := layer.ImportArchive(ctx, tmp.Path, r)
	if err != nil {
		return id, 0, b.badArchive(ctx, what, err)
	}
	// In an archive of files nothing is a deletion: it is not the layer that
	// an image would have by the same diffID.
	k := digest.NewKey("archive of a context")
	k.Digest("tar", meta.DiffID)
	return k.Sum(), meta.TarSize, b.store.CommitLayer(tmp, k.Sum())
}

func (b *build) badArchive(ctx context.Context, what string, err error) error {
	var broken *layer.BrokenError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, layer.ErrBound):
		return &hinted{fmt.Errorf("%s: %w", what, err), "leave out of the archive what the build does not need"}
	case errors.As(err, &broken):
		return &hinted{fmt.Errorf("%s: %w", what, err), "the archive is cut off or broken: make it again, with tar"}
	}
	return fmt.Errorf("%s: %w", what, b.store.Explain(err))
}

// layerContext is the context that a layer of files is. Owners are those that
// it says.
func (b *build) layerContext(ctx context.Context, id digest.Digest, size int64) (*buildContext, error) {
	chain := rootfs.Chain{id}
	fsys, err := b.rootFS().View(ctx, chain)
	if err != nil {
		return nil, err
	}
	return &buildContext{
		Context: &execute.Context{FS: fsys, Owned: true, ID: chain.ID(), Chain: chain, Dir: "."},
		bytes:   size,
		made:    func() (*time.Time, error) { return newest(fsys) },
	}, nil
}

// newest is the time of the youngest regular file, nil without one.
func newest(fsys entry.FS) (*time.Time, error) {
	var last *time.Time
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		t := time.Unix(e.Mtime.Sec, 0).UTC()
		if e.Kind == entry.File && (last == nil || t.After(*last)) {
			last = &t
		}
		return nil
	})
	return last, err
}

// openContexts opens the folder that is the main context, and the named
// contexts that steps of p read, and scans the parts of them that steps name.
func (b *build) openContexts(ctx context.Context, p *plan.Plan) error {
	if b.kind == folderContext && b.main == nil {
		var err error
		dockerfile := b.path
		if b.remote {
			dockerfile = "-"
		}
		if b.main, err = b.openFolder(b.req.Context, dockerfile); err != nil {
			return err
		}
	}
	paths := contextPaths(p)
	if b.req.WholeContext || b.scansContext(p) {
		paths[""] = []source.Part{{Path: "."}}
	}
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		c := b.main
		if name != "" {
			var err error
			if c, err = b.namedContext(ctx, name); err != nil {
				return err
			}
		}
		if c == nil || c.folder == nil {
			continue
		}
		if err := c.folder.Scan(ctx, paths[name]); err != nil {
			return err
		}
	}
	return nil
}

// contextPaths collects what steps read of each context, by its name; that of
// the main one is "".
func contextPaths(p *plan.Plan) map[string][]source.Part {
	paths := map[string][]source.Part{}
	for _, s := range p.Steps {
		for _, c := range copies(s) {
			switch {
			case c.From == nil:
				paths[""] = append(paths[""], parts(c)...)
			case c.From.Context != "":
				paths[c.From.Context] = append(paths[c.From.Context], parts(c)...)
			}
		}
	}
	if len(paths[""]) == 0 {
		delete(paths, "")
	}
	return paths
}

// parts is what c reads of a context.
func parts(c *plan.Copy) []source.Part {
	out := make([]source.Part, len(c.Sources))
	for i, s := range c.Sources {
		out[i] = source.Part{Path: s, Exclude: c.Excludes}
		if c.Parents {
			top, include := copying.SplitParents(s)
			out[i].Path, out[i].Include = top, []string{include}
		}
	}
	return out
}

// namedContext opens the context of files that the plan calls name.
func (b *build) namedContext(ctx context.Context, name string) (*buildContext, error) {
	if c := b.named[name]; c != nil {
		return c, nil
	}
	spec := b.contexts[name]
	var c *buildContext
	var err error
	switch spec.kind {
	case folderContext:
		c, err = b.openFolder(spec.value, "")
	case gitContext:
		c, err = b.checkOut(ctx, "[context "+spec.name+"] load git source", spec.value, fetch.GitOptions{})
	case urlContext:
		var f *fetch.File
		if f, err = b.download(ctx, fmt.Sprintf("[context %s] %s", spec.name, address.Redact(spec.value)), spec.value); err == nil {
			c = fileContext(f)
			c.from = fetched(spec.value, f)
		}
	}
	if err != nil {
		return nil, err
	}
	if b.named == nil {
		b.named = map[string]*buildContext{}
	}
	b.named[name] = c
	return c, nil
}

// namedFiles are the named contexts as steps read them.
func (b *build) namedFiles() map[string]*execute.Context {
	out := map[string]*execute.Context{}
	for name, c := range b.named {
		out[name] = c.Context
	}
	return out
}

// openFolder opens a folder as a context; dockerfile is the file that it is
// built from, "" for a named context.
func (b *build) openFolder(dir, dockerfile string) (*buildContext, error) {
	patterns, ignoreFile, err := source.LoadIgnore(dir, dockerfile)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c, err := source.OpenFolder(dir, source.Options{
		Ignore: append(patterns, b.storeInside(abs)...), IgnoreFile: ignoreFile,
		CacheFile: b.store.CacheFile("context", abs), Now: b.opt.Now,
		Later:    len(b.req.CacheFrom) == 0, // which may know the layer of what is there
		PutCache: func(write func(io.Writer) error) error { return b.store.WriteCacheFile("context", abs, write) },
	})
	if err != nil {
		return nil, err
	}
	return &buildContext{Context: execute.Folder(c), folder: c}, nil
}

// fromLayout brings in an image of an OCI layout in a folder. It gets no name,
// and its layers are held for this build: the next finds them again, or takes
// them again.
func (w *Whittle) fromLayout(ctx context.Context, path string, p plan.Platform) (*image.Image, error) {
	lay, err := image.ParseLayout(path)
	if err != nil {
		return nil, err
	}
	m, err := lay.Load(ctx, w.imageSink("", p))
	if err != nil {
		return nil, w.store.Explain(err)
	}
	return m, w.complete(m)
}

// anew says whether a step is to run whatever is there already.
func (b *build) anew(s *plan.Step) bool {
	if b.req.NoCache || s.Workdir != nil {
		return b.req.NoCache
	}
	return slices.ContainsFunc(b.req.NoCacheStages, func(name string) bool { return strings.EqualFold(name, s.Stage.Name) })
}
