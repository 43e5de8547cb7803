package source

import "path"

// Ignored returns what tells whether patterns, as LoadIgnore returns them,
// leave out a source of COPY or ADD, without a look at files. It is nil when
// nothing can be told: there are no patterns, or some re-include, so that a
// folder that is left out may have files that are not. It is not for use by
// several goroutines.
func Ignored(patterns []string) func(name string) bool {
	r, err := newRules(patterns)
	if err != nil {
		return nil
	}
	m := r.matcher()
	if m == nil || m.TakesBack() {
		return nil
	}
	return func(name string) bool {
		name = path.Clean(name)
		if name == "." || name == "/" {
			return m.All() // the root itself matches no pattern
		}
		return m.Under(name)
	}
}
