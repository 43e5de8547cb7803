package fetch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/store"
)

// forge is a folder of repositories and a server for them.
type forge struct {
	t    *testing.T
	dir  string
	url  string
	user string // "user:password" that the server wants
	old  bool   // it knows the first version of the protocol only

	mu   sync.Mutex
	seen []string // requests
}

func newForge(t *testing.T) *forge {
	t.Helper()
	backend := filepath.Join(strings.TrimSpace(string(output(t, t.TempDir(), "--exec-path"))), "git-http-backend")
	f := &forge{t: t, dir: t.TempDir()}
	h := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + f.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + f.dir,
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		if user, password, _ := r.BasicAuth(); f.user != "" && user+":"+password != f.user {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if f.old {
			r.Header.Del("Git-Protocol")
		}
		if path, ok := strings.CutPrefix(r.URL.Path, "/dumb/"); ok {
			http.ServeFile(w, r, filepath.Join(f.dir, path))
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

// requests returns and forgets what the server was asked.
func (f *forge) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.seen
	f.seen = nil
	return out
}

func output(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=n", "GIT_AUTHOR_EMAIL=e", "GIT_COMMITTER_NAME=n", "GIT_COMMITTER_EMAIL=e",
		"GIT_AUTHOR_DATE=2005-04-07T22:13:13Z", "GIT_COMMITTER_DATE=2005-04-07T22:13:13Z"}
	out, err := cmd.Output()
	if err != nil {
		var x *exec.ExitError
		if errors.As(err, &x) {
			t.Fatalf("git %s: %v\n%s", args, err, x.Stderr)
		}
		t.Skipf("git is not there: %v", err)
	}
	return out
}

// repo makes a repository of commits, each the files that it adds; the name is
// below the forge's address.
func (f *forge) repo(name string, commits ...map[string]string) (dir string) {
	f.t.Helper()
	dir = filepath.Join(f.dir, name)
	output(f.t, f.dir, "init", "-q", dir)
	for i, files := range commits {
		f.commit(dir, fmt.Sprint(i), files)
	}
	return dir
}

func (f *forge) commit(dir, message string, files map[string]string) string {
	f.t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "-> "); ok {
			if err := os.Symlink(to, path); err != nil {
				f.t.Fatal(err)
			}
			continue
		}
		mode := os.FileMode(0o600)
		if strings.HasPrefix(text, "#!") {
			mode = 0o700
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			f.t.Fatal(err)
		}
	}
	output(f.t, dir, "add", "-A")
	output(f.t, dir, "commit", "-q", "--allow-empty", "-m", message)
	output(f.t, dir, "update-server-info")
	return f.id(dir, "HEAD")
}

func (f *forge) id(dir, ref string) string {
	return strings.TrimSpace(string(output(f.t, dir, "rev-parse", ref)))
}

func (f *forge) address(path string) address.Repo {
	f.t.Helper()
	r, err := address.ParseGit(f.url + "/" + path)
	if err != nil {
		f.t.Fatal(err)
	}
	return *r
}

func (f *forge) get(c *Client, path string, o GitOptions) *Tree {
	f.t.Helper()
	tree, err := c.Git(f.t.Context(), f.address(path), o)
	if err != nil {
		f.t.Fatalf("%s: %v", path, err)
	}
	return tree
}

