package address

import "testing"

func TestKindsOfSources(t *testing.T) {
	for src, want := range map[string]Kind{
		"a": Path, "./a:b": Path, "github.com/a/b": Path, "github.com/a/b.git": Path, "ftp://a": Path, "a@b": Path,
		"http://a": URL, "https://a/b.git.zip": URL, "https://a/b.gz#x.git": URL, "http://%zz": URL,
		"https://a/b.git": Git, "https://a/b.git#ref:dir": Git, "https://a/b.git?ref=x": Git, "git://a/b": Git, "ssh://git@a/b": Git, "git@a.b:c/d.git": Git,
	} {
		if got := KindOf(src); got != want {
			t.Errorf("KindOf(%q) = %d, want %d", src, got, want)
		}
	}
}
