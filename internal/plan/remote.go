package plan

import (
	"fmt"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// Remote is a source of ADD that has to be fetched. Its address may hold
// credentials: String is for people.
type Remote struct {
	At         int           // so many of the copy's Sources come before it
	URL        string        // of a file; "" for a repository
	Repo       *address.Repo // with what --checksum says
	Checksum   string        // of the file; ""
	KeepGitDir bool
}

// String is the address without credentials.
func (r *Remote) String() string {
	if r.Repo != nil {
		return r.Repo.String()
	}
	return address.Redact(r.URL)
}

// Public is the address as everybody may have it.
func (r *Remote) Public() string {
	if r.Repo != nil {
		return r.Repo.Public()
	}
	return address.Public(r.URL)
}

// remotes takes out of sources what has to be fetched; the rest is local.
func (st *state) remotes(c *dockerfile.Copy, sources []string, checksum string) (list []Remote, local []string, ok bool) {
	if checksum != "" && !st.checksumFits(sources) {
		return nil, nil, false
	}
	for _, s := range sources {
		kind := address.KindOf(s)
		if kind == address.Path {
			local = append(local, s)
			continue
		}
		if !c.Add {
			what := map[address.Kind]string{address.URL: "a URL", address.Git: "a git ref"}[kind]
			st.fail(fmt.Sprintf("source can't be %s for COPY", what), "write ADD: it downloads files and checks repositories out")
			return nil, nil, false
		}
		r, err := remote(c, s, kind, checksum)
		if err != nil {
			st.fail(err.Error(), remoteHint(kind, checksum))
			return nil, nil, false
		}
		r.At = len(local)
		list = append(list, *r)
	}
	return list, local, true
}

// checksumFits refuses --checksum where there is nothing, or too much, to check.
func (st *state) checksumFits(sources []string) bool {
	switch {
	case len(sources) != 1:
		st.fail("checksum can't be specified for multiple sources", "write an ADD for each")
	case address.KindOf(sources[0]) == address.Path:
		st.fail("checksum requires HTTP(S) or Git sources", "leave --checksum out: a file of the build context is what it is")
	default:
		return true
	}
	return false
}

func remote(c *dockerfile.Copy, source string, kind address.Kind, checksum string) (*Remote, error) {
	if kind == address.URL {
		if checksum != "" {
			if err := address.CheckChecksum(checksum); err != nil {
				return nil, fmt.Errorf("--checksum=%s: %w", checksum, err)
			}
		}
		return &Remote{URL: source, Checksum: checksum}, nil
	}
	repo, err := address.ParseGit(source)
	if err != nil {
		return nil, err
	}
	if c.KeepGitDir != nil && repo.KeepGitDir != nil && *c.KeepGitDir != *repo.KeepGitDir {
		return nil, fmt.Errorf("inconsistent keep-git-dir configuration")
	}
	if checksum != "" {
		if repo.Commit != "" && repo.Commit != checksum {
			return nil, fmt.Errorf("checksum mismatch %q != %q", checksum, repo.Commit)
		}
		repo.Commit = checksum
		if err := address.CheckCommit(checksum); err != nil {
			return nil, err
		}
	}
	keep := c.KeepGitDir != nil && *c.KeepGitDir || repo.KeepGitDir != nil && *repo.KeepGitDir
	return &Remote{Repo: repo, KeepGitDir: keep}, nil
}

func remoteHint(kind address.Kind, checksum string) string {
	if kind == address.Git {
		return "for example https://example.com/repo.git#tag:folder, or with ?tag=, branch=, subdir=, commit=, submodules=, keep-git-dir="
	}
	return "write sha256: and the 64 digits that sha256sum prints"
}

// keyFields adds what a remote source changes beside its content. Where it
// comes from is no matter.
func (r *Remote) keyFields(k *digest.Key) {
	k.Int("remote", int64(r.At))
	k.Bool("remote.repository", r.Repo != nil)
}
