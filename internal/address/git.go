package address

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// Repo is a place in a git repository.
type Repo struct {
	Remote string // for git; it may hold credentials
	Scheme string // "http", "https", "ssh" or "git"
	Host   string // with a port, if it has one
	Ref    string // branch, tag, full ref or commit; "" is the default branch
	Commit string // what Ref must be: a commit id or the beginning of one; ""
	Subdir string // clean and relative; "" is all of it

	KeepGitDir    *bool  // nil: not said
	NoSubmodules  bool   // leave folders of submodules empty
	MTime         string // of files: "checkout", "commit", or "" when not said
	FetchByCommit bool   // take Commit for what Ref is, without asking
}

// String is the address without credentials.
func (r *Repo) String() string { return r.at(Redact(r.Remote)) }

// at is the place in the repository s.
func (r *Repo) at(s string) string {
	if r.Ref != "" || r.Subdir != "" {
		s += "#" + r.Ref
	}
	if r.Subdir != "" {
		s += ":" + r.Subdir
	}
	return s
}

var (
	reHex = lazyre.New(`^[a-fA-F0-9]+$`)
	// reRef is narrower than git-check-ref-format(1) where it does not matter,
	// and never wider: no pattern, no range, no suffix.
	reRef = lazyre.New(`^[^\x00-\x20\x7f~^:?*\[\\-][^\x00-\x20\x7f~^:?*\[\\]*$`)
)

// IsCommit reports whether s is a whole commit id, of SHA-1 or of SHA-256.
func IsCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && reHex.MatchString(s) && strings.ToLower(s) == s
}

// CheckRef says what is wrong with the name of a branch, tag or commit.
func CheckRef(ref string) error {
	bad := strings.Contains(ref, "..") || strings.Contains(ref, "//") || strings.Contains(ref, "@{") ||
		strings.HasPrefix(ref, "/") || strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".") || ref == "@"
	if bad || !reRef.MatchString(ref) {
		return fmt.Errorf("invalid git ref %q", ref)
	}
	return nil
}

// CheckCommit says what is wrong with a commit id or the beginning of one.
func CheckCommit(commit string) error {
	if !reHex.MatchString(commit) || len(commit) > 64 {
		return fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", commit)
	}
	return nil
}

// ParseGit takes the address of a repository apart: a source for which KindOf
// says Git.
func ParseGit(source string) (*Repo, error) {
	r, query, err := splitGit(source)
	if err != nil {
		return nil, err
	}
	if err := r.options(query); err != nil {
		return nil, err
	}
	r.Subdir = strings.TrimPrefix(path.Join("/", r.Subdir), "/")
	return r, r.check()
}

// splitGit reads both ways of writing an address: a URL, and ssh's
// user@host:path.
func splitGit(source string) (*Repo, url.Values, error) {
	if scheme(source) == "" {
		return splitSCP(source)
	}
	u, err := url.Parse(source)
	if err != nil {
		return nil, nil, withoutAddress(err)
	}
	query, fragment := u.Query(), u.Fragment
	u.RawQuery, u.Fragment, u.RawFragment, u.ForceQuery = "", "", "", false
	if u.Host == "" {
		return nil, nil, errors.New("the address of the repository has no host")
	}
	r := &Repo{Scheme: u.Scheme, Host: u.Host, Remote: u.String()}
	r.Ref, r.Subdir, _ = strings.Cut(fragment, ":")
	return r, query, checkParts(u.User.Username(), u.Host, u.Path)
}

func splitSCP(source string) (*Repo, url.Values, error) {
	part := reSCP.FindStringSubmatch(source)
	if part == nil {
		return nil, nil, errors.New("not the address of a git repository")
	}
	query, err := url.ParseQuery(part[4])
	if err != nil {
		return nil, nil, fmt.Errorf("the query of the address: %w", err)
	}
	r := &Repo{Scheme: "ssh", Host: part[2], Remote: part[1] + "@" + part[2] + ":" + part[3]}
	r.Ref, r.Subdir, _ = strings.Cut(part[5], ":")
	return r, query, checkParts(part[1], part[2], part[3])
}

// checkParts refuses what git, or the ssh that it starts, could take for an
// option.
func checkParts(parts ...string) error {
	for _, p := range parts {
		if strings.HasPrefix(p, "-") {
			return fmt.Errorf("%q begins with - and would be taken for an option", p)
		}
		if strings.ContainsFunc(p, unicode.IsControl) {
			return fmt.Errorf("%q has control characters in it", p)
		}
	}
	return nil
}

// withoutAddress drops the address, which may hold a password, from an error of
// net/url.
func withoutAddress(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// options reads the query of an address.
func (r *Repo) options(query url.Values) error {
	said := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(query)) {
		if len(query[key]) > 1 {
			return fmt.Errorf("query %q has multiple values", key)
		}
		value := query.Get(key)
		if value == "" && key != "submodules" && key != "keep-git-dir" && key != "fetch-by-commit" {
			return fmt.Errorf("query %q has no value", key)
		}
		said[key] = value
	}
	for _, key := range slices.Sorted(maps.Keys(said)) {
		if err := r.option(key, said[key]); err != nil {
			return err
		}
	}
	if said["tag"] != "" && said["branch"] != "" {
		return errors.New("branch conflicts with tag")
	}
	if err := r.setRef("refs/tags/", said["tag"]); err != nil {
		return err
	}
	return r.setRef("refs/heads/", said["branch"])
}

func (r *Repo) option(key, value string) error {
	switch key {
	case "tag", "branch":
	case "ref":
		return r.setRef("", value)
	case "subdir":
		was := strings.TrimPrefix(path.Join("/", r.Subdir), "/")
		if was != "" && was != value {
			return fmt.Errorf("subdir conflicts: %q vs %q", was, value)
		}
		r.Subdir = value
	case "checksum", "commit":
		r.Commit = value
	case "mtime":
		if value != "checkout" && value != "commit" {
			return fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", value)
		}
		r.MTime = value
	case "keep-git-dir":
		keep, err := yes(key, value)
		r.KeepGitDir = &keep
		return err
	case "submodules":
		with, err := yes(key, value)
		r.NoSubmodules = !with
		return err
	case "fetch-by-commit":
		by, err := yes(key, value)
		r.FetchByCommit = by
		return err
	default:
		return fmt.Errorf("unexpected query %q", key)
	}
	return nil
}

func yes(key, value string) (bool, error) {
	if value == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid %s value: %q", key, value)
	}
	return b, nil
}

func (r *Repo) setRef(prefix, ref string) error {
	if ref == "" {
		return nil
	}
	if !strings.HasPrefix(ref, prefix) {
		ref = prefix + ref
	}
	if r.Ref != "" && r.Ref != ref {
		return fmt.Errorf("ref conflicts: %q vs %q", r.Ref, ref)
	}
	r.Ref = ref
	return nil
}

// check refuses names that git could take for something else than they are.
func (r *Repo) check() error {
	if r.Ref != "" {
		if err := CheckRef(r.Ref); err != nil {
			return err
		}
	}
	if r.Commit != "" {
		return CheckCommit(r.Commit)
	}
	return nil
}