// listed is the files of a tree, one a line: mode, path and content or target.
func listed(t *testing.T, c *Client, tree *Tree) string {
	t.Helper()
	v, err := layer.OpenTar(c.Store.LayerDir(tree.Layer), filepath.Join(c.Store.LayerDir(tree.Layer), layer.IndexName))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var b strings.Builder
	err = entry.Walk(v, ".", func(e entry.Entry) error {
		if strings.HasPrefix(e.Path, ".git/") {
			return nil
		}
		text := e.Link
		if e.Kind == entry.File {
			r, err := v.Open(e.Path)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			text = fmt.Sprintf("%q", b)
		}
		fmt.Fprintf(&b, "%04o %d:%d %s %s\n", e.Mode, e.UID, e.GID, e.Path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRefsAreFoundAsTheReferenceFindsThem(t *testing.T) {
	f := newForge(t)
	dir := f.repo("r.git", map[string]string{"f": "one"})
	one := f.id(dir, "HEAD")
	output(t, dir, "branch", "old")
	output(t, dir, "tag", "light")
	output(t, dir, "tag", "both")
	output(t, dir, "update-ref", "refs/pull/1/head", "HEAD")
	two := f.commit(dir, "2", map[string]string{"f": "two"})
	output(t, dir, "tag", "-a", "-m", "m", "heavy")
	heavy := f.id(dir, "heavy")
	output(t, dir, "branch", "both")
	between := f.commit(dir, "between", map[string]string{"f": "between"})
	three := f.commit(dir, "3", map[string]string{"f": "three"})
	c := newClient(t)
	for path, want := range map[string]string{
		"":                                    three,
		"#main":                               three,
		"?branch=old":                         one,
		"#heads/old":                          one,
		"#refs/heads/old":                     one,
		"#light":                              one,
		"?tag=heavy":                          two,
		"#heavy":                              two,
		"#both":                               two, // a branch before a tag
		"?tag=both":                           one,
		"#pull/1/head":                        one,
		"#" + one:                             one,
		"#" + heavy:                           two,
		"?commit=" + three[:7]:                three,
		"?checksum=" + heavy + "&tag=heavy":   two,
		"?checksum=" + two[:9] + "&tag=heavy": two,
		"?commit=" + one + "&fetch-by-commit=true":         one,
		"?commit=" + two + "&fetch-by-commit=1&branch=old": two,
	} {
		for range 2 { // the second time from the store
			tree := f.get(c.again(), "r.git"+path, GitOptions{})
			if tree.Commit != want || tree.Time.Unix() != 1112911993 {
				t.Errorf("%s: commit %s of %v, want %s", path, tree.Commit, tree.Time, want)
			}
			text := map[string]string{one: "one", two: "two", three: "three"}[want]
			if got := listed(t, c, tree); got != fmt.Sprintf("0755 0:0 . \n0644 0:0 f %q\n", text) {
				t.Errorf("%s: files\n%s", path, got)
			}
		}
	}
	// A server of the first protocol gives no commit that no branch is at.
	f.old = true
	if tree := f.get(newClient(t), "r.git#"+between, GitOptions{}); tree.Commit != between {
		t.Errorf("from an old server: %s", tree.Commit)
	}
	f.old = false
	if got := f.get(newClient(t), "dumb/r.git/.git#light", GitOptions{}).Commit; got != one {
		t.Errorf("without a protocol: %s", got)
	}
}

func TestGitErrorsSayWhatToDo(t *testing.T) {
	f := newForge(t)
	dir := f.repo("r.git", map[string]string{"f": "one"})
	one := f.id(dir, "HEAD")
	two := f.commit(dir, "2", map[string]string{"f": "two"})
	absent := strings.Repeat("ab", 20)
	for path, want := range map[string][2]string{
		"r.git#nope":                            {"repository does not contain ref nope", "pushed"},
		"r.git?branch=HEAD":                     {"repository does not contain ref refs/heads/HEAD", "pushed"},
		"r.git#HEAD":                            {"repository does not contain ref HEAD", "pushed"},
		"r.git#" + one[:8]:                      {"repository does not contain ref " + one[:8], "whole id"},
		"r.git#" + absent:                       {"", ""},
		"r.git?commit=" + one:                   {"expected checksum to match " + one + ", got " + two, "another commit"},
		"r.git?ref=" + one + "&commit=" + two:   {"expected checksum to match " + two + ", got " + one, "another commit"},
		"r.git?commit=abc&fetch-by-commit=true": {"fetch-by-commit requires a full commit", "whole commit id"},
		"r.git?fetch-by-commit=true":            {"fetch-by-commit requires a checksum", "whole commit id"},
		"none.git":                              {"not found", "git clone"},
	} {
		_, err := newClient(t).Git(t.Context(), f.address(path), GitOptions{})
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Msg, want[0]) || !strings.Contains(e.Way, want[1]) || !strings.HasPrefix(e.What, f.url) {
			t.Errorf("%s: %v\n%+v", path, err, e)
		}
	}
	c := newClient(t)
	c.GitProgram = "no-such-git"
	_, err := c.Git(t.Context(), f.address("r.git"), GitOptions{})
	if err == nil || !strings.Contains(err.Error(), "needs the program git") {
		t.Errorf("without git: %v", err)
	}
	r, err := address.ParseGit("git@127.0.0.1:r.git")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t).Git(t.Context(), *r, GitOptions{}); err == nil || !strings.Contains(err.Error(), `no SSH key "default"`) {
		t.Errorf("ssh without an agent: %v", err)
	}
}

func TestCommitThatIsKnownIsNotFetchedAgain(t *testing.T) {
	f := newForge(t)
	dir := f.repo("r.git", map[string]string{"f": "one", "d/g": "two"})
	c := newClient(t)
	first := f.get(c, "r.git", GitOptions{})
	f.requests()
	if again := f.get(c, "r.git#:d", GitOptions{}); again.Layer != first.Layer || again.Subdir != "d" {
		t.Errorf("%+v, not %+v", again, first)
	}
	if got := f.requests(); got != nil {
		t.Errorf("the same build asks again: %q", got)
	}
	f.get(c.again(), "r.git", GitOptions{})
	if got := f.requests(); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "GET") }) || len(got) > 2 {
		t.Errorf("a later build does more than to look the branch up: %q", got)
	}
	f.get(c.again(), "r.git#"+f.id(dir, "HEAD"), GitOptions{})
	if got := f.requests(); got != nil {
		t.Errorf("a commit is looked up: %q", got)
	}
}

