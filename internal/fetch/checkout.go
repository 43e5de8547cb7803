package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/store"
)

// Bounds of what a repository may be.
const (
	maxFiles   = 4 << 20 // as of a layer
	maxModules = 1000
	maxNesting = 10
)

// What a record of a checkout tells beside its layer.
const (
	extraCommit = "commit"
	extraTime   = "time"
)

// checkedOut returns the checkout that is recorded under key, or nil.
func (c *Client) checkedOut(key digest.Digest) *Tree {
	r, err := c.Store.Record(key)
	if err != nil {
		return nil
	}
	sec, err := strconv.ParseInt(r.Extra[extraTime], 10, 64)
	if err != nil || !address.IsCommit(r.Extra[extraCommit]) {
		return nil
	}
	return &Tree{Commit: r.Extra[extraCommit], Time: time.Unix(sec, 0).UTC(), Layer: r.Layer}
}

// checkOut fetches a commit and makes a layer of its files.
func (c *Client) checkOut(ctx context.Context, repo *address.Repo, at *place, o GitOptions, key *digest.Key) (_ *Tree, err error) {
	lock, err := c.Store.LockKey(ctx, key.Sum(), nil)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if t := c.checkedOut(key.Sum()); t != nil {
		return t, nil // by another process
	}
	if o.Progress != nil {
		o.Progress(0, 0)
	}
	tmp, err := c.Store.Temp("git")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	home := filepath.Join(tmp.Path, "home")
	w := &work{at: at, o: o, tree: filepath.Join(tmp.Path, "tree"), repo: filepath.Join(tmp.Path, "repo")}
	if o.KeepGitDir {
		w.repo = filepath.Join(w.tree, ".git")
	}
	for _, dir := range []string{home, w.tree} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, c.Store.Explain(err)
		}
	}
	if w.git, err = c.openGit(ctx, repo, home); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.ready(ctx); err != nil {
		return nil, err
	}
	if err := w.make(ctx); err != nil {
		return nil, w.explain(err)
	}
	return c.keepTree(ctx, w, key)
}

// work is one checkout.
type work struct {
	*git
	at         *place
	o          GitOptions
	tree, repo string // folders of the files and of git
	commit     string
	time       time.Time
	modules    int
}

// module is a repository that is checked out: the one that was asked for, or a
// submodule.
type module struct {
	dir   string   // with the files
	where []string // how git finds the repository, if not by dir
}

func (w *work) top() module {
	return module{w.tree, []string{"--git-dir=" + w.repo, "--work-tree=" + w.tree}}
}

func (w *work) on(ctx context.Context, m module, args ...string) ([]byte, error) {
	return w.runIn(ctx, m.dir, slices.Concat(m.where, args)...)
}

// in runs git on the checkout.
func (w *work) in(ctx context.Context, args ...string) ([]byte, error) {
	return w.on(ctx, w.top(), args...)
}

func (w *work) make(ctx context.Context) error {
	format := "--object-format=sha1"
	if len(w.at.object) == 64 {
		format = "--object-format=sha256"
	}
	init := []string{"init", "--quiet", "--template=", format, "--", w.tree}
	if !w.o.KeepGitDir {
		init = []string{"init", "--quiet", "--bare", "--template=", format, "--", w.repo}
	}
	if _, err := w.run(ctx, init...); err != nil {
		return err
	}
	// Submodules have addresses that are relative to this one.
	if _, err := w.in(ctx, "remote", "add", "--", "origin", w.remote); err != nil {
		return err
	}
	if err := w.fetch(ctx); err != nil {
		return err
	}
	if err := w.describe(ctx); err != nil {
		return err
	}
	check := []string{"read-tree", "--reset", "-u", w.commit}
	if w.o.KeepGitDir {
		check = []string{"checkout", "--quiet", "--force", "--detach", w.commit}
	}
	if _, err := w.in(ctx, check...); err != nil {
		return err
	}
	if w.git.repo.NoSubmodules {
		return nil
	}
	return w.submodules(ctx, w.top(), 0)
}

