// Package address owns the names of what lies outside a build: URLs of files
// and git repositories. It tells them from paths, takes them apart as the
// reference builder does, and makes them fit to be shown: without credentials.
//
// It does no I/O. What it returns of a git repository can be given to the git
// program: nothing of it is taken for an option or a pattern there.
package address

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// Kind says what a source of COPY or ADD, or a context, is.
type Kind int

// The kinds.
const (
	Path Kind = iota // in the context, stage or image
	URL              // a file, by http or https
	Git              // a repository
)

var (
	reScheme = lazyre.New(`^[a-zA-Z0-9]+://`)
	reSCP    = lazyre.New(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// KindOf tells paths from URLs and git repositories.
func KindOf(source string) Kind {
	switch scheme(source) {
	case "git", "ssh":
		return Git
	case "http", "https":
		u, err := url.Parse(source)
		if err == nil && strings.HasSuffix(u.Path, ".git") {
			return Git
		}
		if strings.HasPrefix(source, "http") {
			return URL
		}
	case "":
		if reSCP.MatchString(source) {
			return Git
		}
	}
	return Path
}

// scheme is what stands before "://", in lower case.
func scheme(source string) string {
	return strings.ToLower(strings.TrimSuffix(reScheme.FindString(source), "://"))
}

// hidden stands for a user's name and password.
const hidden = "xxxxx"

// reUserinfo ends where the host, the path, the query or a word does, and nowhere before:
// a quote may be a part of a password, and what a shell makes of it is not known here.
var reUserinfo = lazyre.New(`([a-zA-Z0-9+.-]*://)([^/?#\s]*)@`)

// secretName is what parameters are called that hold what a user and a password do: in
// presigned addresses of object stores, with tokens.
const secretName = `(?:[^=&?#\s"'<>]*(?:token|signature|secret|passw|passphrase|pwd|credential|jwt|api[-_]?key|access[-_]?key)[^=&?#\s"'<>]*` +
	`|(?:[^=&?#\s"'<>]*[-_.])?(?:key|sig|auth|authorization|code|pass|session|sid))=`

// secretValue has a quote in it where something follows that no text has behind a closing one.
const secretValue = `((?:[^&#\s"'<>]|["'][a-zA-Z0-9%_~.+/=$-])+)`

var (
	reSigned   = lazyre.New(`(?i)([?&]` + secretName + `)` + secretValue)
	reFragment = lazyre.New(`(?i)(://[^\s#]*#` + secretName + `)` + secretValue)
)

// Redact replaces the credentials of all URLs in a text. The name of a user of
// ssh is no secret, and is needed to understand the address. Of what is one
// address and is given away, Public leaves less.
func Redact(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	if strings.Contains(text, "@") {
		text = reUserinfo.ReplaceAllStringFunc(text, hideUser)
	}
	if strings.ContainsAny(text, "?&") {
		text = reSigned.ReplaceAllString(text, "${1}"+hidden)
	}
	if strings.Contains(text, "#") {
		text = reFragment.ReplaceAllString(text, "${1}"+hidden)
	}
	return text
}

// hideUser is what stands instead of a scheme and a userinfo.
func hideUser(m string) string {
	part := reUserinfo.FindStringSubmatch(m)
	name, _, password := strings.Cut(part[2], ":")
	if !isSSH(part[1]) {
		name = hidden
	}
	if password {
		name += ":" + hidden
	}
	return part[1] + name + "@"
}

func isSSH(scheme string) bool {
	return slices.Contains([]string{"ssh://", "git+ssh://"}, strings.ToLower(scheme))
}

// FileName is the name of the file that ADD makes of a URL: the last part of
// its path, whatever the server says.
func FileName(rawURL string) string {
	name := "__unnamed__"
	if u, err := url.Parse(rawURL); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			name = base
		}
	}
	return SafeName(name)
}

// SafeName makes a name of a file out of what somebody else calls it.
func SafeName(name string) string {
	name = path.Base(strings.TrimSpace(name))
	if name == "." || name == ".." || name == "/" || strings.ContainsFunc(name, unicode.IsControl) {
		return "download"
	}
	return name
}