func TestCheckoutIsThatOfTheCommit(t *testing.T) {
	f := newForge(t)
	inner := f.repo("inner.git", map[string]string{"deep": "deep"})
	sub := f.repo("sub.git", map[string]string{"s": "sub"})
	output(t, sub, "submodule", "add", "-q", inner, "in")
	output(t, sub, "config", "-f", ".gitmodules", "submodule.in.url", "../inner.git")
	f.commit(sub, "with one", nil)
	dir := f.repo("r.git", map[string]string{"x": "#!/bin/sh\n", "d/f": "text", "l": "-> /etc/passwd"})
	output(t, dir, "submodule", "add", "-q", sub, "mod")
	output(t, dir, "config", "-f", ".gitmodules", "submodule.mod.url", "../sub.git")
	f.commit(dir, "with submodules", nil)
	const own = `0755 0:0 . 
0644 0:0 .gitmodules "[submodule \"mod\"]\n\tpath = mod\n\turl = ../sub.git\n"
0755 0:0 d 
0644 0:0 d/f "text"
0777 0:0 l /etc/passwd
0755 0:0 mod 
`
	const theirs = `0644 0:0 mod/.gitmodules "[submodule \"in\"]\n\tpath = in\n\turl = ../inner.git\n"
0755 0:0 mod/in 
0644 0:0 mod/in/deep "deep"
0644 0:0 mod/s "sub"
`
	const last = "0755 0:0 x \"#!/bin/sh\\n\"\n"
	c := newClient(t)
	if got := listed(t, c, f.get(c, "r.git", GitOptions{})); got != own+theirs+last {
		t.Errorf("got\n%swant\n%s", got, own+theirs+last)
	}
	if got := listed(t, c, f.get(c, "r.git?submodules=false", GitOptions{})); got != own+last {
		t.Errorf("without submodules:\n%s", got)
	}
}

