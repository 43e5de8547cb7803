package source

import "testing"

func TestIgnoredTellsWithoutALook(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		name     string
		want     bool
	}{
		{[]string{"foo"}, "foo", true}, {[]string{"foo"}, "./foo/", true}, {[]string{"foo"}, "foo/bar", true}, {[]string{"foo"}, "/foo", false},
		{[]string{"foo"}, "fo", false}, {[]string{"foo"}, ".", false}, {[]string{"*"}, ".", true}, {[]string{"**"}, "/", true}, {[]string{"*"}, "x", true},
		{[]string{"**/x"}, "a/b/x", true}, {[]string{"a*"}, "a*", true}, {[]string{" a ", ""}, "a", true},
	} {
		ignored := Ignored(c.patterns)
		if ignored == nil || ignored(c.name) != c.want {
			t.Errorf("%q, %q: want %v", c.patterns, c.name, c.want)
		}
	}
	for _, patterns := range [][]string{nil, {"foo", "!foo/x"}, {"["}} {
		if Ignored(patterns) != nil {
			t.Errorf("%q: something can be told", patterns)
		}
	}
}
