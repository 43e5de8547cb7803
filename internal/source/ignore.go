package source

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/whittle-build/whittle/internal/entry"
)

// ignoreSuffix is appended to a Dockerfile's name; dotIgnore is the context's.
const (
	dotIgnore    = ".dockerignore"
	ignoreSuffix = ".dockerignore"
)

// LoadIgnore reads the ignore patterns of the context dir for a build from
// dockerfile ("" or "-" when it is not a file): those beside the Dockerfile,
// in <Dockerfile>.dockerignore, else those in dir/.dockerignore. name is the
// file that was read, "" when there is none. Every pattern is known to be
// good.
func LoadIgnore(dir, dockerfile string) (patterns []string, name string, err error) {
	var names []string
	if dockerfile != "" && dockerfile != "-" {
		names = append(names, dockerfile+ignoreSuffix)
	}
	for _, name := range append(names, filepath.Join(dir, dotIgnore)) {
		src, err := readInside(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		patterns, err := parseIgnore(name, src)
		return patterns, name, err
	}
	return nil, "", nil
}

func parseIgnore(name string, src []byte) ([]string, error) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(src))
	if err == nil {
		_, err = newRules(patterns)
	}
	if err == nil {
		return patterns, nil
	}
	for i, line := range bytes.Split(src, []byte("\n")) {
		if i > 0 && bytes.HasPrefix(line, []byte("\xef\xbb\xbf")) {
			line = append([]byte(" "), line...) // a mark is cut off at the file's start only
		}
		one, lerr := ignorefile.ReadAll(bytes.NewReader(line))
		if lerr == nil {
			_, lerr = newRules(one)
		}
		if lerr == nil {
			continue
		}
		bad := &Error{File: name, Line: i + 1, Msg: lerr.Error()}
		var e *Error
		if errors.As(lerr, &e) {
			bad.Msg, bad.Hint = e.Msg, e.Hint
		}
		return nil, bad
	}
	return nil, &Error{File: name, Msg: err.Error()}
}

// rules are the ignore patterns in the form that the walk uses.
type rules struct {
	patterns []string
	// back are the patterns that re-include, split at slashes.
	back [][]string
}

func newRules(patterns []string) (*rules, error) {
	r := &rules{}
	for _, p := range patterns {
		p = strings.TrimSpace(p)
		if p == "" {
			continue
		}
		if err := checkPattern(p); err != nil {
			return nil, err
		}
		r.patterns = append(r.patterns, p)
		if clean := path.Clean(p); clean[0] == '!' {
			r.back = append(r.back, strings.Split(clean[1:], "/"))
		}
	}
	return r, nil
}

// checkPattern refuses what the matcher would refuse, or complain about,
// only when it meets the first file.
func checkPattern(p string) error {
	bad := func(format string, args ...any) error {
		return &Error{File: "ignore pattern", Msg: fmt.Sprintf("pattern %q: ", p) + fmt.Sprintf(format, args...)}
	}
	if strings.ContainsRune(p, 0) {
		return bad("NUL byte")
	}
	if !utf8.ValidString(p) {
		return bad("not UTF-8")
	}
	if path.Clean(p) == "!" {
		return &Error{File: "ignore pattern", Msg: `pattern "!" re-includes nothing`,
			Hint: `write what to re-include after the "!", as in "!docs"`}
	}
	m, err := patternmatcher.New([]string{strings.TrimPrefix(p, "!")})
	if err == nil {
		_, err = m.MatchesOrParentMatches("x")
	}
	if err != nil {
		e := bad("%v", err).(*Error)
		e.Hint = `"[" opens a set of characters; write "[[]" for the character itself`
		return e
	}
	return nil
}

// matcher returns a matcher for one goroutine; nil when nothing is ignored.
func (r *rules) matcher() *patternmatcher.PatternMatcher {
	if len(r.patterns) == 0 {
		return nil
	}
	m, err := patternmatcher.New(r.patterns)
	if err != nil { // every pattern was checked
		return nil
	}
	return m
}

// mayInclude reports whether a pattern could re-include something below the
// excluded directory dir. It may be wrong in one direction: true costs a
// walk.
func (r *rules) mayInclude(dir string) bool {
	for _, p := range r.back {
		if reaches(p, dir) {
			return true
		}
	}
	return false
}

// reaches reports whether the pattern could match a path below dir: each
// element of dir matches the pattern's, and the pattern goes on.
func reaches(pattern []string, dir string) bool {
	for _, p := range pattern {
		if dir == "" || strings.Contains(p, "**") {
			return true
		}
		var el string
		el, dir, _ = strings.Cut(dir, "/")
		if strings.ContainsAny(p, `[\`) {
			return true // a set may match a slash
		}
		if ok, err := path.Match(p, el); err == nil && !ok {
			return false
		}
	}
	return false
}

// verdict is what the patterns say of one path.
type verdict struct {
	excluded bool
	below    bool // something below it may be re-included
	info     patternmatcher.MatchInfo
}

// skip reports whether a file, or a directory with all that is in it, is not
// part of the context.
func (v verdict) skip(dir bool) bool { return v.excluded && !(dir && v.below) }

// judge matches path, whose parent directory is parent. As in the reference,
// whether a parent matched a pattern is what the walk found there.
func (c *Context) judge(m *patternmatcher.PatternMatcher, path string, parent *extra) (verdict, error) {
	if m == nil || path == "." {
		return verdict{}, nil
	}
	excluded, info, err := m.MatchesUsingParentResults(path, parent.info)
	if err != nil {
		return verdict{}, &Error{File: "ignore pattern", Msg: err.Error()}
	}
	v := verdict{excluded: excluded, info: info}
	v.below = excluded && c.rules.mayInclude(path)
	return v, nil
}

// settle finds which excluded directories at and below n show because of
// something in them. n must have been walked.
func settle(n *node) {
	if !n.isDir() || n.extra.settled {
		return
	}
	n.extra.settled = true
	for _, k := range n.extra.kids {
		settle(k)
		n.extra.visible = n.extra.visible || !k.hidden()
	}
}

// explore finds out whether the excluded directory n shows.
func (c *Context) explore(n *node, path string) error {
	if err := c.list(n, path); err != nil {
		return err
	}
	for _, k := range n.extra.kids {
		if k.isDir() && k.extra.excluded {
			if err := c.explore(k, entry.Join(path, k.name)); err != nil {
				return err
			}
		}
	}
	settle(n)
	return nil
}