func TestGitDirThatIsKeptIsARepository(t *testing.T) {
	f := newForge(t)
	f.user = "me:sesame"
	dir := f.repo("r.git", map[string]string{"f": "one"})
	output(t, dir, "tag", "-a", "-m", "m", "heavy")
	url := f.url
	f.url = strings.Replace(f.url, "//", "//me:sesame@", 1)
	for path, refs := range map[string]string{
		"r.git":                      "refs/heads/main",
		"r.git?tag=heavy":            "refs/tags/heavy",
		"r.git#" + f.id(dir, "HEAD"): "",
	} {
		c := newClient(t)
		tree := f.get(c, path, GitOptions{KeepGitDir: true})
		if again := f.get(newClient(t), path, GitOptions{KeepGitDir: true}); again.Identity != tree.Identity || tree.Identity.IsZero() {
			t.Errorf("%s: identity %s, then %s", path, tree.Identity, again.Identity)
		}
		to := t.TempDir()
		if out, err := exec.Command("tar", "-xf", filepath.Join(c.Store.LayerDir(tree.Layer), layer.TarName), "-C", to).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		for _, q := range []struct{ want, args string }{
			{"", "status --porcelain"},
			{tree.Commit, "rev-parse HEAD"},
			{refs, "for-each-ref --format=%(refname)"},
			{url + "/r.git", "config remote.origin.url"},
			{"", "fsck --no-progress"},
		} {
			if got := strings.TrimSpace(string(output(t, to, strings.Fields(q.args)...))); got != q.want {
				t.Errorf("%s: git %s: %q, want %q", path, q.args, got, q.want)
			}
		}
		if out, _ := exec.Command("grep", "-ra", "sesame", to).Output(); len(out) > 0 {
			t.Errorf("%s: the password is kept: %.200s", path, out)
		}
	}
	for _, path := range []string{"r.git#:d", "r.git?subdir=d"} {
		if sub := f.get(newClient(t), path, GitOptions{KeepGitDir: true}); !sub.Identity.IsZero() {
			t.Errorf("%s: .git is kept below a subdir", path)
		}
	}
}

func TestSubdirsAreRealFolders(t *testing.T) {
	f := newForge(t)
	f.repo("r.git", map[string]string{"d/e/f": "", "l": "-> d", "out": "-> /etc"})
	c := newClient(t)
	for subdir, want := range map[string]string{
		"": "", "d": "", "d/e": "", "../../d": "", "l": `non-directory "l"`, "out/ssl": `non-directory "out"`, "l/e": `non-directory "l"`,
		"d/e/f": `non-directory "d/e/f"`, "none/x": `"none" is not in the repository`,
	} {
		repo := f.address("r.git#:" + subdir)
		tree, err := c.Git(t.Context(), repo, GitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		v, err := layer.OpenTar(c.Store.LayerDir(tree.Layer), filepath.Join(c.Store.LayerDir(tree.Layer), layer.IndexName))
		if err != nil {
			t.Fatal(err)
		}
		err = tree.CheckSubdir(v, &repo)
		v.Close()
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", subdir, err, want)
		}
	}
}

func TestTimesOfFiles(t *testing.T) {
	f := newForge(t)
	f.repo("r.git", map[string]string{"f": "one"})
	c := newClient(t)
	c.Now = func() time.Time { return time.Unix(5000, 0) }
	for path, want := range map[string]int64{"r.git": 5000, "r.git?mtime=checkout": 5000, "r.git?mtime=commit": 1112911993} {
		tree := f.get(c, path, GitOptions{})
		v, err := layer.OpenTar(c.Store.LayerDir(tree.Layer), filepath.Join(c.Store.LayerDir(tree.Layer), layer.IndexName))
		if err != nil {
			t.Fatal(err)
		}
		e, err := v.Lstat("f")
		v.Close()
		if err != nil || e.Mtime.Sec != want {
			t.Errorf("%s: %+v %v, want %d", path, e.Mtime, err, want)
		}
	}
}

