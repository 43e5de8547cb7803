package pattern

import "path"

// TakesBack reports whether a pattern takes back what others match.
func (m *Matcher) TakesBack() bool { return len(m.back) > 0 }

// Under reports whether p, or a directory that it is in, matches, without a
// look at what directories said.
func (m *Matcher) Under(p string) bool {
	ok, err := m.m.MatchesOrParentMatches(p)
	return err == nil && ok
}

// All reports whether a pattern matches whatever there is.
func (m *Matcher) All() bool {
	for _, p := range m.forth {
		switch path.Join(p...) {
		case "*", "**", "**/*":
			return true
		}
	}
	return false
}
