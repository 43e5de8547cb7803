package suite

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A server gives a case's files and git repositories on the loopback.
type server struct {
	listener net.Listener
	server   *http.Server
}

// serve serves the files of www under / and the repositories of git under
// /git/. Files have their mtime as Last-Modified and an ETag.
func serve(www, git string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", files(www))
	backend, err := exec.LookPath("git")
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	mux.Handle("/git/", &cgi.Handler{
		Path: backend, Args: []string{"http-backend"}, Root: "/git", Stderr: nullWriter{},
		Env: []string{"GIT_PROJECT_ROOT=" + git, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=uploadpack.allowAnySHA1InWant", "GIT_CONFIG_VALUE_0=true",
			"GIT_CONFIG_KEY_1=safe.directory", "GIT_CONFIG_VALUE_1=*"},
	})
	s := &server{listener: l, server: &http.Server{Handler: mux}}
	go func() { _ = s.server.Serve(l) }() // ends with close
	return s, nil
}

type nullWriter struct{}

func (nullWriter) Write(p []byte) (int, error) { return len(p), nil }

func files(www string) http.Handler {
	plain := http.FileServer(http.Dir(www))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if st, err := os.Stat(filepath.Join(www, filepath.FromSlash(strings.TrimPrefix(r.URL.Path, "/")))); err == nil {
			w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, st.ModTime().Unix(), st.Size()))
		}
		plain.ServeHTTP(w, r)
	})
}

func (s *server) host() string { return s.listener.Addr().String() }
func (s *server) http() string { return "http://" + s.host() }
func (s *server) git() string  { return s.http() + "/git" }

func (s *server) close() error { return s.server.Close() }
