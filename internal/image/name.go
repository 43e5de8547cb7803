package image

import (
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/lazyre"
)

const (
	defaultDomain = "docker.io"
	oldDomain     = "index.docker.io"
	officialRepo  = "library/"
	defaultTag    = "latest"
	maxName       = 255
)

// Name is a reference to an image with nothing left to guess: golang:1.15 is
// docker.io/library/golang:1.15. At least one of Tag and Digest is set.
type Name struct {
	Domain string // host, with a port if it has one
	Path   string
	Tag    string
	Digest digest.Digest
}

// The grammar is that of the distribution project's reference package.
var (
	domainForm    = lazyre.New(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	componentForm = lazyre.New(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	tagForm       = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
)

// ParseName reads a reference as people write it: NAME, NAME:TAG,
// NAME@sha256:…, HOST/NAME and HOST:PORT/NAME, and gives it its tag "latest"
// when it has neither tag nor digest.
func ParseName(s string) (Name, error) {
	if s == "" {
		return Name{}, &Error{Msg: "image name is empty", Way: "write it as NAME:TAG, such as my-app:1.0"}
	}
	var n Name
	rest := s
	if before, after, ok := strings.Cut(rest, "@"); ok {
		d, err := digest.Parse(after)
		if err != nil {
			return Name{}, nameError(s, err.Error(), "a digest is written NAME@sha256: and 64 lower-case hex digits")
		}
		if d.IsZero() {
			return Name{}, nameError(s, "the digest is all zeros, which no content has", "take the digest from the registry, or from whittle images")
		}
		rest, n.Digest = before, d
	}
	rest, n.Tag = cutTag(rest)
	if n.Tag == "" && strings.HasSuffix(s, ":") {
		return Name{}, nameError(s, "the tag is empty", "leave the colon out, or write a tag after it")
	}
	if n.Tag != "" && !tagForm.MatchString(n.Tag) {
		return Name{}, nameError(s, fmt.Sprintf("tag %q is not a tag", n.Tag),
			"a tag has up to 128 letters, digits, '_', '.' and '-', and begins with none of the last two")
	}
	n.Domain, n.Path = splitDomain(rest)
	if err := n.check(s); err != nil {
		return Name{}, err
	}
	if n.Tag == "" && n.Digest.IsZero() {
		n.Tag = defaultTag
	}
	return n, nil
}

// cutTag parts "a/b:tag"; a colon before the last slash belongs to a port.
func cutTag(s string) (rest, tag string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.Contains(s[i:], "/") {
		return s, ""
	}
	return s[:i], s[i+1:]
}

// splitDomain takes the first component for a host when it looks like one: it
// has a dot or a colon, is localhost, or has upper-case letters, which a path
// cannot have.
func splitDomain(s string) (domain, path string) {
	first, rest, ok := strings.Cut(s, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first) {
		domain, path = first, rest
	} else {
		domain, path = defaultDomain, s
	}
	if domain == oldDomain {
		domain = defaultDomain
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = officialRepo + path
	}
	return domain, path
}

func (n Name) check(s string) error {
	if !domainForm.MatchString(n.Domain) {
		return nameError(s, fmt.Sprintf("%q is not a host", n.Domain), "a host is letters, digits, '-' and '.', with a port after ':' if need be")
	}
	if len(n.Domain)+1+len(n.Path) > maxName {
		return nameError(s, fmt.Sprintf("longer than %d characters", maxName), "")
	}
	if strings.ToLower(n.Path) != n.Path {
		return nameError(s, "upper-case letters", "write it as "+strings.ToLower(s[:len(s)-len(n.suffix())])+n.suffix())
	}
	for c := range strings.SplitSeq(n.Path, "/") {
		if !componentForm.MatchString(c) {
			return nameError(s, fmt.Sprintf("%q is not a part of a name", strings.TrimPrefix(c, officialRepo)),
				"a part has lower-case letters and digits, with one '.', one or two '_', or '-' between them")
		}
	}
	bare := strings.TrimPrefix(n.Path, officialRepo)
	if _, err := digest.ParseHex(bare); err == nil && n.Domain == defaultDomain {
		return nameError(s, "64 hex digits are an image ID, not a name", "write it as sha256:"+bare)
	}
	return nil
}

// suffix is what follows the repository in the reference as it was written.
func (n Name) suffix() string {
	var s string
	if n.Tag != "" {
		s = ":" + n.Tag
	}
	if !n.Digest.IsZero() {
		s += "@" + n.Digest.String()
	}
	return s
}

func nameError(name, msg, way string) error {
	return &Error{Msg: fmt.Sprintf("image name %q: %s", name, msg), Way: way}
}

// String returns the full form: docker.io/library/golang:1.15.
func (n Name) String() string { return n.Repository() + n.suffix() }

// Repository returns the full form without tag and digest.
func (n Name) Repository() string { return n.Domain + "/" + n.Path }

// Familiar returns the form that people write: golang:1.15.
func (n Name) Familiar() string { return n.FamiliarRepository() + n.suffix() }

// FamiliarRepository returns the familiar form without tag and digest.
func (n Name) FamiliarRepository() string {
	if n.Domain != defaultDomain {
		return n.Repository()
	}
	return strings.TrimPrefix(n.Path, officialRepo)
}

// IsZero reports whether n names nothing.
func (n Name) IsZero() bool { return n == Name{} }
