package fetch

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
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

// Hint is the way out that an error has.
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Way
	}
	return ""
}
