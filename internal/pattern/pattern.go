// Package pattern owns the patterns of ignore files, of --exclude and of COPY
// --parents: which paths they match, and where below a directory they could
// match. "**" is any number of elements, "!" at the beginning takes back what
// the patterns before it matched, and what matches a directory matches all
// that is in it. Paths are those of io/fs.
package pattern

import (
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Matcher is a list of patterns. It is for one goroutine.
type Matcher struct {
	m           *patternmatcher.PatternMatcher
	forth, back [][]string // those that match and those that take back, split at slashes
}

// Info is what a directory's match says about what is in it. The zero value
// is that of the root.
type Info struct{ info patternmatcher.MatchInfo }

// New returns a matcher of good patterns. Blanks around them do not count, nor
// do empty ones. The error is an *Error.
func New(patterns []string) (*Matcher, error) {
	m := &Matcher{}
	for _, p := range patterns {
		p = strings.TrimSpace(p)
		if p == "" {
			continue
		}
		if err := check(p); err != nil {
			return nil, err
		}
		if clean := path.Clean(p); clean[0] == '!' {
			m.back = append(m.back, strings.Split(clean[1:], "/"))
		} else {
			m.forth = append(m.forth, strings.Split(clean, "/"))
		}
	}
	var err error
	m.m, err = patternmatcher.New(patterns)
	if err != nil {
		return nil, &Error{Pattern: strings.Join(patterns, " "), Reason: err.Error()}
	}
	return m, nil
}

// Match says whether p matches, given what its directory's match said.
func (m *Matcher) Match(p string, dir Info) (bool, Info, error) {
	ok, info, err := m.m.MatchesUsingParentResults(p, dir.info)
	return ok, Info{info}, err
}

// MayMatchBelow reports whether something below dir could match though dir
// does not. It may be wrong in one direction: true costs a walk.
func (m *Matcher) MayMatchBelow(dir string) bool { return reach(m.forth, dir) }

// MayTakeBackBelow reports whether something below dir could be taken back
// though dir matches. It may be wrong like MayMatchBelow.
func (m *Matcher) MayTakeBackBelow(dir string) bool { return reach(m.back, dir) }

func reach(patterns [][]string, dir string) bool {
	for _, p := range patterns {
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

// Error is a pattern that cannot be read.
type Error struct {
	Pattern string
	Reason  string
	Hint    string // "" or a way out
}

func (e *Error) Error() string { return fmt.Sprintf("pattern %q: %s", e.Pattern, e.Reason) }

// check refuses what the matcher would refuse, or complain about, only when
// it meets the first file.
func check(p string) error {
	if strings.ContainsRune(p, 0) {
		return &Error{Pattern: p, Reason: "NUL byte"}
	}
	if !utf8.ValidString(p) {
		return &Error{Pattern: p, Reason: "not UTF-8"}
	}
	if path.Clean(p) == "!" {
		return &Error{p, "re-includes nothing", `write what to re-include after the "!", as in "!docs"`}
	}
	m, err := patternmatcher.New([]string{strings.TrimPrefix(p, "!")})
	if err == nil {
		_, err = m.MatchesOrParentMatches("x")
	}
	if err != nil {
		hint := `"[" opens a set of characters; write "[[]" for the character itself`
		if !strings.Contains(p, "[") {
			hint = `"/" divides directories; "\" takes the character after it literally, and only "* ? [ \" need that`
		}
		return &Error{p, err.Error(), hint}
	}
	return nil
}

// ReadFile returns the patterns of an ignore file.
func ReadFile(r io.Reader) ([]string, error) { return ignorefile.ReadAll(r) }
