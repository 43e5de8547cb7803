package pattern

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestPatternsThatCannotBeReadAreNamed(t *testing.T) {
	for _, p := range []string{"a[", "!a[", "!", " ! ", "a\x00", "\xff", "a/[b"} {
		_, err := New([]string{"good", p})
		var bad *Error
		if !errors.As(err, &bad) || bad.Pattern != strings.TrimSpace(p) {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestWhatTakesBackNeedsSomethingToTakeBack(t *testing.T) {
	m, err := New([]string{"*", "!keep", ""})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"a": true, "keep": false, "keep/x": false, "a/keep": true} {
		if got, _, err := m.Match(p, Info{}); got != want || err != nil {
			t.Errorf("%s: %v, want %v (%v)", p, got, want, err)
		}
	}
	if m.MayTakeBackBelow("a") {
		t.Error("nothing below a is taken back")
	}
}

// A walk that leaves out what cannot match finds what a walk of all finds.
func FuzzWhatMatchesIsWithinReach(f *testing.F) {
	for _, p := range []string{"a/b", "**/x", "a/**/c", "*/b", "a[b]c/d", "?/c", "**", "a**/d", `a\b/c`, "!a/b"} {
		f.Add(p, "a/b/c")
		f.Add(p, "x/a/c")
	}
	f.Fuzz(func(t *testing.T, p, name string) {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		m, err := New([]string{p})
		if err != nil || name == "" || strings.ContainsRune(p, '\n') {
			t.Skip()
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if ok, _, err := m.Match(dir, Info{}); ok || err != nil {
				return
			}
		}
		if ok, _, err := m.Match(name, Info{}); !ok || err != nil {
			return
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if !m.MayMatchBelow(dir) {
				t.Fatalf("%q matches %q, but nothing below %q", p, name, dir)
			}
		}
	})
}
