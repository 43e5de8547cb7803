package container

import (
	"fmt"
	"slices"
	"strings"
)

// Setenv returns env with more in it: K=V replaces what K had, a K alone is
// taken out. A name appears once in the result, since programs differ in which
// of two they believe.
func Setenv(env []string, more ...string) []string {
	out := slices.Clone(env)
	for _, kv := range more {
		k, _, set := strings.Cut(kv, "=")
		at := slices.IndexFunc(out, func(have string) bool { return strings.HasPrefix(have, k+"=") })
		switch {
		case at >= 0 && set:
			out[at] = kv
		case at >= 0:
			out = slices.Delete(out, at, at+1)
		case set:
			out = append(out, kv)
		}
	}
	return out
}

// withHostname is what a process of a container is told: HOSTNAME too, as
// docker does it, unless the image or the caller said something else.
func withHostname(env []string, hostname string) []string {
	if slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOSTNAME=") }) {
		return env
	}
	return append(slices.Clone(env), "HOSTNAME="+hostname)
}

// ParseEnvFile reads docker's --env-file: a variable a line, as K=V with V
// taken as it is, or K alone; empty lines and those that begin with # are
// none.
func ParseEnvFile(name, text string) ([]string, error) {
	var env []string
	line := 0
	for l := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line++
		l = strings.TrimLeft(strings.TrimRight(l, "\r\n"), " \t")
		if l == "" || l[0] == '#' {
			continue
		}
		k, _, _ := strings.Cut(l, "=")
		if k == "" || strings.ContainsAny(k, " \t") {
			return nil, &Error{Msg: fmt.Sprintf("%s:%d: %q is not a name for a variable", name, line, k), Way: "write NAME=VALUE, without quotes and without blanks around the ="}
		}
		env = append(env, l)
	}
	return env, nil
}