// fetch gets the commit, and as little else as the server allows.
func (w *work) fetch(ctx context.Context) error {
	want := w.at.ref
	if want == "" || w.git.repo.FetchByCommit {
		want = w.at.object
	}
	err := w.fetchOne(ctx, want)
	var failed *gitError
	if errors.As(err, &failed) && failed.has("couldn't find remote ref") || err == nil && !w.has(ctx) {
		err = w.fetchOne(ctx, w.at.object) // the branch has moved since it was looked up
	}
	if errors.As(err, &failed) && failed.has("not our ref", "unadvertised object", "couldn't find remote ref", "no such remote ref") {
		_, err = w.fetching(ctx, "--no-tags", "--", w.remote, "+refs/*:refs/whittle/*")
	}
	if err != nil {
		return err
	}
	if !w.has(ctx) {
		return &Error{What: w.git.repo.String(), Msg: "the repository does not contain commit " + w.at.object,
			Way: "is the commit pushed?"}
	}
	return w.name(ctx)
}

// fetchOne gets a ref or a commit without what was before it; some servers do
// not know how to leave that out.
func (w *work) fetchOne(ctx context.Context, want string) error {
	_, err := w.fetching(ctx, "--depth=1", "--no-tags", "--", w.remote, "+"+want+":refs/whittle/want")
	var failed *gitError
	if errors.As(err, &failed) && failed.has("--depth", "shallow") {
		_, err = w.fetching(ctx, "--no-tags", "--", w.remote, "+"+want+":refs/whittle/want")
	}
	return err
}

func (w *work) fetching(ctx context.Context, args ...string) ([]byte, error) {
	return w.tried(ctx, append([]string{"--git-dir=" + w.repo, "fetch", "--quiet", "--no-write-fetch-head"}, args...)...)
}

// has reports whether the object that is wanted is there.
func (w *work) has(ctx context.Context) bool {
	_, err := w.in(ctx, "cat-file", "-e", w.at.object)
	return err == nil
}

// name leaves in a .git that is kept the ref that was asked for, and no other.
func (w *work) name(ctx context.Context) error {
	if !w.o.KeepGitDir {
		return nil
	}
	if w.at.ref != "" {
		if _, err := w.in(ctx, "update-ref", "--no-deref", w.at.ref, w.at.object); err != nil {
			return err
		}
	}
	out, err := w.in(ctx, "for-each-ref", "--format=delete %(refname)", "refs/whittle/")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		ref := strings.TrimSpace(strings.TrimPrefix(line, "delete "))
		if _, err := w.in(ctx, "update-ref", "--no-deref", "-d", ref); err != nil {
			return err
		}
	}
	return nil
}

// describe finds the commit and its time, and counts what it would make.
func (w *work) describe(ctx context.Context) error {
	out, err := w.in(ctx, "rev-parse", "--verify", "--end-of-options", w.at.object+"^{commit}")
	if err != nil {
		return err
	}
	w.commit = strings.TrimSpace(string(out))
	if err := checkObject(w.commit); err != nil {
		return err
	}
	// Whatever could show a commit in other ways looks at all of its files.
	if out, err = w.in(ctx, "rev-list", "--max-count=1", "--timestamp", w.commit, "--"); err != nil {
		return err
	}
	stamp, _, _ := strings.Cut(string(out), " ")
	sec, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("commit %s: its time: %w", w.commit, err)
	}
	w.time = time.Unix(max(sec, 0), 0).UTC()
	return w.count(ctx)
}

// count refuses a commit of more files than a layer holds before any is written:
// a few folders that name each other often enough are any number of files.
func (w *work) count(ctx context.Context) error {
	names := &counter{most: maxFiles}
	top := w.top()
	err := w.runTo(ctx, names, top.dir, slices.Concat(top.where, []string{"ls-tree", "-r", "-t", "-z", "--name-only", w.commit})...)
	if names.n > names.most {
		return &Error{What: w.git.repo.String(), Msg: fmt.Sprintf("more than %d files", maxFiles), Way: "no layer can hold them"}
	}
	return err
}

// counter counts names that end in a zero byte, and fails at too many.
type counter struct{ n, most int }