func TestGitCredentials(t *testing.T) {
	f := newForge(t)
	sub := f.repo("sub.git", map[string]string{"s": "sub"})
	dir := f.repo("r.git", map[string]string{"f": "one"})
	output(t, dir, "submodule", "add", "-q", sub, "mod")
	output(t, dir, "config", "-f", ".gitmodules", "submodule.mod.url", "../sub.git")
	f.commit(dir, "with a submodule", nil)
	host := strings.TrimPrefix(f.url, "http://")
	log := filepath.Join(t.TempDir(), "commands")
	spy := filepath.Join(t.TempDir(), "git")
	script := "#!/bin/sh\necho \"$@\" >> " + log + "\nexec git \"$@\"\n"
	if err := os.WriteFile(spy, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	plain := f.url
	for name, c := range map[string]struct {
		user, url, secret, value string
		path                     string
	}{
		"url":               {"me:sesame", strings.Replace(plain, "//", "//me:sesame@", 1), "", "", "r.git"},
		"token":             {"x-access-token:sesame", plain, "GIT_AUTH_TOKEN", "sesame\n", "r.git?submodules=0"},
		"token of the host": {"x-access-token:sesame", plain, "GIT_AUTH_TOKEN." + host, "sesame", "r.git?submodules=0"},
		"header":            {"me:sesame", plain, "GIT_AUTH_HEADER." + host, basic("me:sesame"), "r.git?submodules=0"},
	} {
		t.Run(name, func(t *testing.T) {
			f.user, f.url = c.user, c.url
			client := newClient(t)
			client.GitProgram = spy
			client.Environ = os.Environ()
			client.Secret = func(id string) ([]byte, bool, error) { return []byte(c.value), c.secret != "" && id == c.secret, nil }
			f.get(client, c.path, GitOptions{})
			// Another's token is no use, and its server does not see it.
			f.user = "nobody:nothing"
			_, err := client.again().Git(t.Context(), f.address(c.path), GitOptions{})
			if err == nil || !strings.Contains(Hint(err), "GIT_AUTH_TOKEN") || strings.Contains(err.Error(), "sesame") {
				t.Errorf("wrong credentials: %v, hint %q", err, Hint(err))
			}
			out, _ := exec.Command("grep", "-ra", "-e", "sesame", "-e", strings.TrimPrefix(basic(c.user), "basic "), client.Store.Dir()).Output()
			if len(out) > 0 {
				t.Errorf("the store has the password: %.300s", out)
			}
		})
	}
	commands, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(commands), "fetch") || strings.Contains(string(commands), "sesame") {
		t.Errorf("command lines: %v\n%s", err, commands)
	}
}

// Hint is the way out that an error has.
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Way
	}
	return ""
}

func TestAttack21NothingIsTakenForAnOption(t *testing.T) {
	for _, source := range []string{
		"ssh://-oProxyCommand=x/r.git", "ssh://-l@host/r.git", "-oProxyCommand@host:r.git", "git@host:-r.git", "git@-host:r.git",
		"https://host/r.git#--upload-pack=x", "https://host/r.git?ref=-x", "https://host/r.git?ref=a..b", "https://host/r.git?ref=*",
		"https://host/r.git?ref=a%0ab", "https://host/r.git?commit=--x", "git://host/r.git#a~1", "git:///r.git",
	} {
		if r, err := address.ParseGit(source); err == nil {
			t.Errorf("%s: taken as %+v", source, r)
		}
	}
	// Names and ids that a server makes up.
	id := strings.Repeat("a", 40)
	for _, out := range []string{
		"ref: --upload-pack=x\tHEAD\n" + id + "\tHEAD\n", "ref: refs/heads/a..b\tHEAD\n" + id + "\tHEAD\n", "ref: refs/heads/main\tHEAD\n-x\tHEAD\n", "",
	} {
		if p, err := defaultBranch(out); err == nil {
			t.Errorf("%q: %+v", out, p)
		}
	}
	if p, err := pick("--x\trefs/heads/main\n", "main"); err == nil {
		t.Errorf("%+v", p)
	}
}

