package dockerfile

import (
	"slices"
	"strings"
	"testing"
)

func expander(t *testing.T) *Expander {
	t.Helper()
	return mustParse(t, "FROM a").NewExpander()
}

func TestExpansion(t *testing.T) {
	env := NewVars([]string{"v=x", "empty=", "p=a/b/c", "n=v"})
	for word, want := range map[string]string{
		"plain": "plain", "$v": "x", "${v}y": "xy", "$none": "", "a$": "a$",
		"${none:-w}": "w", "${none-w}": "w", "${empty:-w}": "w", "${empty-w}": "", "${v:-w}": "x",
		"${v:+w}": "w", "${empty:+w}": "", "${empty+w}": "w", "${none:+w}": "", "${none:-${v}}": "x",
		"${p#*/}": "b/c", "${p##*/}": "c", "${p%/*}": "a/b", "${p%%/*}": "a", "${p/\\//-}": "a-b/c", "${p//\\//-}": "a-b-c", "${p/?/z}": "z/b/c",
		`'$v'`: "$v", `"$v"`: "x", `\$v`: "$v", `"\$v"`: "$v", `"a\b"`: `a\b`, `a\b`: "ab", `\\`: `\`, `"a b"c`: "a bc",
		"$1$@$*": "",
	} {
		got, err := expander(t).Word(word, env)
		if err != nil || got.Text != want {
			t.Errorf("%s: got %q, %v, want %q", word, got.Text, err, want)
		}
	}
	for word, want := range map[string]string{
		"${none:?}": "none: is not allowed to be unset", "${empty:?}": "empty: is not allowed to be empty", "${none?say}": "none: say",
		"${}": "syntax error: bad substitution", "${:x}": "syntax error: bad substitution", "${v": "unsupported modifier", "${v:#x}": "unsupported modifier (:#) in substitution",
		"'a": "unexpected end of statement while looking for matching single-quote", "\xff": "word is not UTF-8 text", "a\x00$v": "NUL byte in a word",
		`${v#\a}`: `invalid pattern`,
	} {
		got, err := expander(t).Word(word, env)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %q, %v, want the error %s", word, got.Text, err, want)
		}
	}
}

func TestExpansionSaysWhatItUsed(t *testing.T) {
	got, err := expander(t).Word("$b$a${c:-$d}$b", NewVars([]string{"a=1", "c=1"}))
	if err != nil || !slices.Equal(got.Used, []string{"a", "c"}) || !slices.Equal(got.Unset, []string{"b", "d"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWordsSplitAfterExpansion(t *testing.T) {
	got, err := expander(t).Words(`$a "c d"`, NewVars([]string{"a=1 2"}))
	if err != nil || !slices.Equal(got, []string{"1", "2", "c d"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestBodiesKeepTheirQuotes(t *testing.T) {
	got, err := expander(t).Body("\"$a\" '$a' \\$a \\x\n", NewVars([]string{"a=1"}))
	if err != nil || got.Text != "\"1\" '1' $a x\n" {
		t.Errorf("got %q, %v", got.Text, err)
	}
}

func TestVarsKeepTheirOrder(t *testing.T) {
	v := NewVars([]string{"a=1", "b=2"})
	before := v.List()
	c := v.Clone()
	c.Set("a", "3")
	c.Set("c", "")
	if got := c.List(); !slices.Equal(got, []string{"a=3", "b=2", "c="}) {
		t.Errorf("got %q", got)
	}
	if got := v.List(); !slices.Equal(got, before) || len(before) != 2 {
		t.Errorf("the original is %q", got)
	}
}

func TestExpansionIsBounded(t *testing.T) {
	x, env := expander(t), NewVars(nil)
	env.Set("a", "xxxxxxxxxx")
	for range 40 {
		out, err := x.Word("$a$a", env)
		if err != nil {
			if len(env.values["a"].value) > maxExpansion {
				t.Errorf("grew to %d bytes", len(env.values["a"].value))
			}
			return
		}
		env.Set("a", out.Text)
	}
	t.Error("a value doubled forty times")
}

func TestOneWordIsBounded(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	for name, word := range map[string]string{
		"many uses":     strings.Repeat("$a", 1000),
		"replacing all": "${a//?/${a}}",
		"long pattern":  "${a#" + strings.Repeat("?", 1000) + "}",
		"deep nesting":  strings.Repeat("${n:-", maxSubstitutions+1),
	} {
		if _, err := expander(t).Word(word, NewVars([]string{"a=" + big})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := expander(t).Word(strings.Repeat("${n:-", maxSubstitutions)+strings.Repeat("}", maxSubstitutions), NewVars(nil)); err != nil {
		t.Errorf("as deep as allowed: %v", err)
	}
	got, err := expander(t).Word("${a%x}", NewVars([]string{"a=" + big}))
	if err != nil || len(got.Text) != len(big)-1 {
		t.Errorf("one large value: %d bytes, %v", len(got.Text), err)
	}
}
