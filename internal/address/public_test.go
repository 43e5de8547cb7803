package address

import (
	"strings"
	"testing"
	"unicode"
)

func TestPublic(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/f": "https://h/f",
		"http://us'er:LEAK'x@127.0.0.1:5788/r.git":      "http://127.0.0.1:5788/r.git",
		"http://us\"er:LEAK<x@h/f":                      "http://h/f",
		"http://u:p#LEAK@h/f?key=LEAK":                  "http://h/f?key=",
		"http://u:p?LEAK@h/f":                           "http://h/f",
		"https://u:LEAK@w@h/f@1":                        "https://h/f@1",
		"https://LEAK@h:80":                             "https://h:80",
		"https://h/f?x-api-key=LEAK&v=1&LEAK#top":       "https://h/f?x-api-key=&v=",
		"https://h/f#access_token=LEAK&state=1":         "https://h/f#access_token=&state=",
		"https://u:LEAK@h/r.git?branch=main&subdir=a/b": "https://h/r.git#refs/heads/main:a/b",
		"https://u:LEAK@h/r.git#v1:dir":                 "https://h/r.git#v1:dir",
		"https://u:LEAK@h/r.git?what=LEAK":              "https://h/r.git?what=",
		"ssh://git:LEAK@h/r.git#v1":                     "ssh://git@h/r.git#v1",
		"git@h:a/b.git#v1":                              "git@h:a/b.git#v1",
		"https://mirror/https://u:LEAK@h/f":             "https://mirror/https://xxxxx:xxxxx@h/f",
		"https://h/f?TEVBSw==&v=1":                      "https://h/f?v=",
		"":                                              "",
	} {
		if got := Public(in); got != want {
			t.Errorf("Public(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestProxy(t *testing.T) {
	for in, want := range map[string]string{
		"user:LEAK@proxy:3128": "proxy:3128", "http://user:LE/AK@proxy:3128/": "http://proxy:3128/", "http://proxy": "http://proxy", "localhost,.example.com": "localhost,.example.com", "": "",
	} {
		if got := Proxy(in); got != want {
			t.Errorf("Proxy(%q) = %q, want %q", in, got, want)
		}
	}
}

// What a server could take for a user and a password never comes through.
func FuzzCredentials(f *testing.F) {
	const canary = "C4NARY7"
	f.Add("ADD '", "https", "us'er", "x", "' /")
	f.Add("curl -d '?sig=", "git+ssh", "a&b", "\"<>", "@h/f?token=1#x")
	f.Add("a://b@c", "SSH", "a@b:c", ",", "\n")
	f.Fuzz(func(t *testing.T, before, scheme, user, after, rest string) {
		whole := before + user + after + rest + scheme
		if strings.Contains(whole, canary) || strings.ContainsAny(user+after, "/?#") || strings.ContainsFunc(user+after, unicode.IsSpace) || !reScheme.MatchString(scheme+"://") {
			t.Skip()
		}
		url := scheme + "://" + user + ":" + canary + after + "@host/f"
		got := Redact(before + url + rest)
		if strings.Contains(got, canary) {
			t.Errorf("Redact(%q) = %q", before+url+rest, got)
		}
		if again := Redact(got); again != got {
			t.Errorf("Redact(%q) = %q", got, again)
		}
		if got := Public(url + rest); strings.Contains(got, canary) {
			t.Errorf("Public(%q) = %q", url+rest, got)
		}
	})
}
