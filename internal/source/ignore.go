package source

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/pattern"
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
	patterns, err := pattern.ReadFile(bytes.NewReader(src))
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
		one, lerr := pattern.ReadFile(bytes.NewReader(line))
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
	match    *pattern.Matcher // nil when nothing is ignored
}

func newRules(patterns []string) (*rules, error) {
	m, err := pattern.New(patterns)
	var bad *pattern.Error
	if errors.As(err, &bad) {
		return nil, &Error{File: "ignore pattern", Msg: bad.Error(), Hint: bad.Hint}
	}
	if err != nil || len(patterns) == 0 {
		return &rules{}, err
	}
	return &rules{patterns, m}, nil
}

// matcher returns a matcher for one goroutine; nil when nothing is ignored.
func (r *rules) matcher() *pattern.Matcher {
	if r.match == nil {
		return nil
	}
	m, err := pattern.New(r.patterns)
	if err != nil { // every pattern was checked
		return nil
	}
	return m
}

// verdict is what the patterns say of one path.
type verdict struct {
	excluded bool
	below    bool // something below it may be re-included
	info     pattern.Info
}

// skip reports whether a file, or a directory with all that is in it, is not
// part of the context.
func (v verdict) skip(dir bool) bool { return v.excluded && !(dir && v.below) }

// judge matches name, whose parent directory is parent, at dir. As in the reference,
// whether a parent matched a pattern is what the walk found there.
func (c *Context) judge(m *pattern.Matcher, dir, name string, parent *extra) (verdict, error) {
	if m == nil {
		return verdict{}, nil
	}
	path := entry.Join(dir, name)
	excluded, info, err := m.Match(path, parent.info)
	if err != nil {
		return verdict{}, &Error{File: "ignore pattern", Msg: err.Error()}
	}
	v := verdict{excluded: excluded, info: info}
	v.below = excluded && m.MayTakeBackBelow(path)
	return v, nil
}

// settle finds which excluded directories at and below n show because of
// something in them. What was not walked stays unsettled.
func settle(n *node) {
	if !n.isDir() || n.extra.settled || !n.extra.listed {
		return
	}
	all := true
	for _, k := range n.extra.kids {
		settle(k)
		n.extra.visible = n.extra.visible || !k.hidden()
		all = all && (!k.hidden() || k.extra.settled)
	}
	n.extra.settled = all || n.extra.visible
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
