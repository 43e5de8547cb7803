package main

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// serve starts a web server of the files in DIR, on loopback, and sets VAR to
// its URL. What is below a name.git there is served as a git repository. Each
// request is a line "METHOD PATH" in the file VAR.log. With KEYS, values of the
// header Authorization, it lets nobody else in.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: serve VAR DIR [KEYS...]")
	}
	dir := ts.MkAbs(args[1])
	log := requestLog{path: ts.MkAbs(args[0] + ".log")}
	files := http.FileServer(http.Dir(dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.add(r)
		switch key := r.Header.Get("Authorization"); {
		case len(args) > 2 && !slices.ContainsFunc(args[2:], func(k string) bool { return strings.EqualFold(k, key) }):
			w.Header().Set("WWW-Authenticate", `Basic realm="serve"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, ".git/"):
			gitBackend(ts, dir).ServeHTTP(w, r)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}

func gitBackend(ts *testscript.TestScript, dir string) http.Handler {
	out, err := exec.Command("git", "--exec-path").Output()
	ts.Check(err)
	return &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + ts.Getenv("HOME"), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
}

// requestLog is the requests of a server, as a file.
type requestLog struct {
	path string
	mu   sync.Mutex
	text strings.Builder
}

func (l *requestLog) add(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s %s\n", r.Method, r.URL.Path)
	// A request whose line is lost shows as one that was not made.
	_ = os.WriteFile(l.path, []byte(l.text.String()), 0o644)
}
