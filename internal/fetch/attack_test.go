package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/address"
)

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
			client.Secret = func(_ context.Context, id string) ([]byte, bool, error) {
				return []byte(c.value), c.secret != "" && id == c.secret, nil
			}
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