func (c *counter) Write(p []byte) (int, error) {
	if c.n += bytes.Count(p, []byte{0}); c.n > c.most {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// submodules checks out those of m, and theirs.
func (w *work) submodules(ctx context.Context, m module, depth int) error {
	out, err := w.on(ctx, m, "ls-files", "--stage", "-z")
	if err != nil {
		return err
	}
	var paths []string
	for line := range strings.SplitSeq(string(out), "\x00") {
		if meta, path, ok := strings.Cut(line, "\t"); ok && strings.HasPrefix(meta, "160000 ") {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if w.modules += len(paths); w.modules > maxModules || depth >= maxNesting {
		return &Error{What: w.git.repo.String(), Msg: fmt.Sprintf("more than %d submodules, or more than %d in each other", maxModules, maxNesting),
			Way: "leave them out with ?submodules=false in the address"}
	}
	if err := w.update(ctx, m); err != nil {
		return err
	}
	for _, path := range paths {
		sub := module{dir: filepath.Join(m.dir, path)}
		if _, err := os.Lstat(filepath.Join(sub.dir, ".git")); err != nil {
			continue // .gitmodules does not know it: its folder stays empty
		}
		if err := w.submodules(ctx, sub, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// update is git submodule update, without history where the servers allow it.
func (w *work) update(ctx context.Context, m module) error {
	return w.c.retry(ctx, func() error {
		_, err := w.on(ctx, m, "submodule", "--quiet", "update", "--init", "--depth=1")
		var failed *gitError
		if errors.As(err, &failed) && failed.has("--depth", "shallow", "not our ref", "unadvertised object", "did not contain") {
			_, err = w.on(ctx, m, "submodule", "--quiet", "update", "--init")
		}
		if errors.As(err, &failed) && failed.fleeting() {
			return &fleeting{error: err}
		}
		return err
	})
}

// keepTree makes a layer of the files of a checkout, and records it.
func (c *Client) keepTree(ctx context.Context, w *work, key *digest.Key) (_ *Tree, err error) {
	tmp, err := c.Store.Temp("checkout")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	meta, err := w.pack(ctx, tmp.Path)
	if err != nil {
		if errors.Is(err, layer.ErrWhiteoutName) || errors.Is(err, layer.ErrBound) {
			return nil, &Error{What: w.git.repo.String(), Msg: err.Error(), Way: "no layer can hold that: clone the repository in a RUN and COPY what the image needs"}
		}
		return nil, c.Store.Explain(err)
	}
	if err := c.Store.CommitLayer(tmp, meta.DiffID); err != nil {
		return nil, err
	}
	if w.o.Progress != nil {
		w.o.Progress(meta.Size, meta.Size)
	}
	t := &Tree{Commit: w.commit, Time: w.time, Layer: meta.DiffID}
	return t, c.Store.PutRecord(key.Sum(), &store.Record{
		Layer: meta.DiffID, Kind: "git", Size: meta.Size, Entries: meta.Entries, Created: c.now().UTC().Truncate(time.Second),
		Text: w.git.repo.String(), Fields: key.Fields(),
		Extra: map[string]string{extraCommit: w.commit, extraTime: strconv.FormatInt(w.time.Unix(), 10)},
	})
}

// pack writes the files into a layer: owned by root, with the modes that a
// checkout gives whatever the umask, and all with one time.
func (w *work) pack(ctx context.Context, dir string) (layer.Meta, error) {
	root, err := fsroot.Open(w.tree)
	if err != nil {
		return layer.Meta{}, err
	}
	defer root.Close()
	b, err := layer.Create(dir)
	if err != nil {
		return layer.Meta{}, err
	}
	at := w.time
	if !w.o.CommitTime {
		at = w.c.now()
	}
	files := root.FS()
	err = entry.Walk(files, ".", func(e entry.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if w.leaves(e.Path) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return add(b, files, e, at)
	})
	if err != nil {
		b.Abort()
		return layer.Meta{}, err
	}
	return b.Finish()
}

// leaves reports what is no part of the result: git's own, unless it is kept,
// and of that what tells of this fetch only.
func (w *work) leaves(p string) bool {
	if !w.o.KeepGitDir {
		return p == ".git" || strings.HasSuffix(p, "/.git")
	}
	return p == ".git/FETCH_HEAD" || p == ".git/ORIG_HEAD"
}

func add(b *layer.Builder, files entry.FS, e entry.Entry, at time.Time) error {
	e.UID, e.GID, e.Xattrs, e.Inode = 0, 0, nil, 0
	e.Mtime = entry.Time{Sec: at.Unix()}
	switch e.Kind {
	case entry.Dir:
		e.Mode = 0o755
	case entry.Symlink:
		e.Mode = 0o777
	case entry.File:
		e.Mode &= 0o700
		e.Mode |= e.Mode&0o500>>3 | e.Mode&0o500>>6
		f, err := files.Open(e.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		return b.Add(e, f)
	default:
		return fmt.Errorf("%s: a %s in a checkout", e.Path, e.Kind)
	}
	return b.Add(e, nil)
}
