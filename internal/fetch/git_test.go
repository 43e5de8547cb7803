package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/store"
)

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

func TestAttack22SubdirsAreRealFolders(t *testing.T) {
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
