package whittle

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/source"
	"github.com/whittle-build/whittle/internal/store"
)

// remoteFile is the name of a file that is a context of its own, as in the
// reference builder.
const remoteFile = "context"

// fetcher brings in what lies elsewhere; all of a build share it.
func (b *build) fetcher() *fetch.Client {
	if b.fetch == nil {
		b.fetch = &fetch.Client{Store: b.store, Secret: b.req.Secret, SSH: b.agent, Environ: os.Environ(), Now: b.opt.Now}
	}
	return b.fetch
}

// agent is what the caller lets the build sign with under a name.
func (b *build) agent(id string) (serve func(net.Listener), ok bool) {
	s, ok := b.agents[id]
	if !ok {
		return nil, false
	}
	return s.Serve, true
}

// loading shows a download as a step that no line of a Dockerfile says, which is
// there from its first byte on.
func (b *build) loading(label string) (fetch.Progress, func(error)) {
	t := &transfer{w: b.Whittle, sink: b.sink, label: label, id: -int(b.transfers.Add(1))}
	return func(done, total int64) {
		t.begin.Do(func() {
			t.began = true
			t.emit(progress.Event{Kind: progress.Begin, Vertices: []progress.Vertex{{ID: t.id, Label: t.label}}})
			t.emit(progress.Event{Kind: progress.Started})
		})
		t.emit(progress.Event{Kind: progress.Status, Name: "transferring", Current: done, Total: total})
	}, t.done
}

// download brings in the file at url.
func (b *build) download(ctx context.Context, label, url string) (*fetch.File, error) {
	tell, done := b.loading(label)
	f, err := b.fetcher().HTTP(ctx, fetch.Download{URL: url, Progress: tell})
	done(err)
	return f, err
}

// enterURL opens the main context that is a file elsewhere: an archive is the
// context, all else is the Dockerfile of a context with nothing but itself.
func (b *build) enterURL(ctx context.Context) error {
	f, err := b.download(ctx, "[internal] load remote build context", b.req.Context)
	if err != nil {
		return err
	}
	packed, err := isPacked(f)
	if err != nil {
		return err
	}
	if packed {
		if b.main, err = b.archiveContext(ctx, address.Public(b.req.Context), f); err == nil {
			b.main.from = fetched(b.req.Context, f)
		}
		return err
	}
	b.main = fileContext(f)
	b.main.from = fetched(b.req.Context, f)
	if b.path != "" {
		return nil
	}
	if b.req.File != "" {
		return &hinted{fmt.Errorf("-f %s: %s is a Dockerfile too, and no archive", b.req.File, address.Redact(b.req.Context)),
			"leave -f out, or give an archive or a folder as the context"}
	}
	b.path = address.Public(b.req.Context)
	b.text, err = dockerfileIn(f, b.path)
	return err
}

// fetched is a file from elsewhere as a provenance has it.
func fetched(url string, f *fetch.File) *attest.Material {
	return &attest.Material{URI: address.Public(url), Digest: attest.SHA256(f.Digest)}
}

func isPacked(f *fetch.File) (bool, error) {
	r, err := f.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	head, err := bufio.NewReaderSize(r, sniffed).Peek(int(min(sniffed, f.Size)))
	return err == nil && layer.SniffPacked(head), err
}

func dockerfileIn(f *fetch.File, name string) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return source.ReadDockerfile(r, name)
}

// fileContext is a context of one file.
func fileContext(f *fetch.File) *buildContext {
	fsys := f.FS(remoteFile)
	known, _ := fsys.(entry.Digester)
	return &buildContext{
		Context: &execute.Context{FS: fsys, Digests: known, Owned: true},
		bytes:   f.Size,
		made: func() (*time.Time, error) {
			if f.Modified.IsZero() {
				return nil, nil
			}
			return &f.Modified, nil
		},
	}
}

// archiveContext is the context that an archive from elsewhere is. One that was
// taken in before is not taken in again.
func (b *build) archiveContext(ctx context.Context, what string, f *fetch.File) (*buildContext, error) {
	k := digest.NewKey("archive")
	k.Digest("file", f.Digest)
	c, err := b.archiveLayer(ctx, what, f, k)
	if err == nil && !f.Modified.IsZero() {
		c.made = func() (*time.Time, error) { return &f.Modified, nil }
	}
	return c, err
}

func (b *build) archiveLayer(ctx context.Context, what string, f *fetch.File, k *digest.Key) (*buildContext, error) {
	if r, err := b.store.Record(k.Sum()); err == nil {
		return b.layerContext(ctx, r.Layer, r.Size)
	}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	id, size, err := b.importArchive(ctx, what, r)
	if err != nil {
		return nil, err
	}
	err = b.store.PutRecord(k.Sum(), &store.Record{
		Layer: id, Kind: "archive", Size: size, Created: b.opt.Now().UTC().Truncate(time.Second), Text: what, Fields: k.Fields(),
	})
	if err != nil {
		return nil, err
	}
	return b.layerContext(ctx, id, size)
}

// parseRepo reads the address of a repository.
func parseRepo(text string) (*address.Repo, error) {
	url := text
	if strings.HasPrefix(text, "github.com/") {
		url = "https://" + text
	}
	repo, err := address.ParseGit(url)
	if err != nil {
		return nil, &hinted{fmt.Errorf("%s: %w", address.Redact(text), err), "write https://host/repository.git#branch:folder, or git@host:repository.git"}
	}
	return repo, nil
}

// gitOptions are what build arguments say of the main context.
func (b *build) gitOptions() fetch.GitOptions {
	keep, err := strconv.ParseBool(b.req.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"])
	return fetch.GitOptions{KeepGitDir: err == nil && keep, CommitTime: b.req.Args[epochArg] != ""}
}

// checkOut opens a git repository as a context.
func (b *build) checkOut(ctx context.Context, label, text string, o fetch.GitOptions) (*buildContext, error) {
	repo, err := parseRepo(text)
	if err != nil {
		return nil, err
	}
	if repo.KeepGitDir != nil && *repo.KeepGitDir {
		o.KeepGitDir = true
	}
	tell, done := b.loading(label + " " + repo.String())
	o.Progress = tell
	tree, err := b.fetcher().Git(ctx, *repo, o)
	done(err)
	if err != nil {
		return nil, err
	}
	c, err := b.layerContext(ctx, tree.Layer, 0)
	if err != nil {
		return nil, err
	}
	if err := tree.CheckSubdir(c.FS, repo); err != nil {
		return nil, err
	}
	if tree.Subdir != "." {
		k := digest.NewKey("folder of a context")
		k.Digest("context", c.ID)
		k.Text("folder", tree.Subdir)
		c.FS, c.ID, c.Dir = entry.Sub(c.FS, tree.Subdir), k.Sum(), tree.Subdir
	}
	c.Identity = tree.Identity
	c.made = func() (*time.Time, error) { return &tree.Time, nil }
	c.from = &attest.Material{URI: repo.Public(), Digest: attest.Commit(tree.Commit)}
	return c, nil
}
