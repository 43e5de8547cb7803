package fetch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// Tree is what a repository has at one commit, checked out.
type Tree struct {
	Commit string
	Time   time.Time     // of the commit
	Layer  digest.Digest // a layer of the store with the files, owned by 0:0
	Subdir string        // of Layer: "." is all of it
	// Identity stands for the content where that is not the same each time it
	// is made: with a .git folder. Zero where it is.
	Identity digest.Digest
}

// GitOptions say what becomes of a checkout, beside what its address says.
type GitOptions struct {
	KeepGitDir bool // keep .git
	CommitTime bool // files get the time of the commit, unless the address says which
	// Progress is told when something has to be fetched, with nothing, and when
	// it is there, with the size of the files.
	Progress Progress
}

// Git checks out what repo names, unless the store has it. A branch or tag is
// looked up every time; a commit that is known needs no server.
func (c *Client) Git(ctx context.Context, repo address.Repo, o GitOptions) (*Tree, error) {
	if o.KeepGitDir && repo.Subdir != "" {
		o.KeepGitDir = false // as in the reference: .git belongs to all of a repository
	}
	o.CommitTime = repo.MTime == "commit" || repo.MTime == "" && o.CommitTime
	at, err := c.resolve(ctx, &repo)
	if err != nil {
		return nil, err
	}
	key := checkoutKey(&repo, at, o)
	name := "checkout " + key.Sum().Hex()
	tree, err := once(ctx, c, name, func() (*Tree, error) {
		if t := c.checkedOut(key.Sum()); t != nil {
			return t, nil
		}
		return c.checkOut(ctx, &repo, at, o, key)
	})
	if err != nil {
		return nil, err
	}
	t := *tree
	if !strings.HasPrefix(t.Commit, repo.Commit) && !strings.HasPrefix(at.object, repo.Commit) {
		return nil, wrongCommit(&repo, at.object, t.Commit)
	}
	c.mu.Lock()
	if c.commits == nil {
		c.commits = map[string]string{}
	}
	c.commits[placeName(&repo)] = t.Commit
	c.mu.Unlock()
	if o.KeepGitDir {
		t.Identity = key.Sum()
	}
	t.Subdir = entry.Clean(repo.Subdir)
	return &t, nil
}

// CheckSubdir says whether the tree has its folder, and nothing but folders on
// the way there: links in a repository could lead anywhere. files is the view of
// the tree's layer.
func (t *Tree) CheckSubdir(files entry.FS, repo *address.Repo) error {
	if t.Subdir == "." {
		return nil
	}
	at := "."
	for part := range strings.SplitSeq(t.Subdir, "/") {
		at = entry.Join(at, part)
		e, err := files.Lstat(at)
		switch {
		case err != nil:
			return &Error{What: repo.String(), Msg: fmt.Sprintf("invalid subdir %s: %q is not in the repository", t.Subdir, at),
				Way: "write the folder's path from the root of the repository, or another branch or tag"}
		case !e.IsDir():
			return &Error{What: repo.String(), Msg: fmt.Sprintf("invalid subdir %s: git subpath %q contains non-directory %q", t.Subdir, t.Subdir, at),
				Way: "name the folder itself; links are not followed in a repository"}
		}
	}
	return nil
}

// place is what an address stands for now.
type place struct {
	ref    string // full name of a branch or tag; "" for a commit
	object string // what it points to: a commit, or a tag with a message
	commit string // "" while object may be either
}

// resolve finds the place of a repository, asking the server if a commit does
// not say it.
func (c *Client) resolve(ctx context.Context, repo *address.Repo) (*place, error) {
	if address.IsCommit(repo.Ref) {
		if !strings.HasPrefix(repo.Ref, repo.Commit) {
			return nil, wrongCommit(repo, repo.Ref, "")
		}
		return &place{object: repo.Ref}, nil
	}
	if repo.FetchByCommit {
		return byCommit(repo)
	}
	return once(ctx, c, "resolve "+placeName(repo), func() (*place, error) { return c.lookUp(ctx, repo) })
}

// placeName is as much of an address as says which commit it is.
func placeName(repo *address.Repo) string { return repo.Remote + "#" + repo.Ref + "@" + repo.Commit }

// Commit is that of what Git returned for repo; "" where it did not. Nobody is asked.
func (c *Client) Commit(repo *address.Repo) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits[placeName(repo)]
}

func byCommit(repo *address.Repo) (*place, error) {
	if !address.IsCommit(repo.Commit) {
		msg := "fetch-by-commit requires a checksum or a commit SHA ref"
		if repo.Commit != "" {
			msg = fmt.Sprintf("fetch-by-commit requires a full commit SHA checksum, got %q", repo.Commit)
		}
		return nil, &Error{What: repo.String(), Msg: msg, Way: "write the whole commit id: ?commit=… in the address"}
	}
	p := &place{ref: repo.Ref, object: repo.Commit}
	if p.ref != "" && !strings.HasPrefix(p.ref, "refs/") {
		p.ref = "refs/heads/" + p.ref
	}
	return p, nil
}

