package address

import (
	"net/url"
	"strings"
)

// Public is the address of a source as everybody may have it: without a user and a
// password, and of the query and the fragment the names alone, since nobody knows
// which of their values open something. Of a repository it has the ref and the
// folder, and the name of a user of ssh.
func Public(source string) string {
	if KindOf(source) == Git {
		if r, err := ParseGit(source); err == nil {
			return r.Public()
		}
	}
	return public(source)
}

// Public is the address as everybody may have it.
func (r *Repo) Public() string { return r.at(public(r.Remote)) }

func public(source string) string {
	scheme, rest, ok := strings.Cut(source, "://")
	if !ok {
		scheme, rest = "", source
	} else {
		scheme += "://"
	}
	if _, err := url.Parse(source); ok && err != nil {
		// Where the host begins is a guess then: what stands before the last @ is none of it.
		rest = rest[strings.LastIndexByte(rest, '@')+1:]
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	host, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if at := strings.LastIndexByte(host, '@'); at >= 0 && ok {
		name, _, _ := strings.Cut(host[:at], ":")
		host = host[at+1:]
		if isSSH(scheme) && name != "" {
			host = name + "@" + host
		}
	}
	// There may be another address in the path.
	return Redact(scheme + host + path + names("?", query) + names("#", fragment))
}

// names is a query, or a fragment like one, without its values. What has none may be one
// itself.
func names(mark, query string) string {
	var out []string
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(pair, "="); strings.Trim(value, "=") != "" {
			out = append(out, name+"=")
		}
	}
	if out == nil {
		return ""
	}
	return mark + strings.Join(out, "&")
}

// Proxy is the address of a proxy, which need not have a scheme, without a user and a
// password.
func Proxy(value string) string {
	at := strings.LastIndexByte(value, '@')
	if at < 0 {
		return value
	}
	scheme, _, ok := strings.Cut(value[:at], "://")
	if ok {
		scheme += "://"
	} else {
		scheme = ""
	}
	return scheme + value[at+1:]
}