func TestAttack23SubmodulesComeFromServersOnly(t *testing.T) {
	f := newForge(t)
	canary := f.repo("canary.git", map[string]string{"canary": "secret"})
	ran := filepath.Join(t.TempDir(), "ran")
	for _, url := range []string{canary, "file://" + canary, "ext::touch " + ran, "-u./x"} {
		dir := f.repo(fmt.Sprintf("%x.git", url), map[string]string{"f": "one"})
		output(t, dir, "submodule", "add", "-q", canary, "mod")
		output(t, dir, "config", "-f", ".gitmodules", "submodule.mod.url", url)
		f.commit(dir, "evil", nil)
		c := newClient(t)
		tree, err := c.Git(t.Context(), f.address(filepath.Base(dir)), GitOptions{})
		if err == nil && strings.Contains(listed(t, c, tree), "canary") {
			t.Errorf("%s was read", url)
		}
		if _, err := os.Lstat(ran); err == nil {
			t.Errorf("%s was run", url)
		}
	}
}

func TestAttack23NothingOfARepositoryRuns(t *testing.T) {
	f := newForge(t)
	ran := filepath.Join(t.TempDir(), "ran")
	home := t.TempDir()
	config := fmt.Sprintf("[core]\n\thooksPath = %s/hooks\n\tfsmonitor = touch %s\n[filter \"x\"]\n\tsmudge = touch %s; cat\n", home, ran, ran)
	if err := os.Mkdir(filepath.Join(home, "hooks"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".gitconfig": config, "hooks/post-checkout": "#!/bin/sh\ntouch " + ran + "\n"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	f.repo("r.git", map[string]string{"f": "one", ".gitattributes": "* filter=x", ".gitmodules": "[submodule \"m\"]\n\tpath = m\n\turl = x\n\tupdate = !touch " + ran + "\n"})
	for _, keep := range []bool{false, true} {
		c := newClient(t)
		c.Environ = append(os.Environ(), "GIT_TEMPLATE_DIR="+home, "GIT_EXTERNAL_DIFF=touch "+ran)
		f.get(c, "r.git", GitOptions{KeepGitDir: keep})
	}
	if _, err := os.Lstat(ran); err == nil {
		t.Error("a program of the machine's configuration, or of the repository, ran")
	}
}

func TestSubmodulesInEachOtherEnd(t *testing.T) {
	f := newForge(t)
	last := f.repo("m0.git", map[string]string{"f": "one"})
	for i := 1; i <= maxNesting+1; i++ {
		dir := f.repo(fmt.Sprintf("m%d.git", i), map[string]string{"f": "one"})
		tip := f.id(last, "HEAD")
		output(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+tip+",m")
		if err := os.WriteFile(filepath.Join(dir, ".gitmodules"), fmt.Appendf(nil, "[submodule \"m\"]\n\tpath = m\n\turl = ../%s\n", filepath.Base(last)), 0o600); err != nil {
			t.Fatal(err)
		}
		output(t, dir, "add", ".gitmodules")
		output(t, dir, "commit", "-q", "-m", "m")
		last = dir
	}
	_, err := newClient(t).Git(t.Context(), f.address(filepath.Base(last)), GitOptions{})
	if err == nil || !strings.Contains(err.Error(), "in each other") {
		t.Errorf("%v", err)
	}
}

func TestBombOfFoldersIsRefused(t *testing.T) {
	f := newForge(t)
	dir := f.repo("r.git", map[string]string{"f": ""})
	tree := strings.TrimSpace(string(output(t, dir, "write-tree")))
	for range 5 {
		var list strings.Builder
		for i := range 32 {
			fmt.Fprintf(&list, "040000 tree %s\td%02d\n", tree, i)
		}
		name := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(name, []byte(list.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", "git -C '"+dir+"' mktree < '"+name+"'").Output()
		if err != nil {
			t.Fatal(err)
		}
		tree = strings.TrimSpace(string(out))
	}
	commit := strings.TrimSpace(string(output(t, dir, "commit-tree", "-m", "bomb", tree)))
	output(t, dir, "update-ref", "refs/heads/bomb", commit)
	_, err := newClient(t).Git(t.Context(), f.address("r.git#bomb"), GitOptions{})
	if err == nil || !strings.Contains(err.Error(), "more than 4194304 files") {
		t.Errorf("%v", err)
	}
}

func TestSSHSeesTheAgentAndNothingElse(t *testing.T) {
	f := newForge(t)
	dir := f.repo("r.git", map[string]string{"f": "one"})
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	script := `#!/bin/sh
test -S "$SSH_AUTH_SOCK" && echo agent >>` + log + `
echo "$@" | tr ' ' '\n' >>` + log + `
for last; do :; done
exec sh -c "$last"
`
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	served, ended := 0, 0
	c := newClient(t)
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh/known_hosts"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Environ = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "SSH_AUTH_SOCK=/mine", "HOME=" + home}
	c.SSH = func(id string) (func(net.Listener), bool) {
		return func(l net.Listener) {
			served++
			_, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				ended++
			}
		}, id == "default"
	}
	repo, err := address.ParseGit("ssh://git:secret@example.com" + dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := c.Git(t.Context(), *repo, GitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := listed(t, c, tree); got != "0755 0:0 . \n0644 0:0 f \"one\"\n" {
		t.Errorf("files\n%s", got)
	}
	said, err := os.ReadFile(log)
	for _, want := range []string{"agent\n", "-F\n/dev/null\n", "IdentityFile=none\n", "BatchMode=yes\n", "UserKnownHostsFile=/dev/null\n" + home + "/.ssh/known_hosts\n", "git@example.com\n"} {
		if err != nil || !strings.Contains(string(said), want) {
			t.Errorf("ssh is not given %q: %v\n%s", want, err, said)
		}
	}
	if strings.Contains(string(said), "secret") {
		t.Errorf("ssh is given the password:\n%s", said)
	}
	if served == 0 || ended != served {
		t.Errorf("agents served %d, ended %d", served, ended)
	}
}

func TestTwoProcessesFetchOnce(t *testing.T) {
	f := newForge(t)
	f.repo("r.git", map[string]string{"f": "one"})
	var bodies atomic.Int32
	url, _ := served(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		bodies.Add(1)
		fmt.Fprint(w, "hello")
	})
	first := newClient(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.Open(first.Store.Dir(), store.Options{Owner: first.Store.Owner()})
			if err != nil {
				t.Error(err)
				return
			}
			c := &Client{Store: s}
			if _, err := c.Git(t.Context(), f.address("r.git"), GitOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := c.HTTP(t.Context(), Download{URL: url}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fetches := 0
	for _, r := range f.requests() {
		if strings.HasPrefix(r, "POST") {
			fetches++
		}
	}
	// Each looks the branch up with one, and the first fetches with two.
	if fetches > 4+2 || bodies.Load() != 1 {
		t.Errorf("%d requests to git, %d bodies", fetches, bodies.Load())
	}
}

func TestOldGitIsRefused(t *testing.T) {
	for out, want := range map[string]bool{
		"git version 2.30.9\n": false, "git version 1.9.1": false, "git version 2.31.0": true, "git version 2.39.5 (Apple Git-154)": true, "git version 3.0.0": true, "git version unknown": true,
	} {
		if err := checkVersion(out); (err == nil) != want {
			t.Errorf("%q: %v", out, err)
		}
	}
	old := filepath.Join(t.TempDir(), "git")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho git version 2.20.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := newForge(t)
	for _, path := range []string{"r.git", "r.git#" + strings.Repeat("a", 40)} {
		c := newClient(t)
		c.GitProgram = old
		_, err := c.Git(t.Context(), f.address(path), GitOptions{})
		if err == nil || !strings.Contains(err.Error(), "r.git") || !strings.Contains(err.Error(), "too old: 2.20") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