func wrongCommit(repo *address.Repo, object, commit string) error {
	got := object
	if commit != "" && commit != object {
		got += " or " + commit
	}
	return &Error{What: repo.String(), Msg: fmt.Sprintf("expected checksum to match %s, got %s", repo.Commit, got),
		Way: "the branch or tag is at another commit than the one that is written: if the new one is meant, write its id"}
}

// lookUp asks the server what a ref points to.
func (c *Client) lookUp(ctx context.Context, repo *address.Repo) (_ *place, err error) {
	tmp, err := c.Store.Temp("git")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	g, err := c.openGit(ctx, repo, tmp.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.ready(ctx); err != nil {
		return nil, err
	}
	args := []string{"ls-remote", "--", g.remote, repo.Ref, repo.Ref + "^{}"}
	if repo.Ref == "" {
		args = []string{"ls-remote", "--symref", "--", g.remote, "HEAD"}
	}
	out, err := g.tried(ctx, args...)
	if err != nil {
		return nil, g.explain(err)
	}
	p := &place{}
	if repo.Ref == "" {
		p, err = defaultBranch(string(out))
	} else {
		p, err = pick(string(out), repo.Ref)
	}
	if err != nil {
		return nil, &Error{What: repo.String(), Msg: err.Error(), Way: refHint(repo)}
	}
	if !strings.HasPrefix(p.object, repo.Commit) && (p.commit == "" || !strings.HasPrefix(p.commit, repo.Commit)) {
		return nil, wrongCommit(repo, p.object, p.commit)
	}
	return p, nil
}

func refHint(repo *address.Repo) string {
	switch {
	case repo.Ref == "":
		return "write a branch or tag: #main at the end of the address"
	case address.CheckCommit(repo.Ref) == nil && len(repo.Ref) >= 7:
		return "if that is a commit, write its whole id: a server does not know the beginning of one"
	}
	return "is the branch or tag pushed, and spelt so?"
}

// defaultBranch reads what HEAD of a server is.
func defaultBranch(out string) (*place, error) {
	p := &place{}
	for line := range strings.Lines(out) {
		value, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if name != "HEAD" {
			continue
		}
		if ref, ok := strings.CutPrefix(value, "ref: "); ok {
			p.ref = ref
			continue
		}
		p.object = value
	}
	if p.object == "" {
		return nil, errors.New("could not find default branch")
	}
	if p.ref != "" {
		if err := address.CheckRef(p.ref); err != nil || !strings.HasPrefix(p.ref, "refs/") {
			return nil, fmt.Errorf("the server names %q as its default branch", p.ref)
		}
	}
	p.commit = p.object
	return p, checkObject(p.object)
}

func checkObject(id string) error {
	if !address.IsCommit(id) {
		return fmt.Errorf("invalid commit sha %q", id)
	}
	return nil
}

// pick chooses from what a server has: the full name, then a branch, then a tag.
func pick(out, ref string) (*place, error) {
	ids := map[string]string{}
	for line := range strings.Lines(out) {
		id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		ids[name] = id
	}
	branch := "refs/heads/" + strings.TrimPrefix(ref, "refs/heads/")
	tag := "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
	for _, name := range []string{"refs/" + strings.TrimPrefix(ref, "refs/"), branch, tag} {
		id := ids[name]
		if id == "" {
			continue
		}
		p := &place{ref: name, object: id, commit: id}
		if peeled := ids[name+"^{}"]; peeled != "" {
			p.commit = peeled
		}
		return p, errors.Join(checkObject(p.object), checkObject(p.commit))
	}
	return nil, fmt.Errorf("repository does not contain ref %s", ref)
}

// checkoutFormat changes with what a checkout makes of a commit.
const checkoutFormat = "1"

// checkoutKey names the files that a checkout leaves. How a server is reached,
// and by which name it was asked for the commit, is no part of it where no .git
// tells of it.
func checkoutKey(repo *address.Repo, at *place, o GitOptions) *digest.Key {
	k := digest.NewKey("checkout")
	k.Text("format", checkoutFormat)
	k.Text("repository", address.Redact(repo.Remote))
	k.Bool("submodules", !repo.NoSubmodules)
	k.Bool("commit time", o.CommitTime)
	k.Bool("git dir", o.KeepGitDir)
	if o.KeepGitDir {
		k.Text("object", at.object)
		k.Text("ref", at.ref)
		return k
	}
	id := at.commit
	if id == "" {
		id = at.object
	}
	k.Text("commit", id)
	return k
}
