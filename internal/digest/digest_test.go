package digest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestADigestIsParsedWholeOrNotAtAll(t *testing.T) {
	d := Of([]byte("x"))
	for _, s := range []string{d.String(), "sha256:" + d.Hex()} {
		if got, err := Parse(s); err != nil || got != d {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "sha256:", d.Hex(), "sha512:" + d.Hex(), "sha256:" + d.Hex()[1:], "sha256:" + d.Hex() + "0", " " + d.String(), d.String() + "\n",
		"sha256:" + strings.ToUpper(d.Hex()), "sha256:" + strings.Repeat("g", 64), "sha256:../" + d.Hex()[3:], "SHA256:" + d.Hex(),
	} {
		if got, err := Parse(s); err == nil || !got.IsZero() {
			t.Errorf("%q was parsed as %v", s, got)
		}
	}
	if len(d.Short()) != 12 || !strings.HasPrefix(d.Hex(), d.Short()) {
		t.Errorf("short form %q of %s", d.Short(), d)
	}
}

func TestADigestGoesThroughJSON(t *testing.T) {
	type doc struct{ A, B Digest }
	in := doc{A: Of([]byte("x"))}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out doc
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s came back as %+v, %v", b, out, err)
	}
	if err := json.Unmarshal([]byte(`{"A":"sha256:1"}`), &out); err == nil {
		t.Error("half a digest was read")
	}
}

// A change of these bytes forgets everybody's cache: it must be meant, and go
// with another Format.
func TestKeysStayWhatTheyAre(t *testing.T) {
	k := NewKey("run")
	k.Text("a", "b")
	k.List("args", []string{"x", "y"})
	k.Int("n", -5)
	k.Bool("t", true)
	k.Digest("d", Of(nil))
	const want = "07ce47a76a07"
	if got := k.Sum().Short(); got != want {
		t.Errorf("key %s, was %s", got, want)
	}
}

// Attack 29: fields that were joined without their lengths made different
// steps equal.
func TestAttack29_DistinctFieldsGiveDistinctKeys(t *testing.T) {
	lists := map[string]func(*Key){
		"nothing":                  func(k *Key) {},
		"an empty text":            func(k *Key) { k.Text("", "") },
		"two empty texts":          func(k *Key) { k.Text("", ""); k.Text("", "") },
		"a=bc":                     func(k *Key) { k.Text("a", "bc") },
		"ab=c":                     func(k *Key) { k.Text("ab", "c") },
		"abc=":                     func(k *Key) { k.Text("abc", "") },
		"a=b c=":                   func(k *Key) { k.Text("a", "b"); k.Text("c", "") },
		"a= b=c":                   func(k *Key) { k.Text("a", ""); k.Text("b", "c") },
		"a=b-c=d":                  func(k *Key) { k.Text("a", "b-c=d") },
		"a=b, c=d":                 func(k *Key) { k.Text("a", "b"); k.Text("c", "d") },
		"c=d, a=b":                 func(k *Key) { k.Text("c", "d"); k.Text("a", "b") },
		"no list":                  func(k *Key) { k.List("l", nil) },
		"a list of nothing":        func(k *Key) { k.List("l", []string{""}) },
		"a list of a b":            func(k *Key) { k.List("l", []string{"a", "b"}) },
		"a list of ab":             func(k *Key) { k.List("l", []string{"ab"}) },
		"a list of 'a b'":          func(k *Key) { k.List("l", []string{"a b"}) },
		"two lists, a and b":       func(k *Key) { k.List("l", []string{"a"}); k.List("l", []string{"b"}) },
		"two lists, ab and 0":      func(k *Key) { k.List("l", []string{"a", "b"}); k.List("l", nil) },
		"zero bytes":               func(k *Key) { k.Text("a\x00", "b") },
		"zero bytes elsewhere":     func(k *Key) { k.Text("a", "\x00b") },
		"what a length looks like": func(k *Key) { k.Text("a", "\x01\x00\x00\x00\x00\x00\x00\x00b") },
	}
	seen := map[Digest]string{}
	for name, add := range lists {
		for _, kind := range []string{"", "run", "copy"} {
			k := NewKey(kind)
			add(k)
			what := fmt.Sprintf("%s of kind %q", name, kind)
			if other, ok := seen[k.Sum()]; ok {
				t.Errorf("%s and %s have one key", what, other)
			}
			seen[k.Sum()] = what
		}
	}
}

func TestTheSumOfDigestsIsThatOfTheirFields(t *testing.T) {
	var list []Digest
	for n := range 200 {
		k := NewKey("chain")
		for _, d := range list {
			k.Digest("layer", d)
		}
		if got, want := SumOf("chain", "layer", list), k.Sum(); got != want {
			t.Fatalf("%d digests: %v, want %v", n, got, want)
		}
		list = append(list, Of([]byte{byte(n)}))
	}
}

func TestAKeyKeepsItsFields(t *testing.T) {
	k := NewKey("x")
	k.Text("a", "1")
	k.List("l", []string{"p", "q"})
	before := k.Sum()
	if k.Sum() != before {
		t.Error("asking for the sum changes it")
	}
	k.Bool("b", false)
	if k.Sum() == before {
		t.Error("a field after the sum does not count")
	}
	want := []Field{{"a", "1"}, {"l", "2"}, {"l.0", "p"}, {"l.1", "q"}, {"b", "false"}}
	if !slices.Equal(k.Fields(), want) {
		t.Errorf("fields %v, want %v", k.Fields(), want)
	}
}

// FuzzKey: two lists of fields have one key only if they are the same list.
func FuzzKey(f *testing.F) {
	f.Add("a\x1fb\x1ec\x1fd", "a\x1fb\x1ec\x1fd")
	f.Add("a\x1fbc", "ab\x1fc")
	f.Add("\x1e", "")
	fields := func(s string) (list []Field) {
		for _, one := range strings.Split(s, "\x1e") {
			l, v, _ := strings.Cut(one, "\x1f")
			list = append(list, Field{l, v})
		}
		return list
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ka, kb := NewKey("k"), NewKey("k")
		fa, fb := fields(a), fields(b)
		for _, x := range fa {
			ka.Text(x.Label, x.Value)
		}
		for _, x := range fb {
			kb.Text(x.Label, x.Value)
		}
		if (ka.Sum() == kb.Sum()) != slices.Equal(fa, fb) {
			t.Errorf("%q and %q", fa, fb)
		}
	})
}
