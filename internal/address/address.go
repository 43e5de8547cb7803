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

var reUserinfo = lazyre.New(`([a-zA-Z0-9+.-]+://)([^/?#\s"'<>]*)@`)

// reSigned is what a query has instead of a user and a password: presigned addresses of
// object stores, tokens.
var reSigned = lazyre.New(`(?i)([?&](?:[^=&?#\s"'<>]*(?:token|signature|secret|passw|credential|api_?key|access_key)[^=&?#\s"'<>]*|sig)=)([^&#\s"'<>]+)`)

// Redact replaces the credentials of all URLs in a text. The name of a user of
// ssh is no secret, and is needed to understand the address.
func Redact(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	if strings.Contains(text, "?") {
		text = reSigned.ReplaceAllString(text, "${1}"+hidden)
	}
	if !strings.Contains(text, "@") {
		return text
	}
	return reUserinfo.ReplaceAllStringFunc(text, func(m string) string {
		part := reUserinfo.FindStringSubmatch(m)
		name, _, password := strings.Cut(part[2], ":")
		if scheme := strings.ToLower(part[1]); scheme != "ssh://" && scheme != "git+ssh://" {
			name = hidden
		}
		if password {
			name += ":" + hidden
		}
		return part[1] + name + "@"
	})
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
