package address

import (
	"fmt"
	"os"
	"path"
	"strings"
	"testing"
)

// testdata/git.txt has the reference's answers: the address, whether it is
// that of a repository, and its parts or what is wrong.
func TestGitAddressesAsTheReferenceReadsThem(t *testing.T) {
	text, err := os.ReadFile("testdata/git.txt")
	if err != nil {
		t.Fatal(err)
	}
	stricter := map[string]bool{
		"git://host/r#a%20b":         true, // no branch has such a name
		"git@github.com:a/b?x=%zz":   true, // a mistake here, the path of a file there
		"https://github.com/%zz.git": true,
	}
	for line := range strings.Lines(string(text)) {
		part := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		source, isGit, want := part[0], part[1] == "true", part[2]
		if stricter[source] {
			if r, err := ParseGit(source); err == nil {
				t.Errorf("%s: taken as %+v", source, r)
			}
			continue
		}
		if got := KindOf(source) == Git; got != isGit {
			t.Errorf("%s: a repository: %v, want %v", source, got, isGit)
		}
		if !isGit {
			continue
		}
		got := parts(source)
		if source == "https://github.com/moby/buildkit.git?subdir=/a" {
			want = strings.Replace(want, "subdir=/a", "subdir=a", 1) // means the same
		}
		if got != want {
			t.Errorf("%s:\n%s, want\n%s", source, got, want)
		}
	}
}

func parts(source string) string {
	r, err := ParseGit(source)
	if err != nil {
		return "error: " + err.Error()
	}
	keep, sub := "-", "-"
	if r.KeepGitDir != nil {
		keep = fmt.Sprint(*r.KeepGitDir)
	}
	if r.NoSubmodules {
		sub = "false"
	} else if strings.Contains(source, "submodules=true") {
		sub = "true"
	}
	return fmt.Sprintf("remote=%s ref=%s subdir=%s commit=%s keep=%s sub=%s mtime=%s by=%v",
		r.Remote, r.Ref, r.Subdir, r.Commit, keep, sub, r.MTime, r.FetchByCommit)
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"ADD https://h/f?X-Amz-Signature=abc&x=1&sig=%2B# /":   "ADD https://h/f?X-Amz-Signature=xxxxx&x=1&sig=xxxxx# /",
		"https://u:p@h/f?a=1&X-Token=t":                        "https://xxxxx:xxxxx@h/f?a=1&X-Token=xxxxx",
		"https://h/r.git?branch=main&checksum=0123&design=new": "https://h/r.git?branch=main&checksum=0123&design=new",
		"https://u:p@h/x":                     "https://xxxxx:xxxxx@h/x",
		"https://token@h/x":                   "https://xxxxx@h/x",
		"https://u:p@w@h/x":                   "https://xxxxx:xxxxx@h/x",
		"https://h/x@y":                       "https://h/x@y",
		"https://h?x=a@b":                     "https://h?x=a@b",
		"ssh://git@h/x":                       "ssh://git@h/x",
		"ssh://git:pw@h/x":                    "ssh://git:xxxxx@h/x",
		"git@h:x":                             "git@h:x",
		"ADD http://a:b@h/x ftp://c:d@h /":    "ADD http://xxxxx:xxxxx@h/x ftp://xxxxx:xxxxx@h /",
		`ADD ["https://u:p@h/x", "/"]`:        `ADD ["https://xxxxx:xxxxx@h/x", "/"]`,
		"fatal: could not read https://u:p@h": "fatal: could not read https://xxxxx:xxxxx@h",
		"ADD http://us'er:p'x@h/f /":          "ADD http://xxxxx:xxxxx@h/f /",
		"curl 'http://u:p@h/f' && echo 'a@b'": "curl 'http://xxxxx:xxxxx@h/f' && echo 'a@b'",
		`curl "http://u:'p'@h/f?a=b" -o c@d`:  `curl "http://xxxxx:xxxxx@h/f?a=b" -o c@d`,
		"${SCHEME}://u:p@h/":                  "${SCHEME}://xxxxx:xxxxx@h/",
		"https://h?sig=http://a&b:c@h":        "https://h?sig=xxxxx",
		"http://h/f?x-api-key=a&access-key=b&key=c&auth=d&jwt=e&pwd=f&code=g&author=h&monkey=i": "http://h/f?x-api-key=xxxxx&access-key=xxxxx&key=xxxxx&auth=xxxxx&jwt=xxxxx&pwd=xxxxx&code=xxxxx&author=h&monkey=i",
		"see 'https://h/cb?token=a'b#access_token=c' #key=d":                                    "see 'https://h/cb?token=xxxxx#access_token=xxxxx' #key=d",
		`["http://h?key=a","b"] https://h#state=1&id_token=d`:                                   `["http://h?key=xxxxx","b"] https://h#state=1&id_token=xxxxx`,
		"": "",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestFileNames(t *testing.T) {
	for in, want := range map[string]string{
		"http://h/a/b.txt": "b.txt", "http://h/a/b/": "b", "http://h": "__unnamed__", "http://h/": "__unnamed__", "http://h/a%20b?x=y#z": "a b",
		"http://h/a%2Fb": "b", "http://h/..": "download", "http://h/%2e%2e": "download", "http://h/a%0ab": "download", "http://%zz": "__unnamed__", "http://h/.": "__unnamed__",
	} {
		if got := FileName(in); got != want {
			t.Errorf("FileName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestChecksums(t *testing.T) {
	hex := strings.Repeat("0f", 32)
	for in, want := range map[string]string{
		"sha256:" + hex: "", "sha384:" + hex + hex[:32]: "", "sha512:" + hex + hex: "", "sha256:" + hex[1:]: "length", "sha256:" + strings.ToUpper(hex): "format",
		"md5:" + hex: "unsupported", hex: "format", "sha256:": "format", "sha256:!": "format", "": "format", "SHA256:" + hex: "format",
	} {
		err := CheckChecksum(in)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

// FuzzParseGit: what is taken can be given to git, is shown without secrets, and
// stays what it is when it is written in the other form.
func FuzzParseGit(f *testing.F) {
	text, err := os.ReadFile("testdata/git.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		source, _, _ := strings.Cut(line, "\t")
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		r, err := ParseGit(source)
		if err != nil || KindOf(source) != Git {
			return
		}
		for _, arg := range []string{r.Remote, r.Ref, r.Commit, r.Subdir} {
			if strings.HasPrefix(arg, "-") && arg != r.Subdir || strings.ContainsAny(arg, "\x00\n") && arg != r.Subdir {
				t.Errorf("%q has %q", source, arg)
			}
		}
		if r.Subdir != "" && (path.Clean(r.Subdir) != r.Subdir || path.IsAbs(r.Subdir) || r.Subdir == ".." || strings.HasPrefix(r.Subdir, "../")) {
			t.Errorf("%q has the folder %q", source, r.Subdir)
		}
		again, err := ParseGit(r.Remote)
		if err != nil || again.Remote != r.Remote || again.Host != r.Host || again.Ref != "" {
			t.Errorf("%q, read again from %q: %+v, %v", source, r.Remote, again, err)
		}
		if u := Redact(r.Remote); Redact(u) != u {
			t.Errorf("Redact(%q) is %q, and again %q", r.Remote, u, Redact(u))
		}
	})
}
