package main

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// startRegistry serves an empty registry on the loopback for as long as the
// script runs, and puts its host:port into a variable. With USER:PASSWORD it
// lets nobody else in. What it is asked stands in the file VAR.log; it has
// nothing of which the digest stands in VAR.lost until it is sent that, and of what stands in
// VAR.spoiled the first byte is another.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: registry VAR [USER:PASSWORD]")
	}
	asked, err := os.OpenFile(ts.MkAbs(args[0]+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	ts.Check(err)
	ts.Defer(func() { asked.Close() })
	var one sync.Mutex // who changes VAR.lost
	quiet := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(asked, r.Method, r.URL)
		one.Lock()
		lost, _ := os.ReadFile(ts.MkAbs(args[0] + ".lost"))
		if d := r.URL.Query().Get("digest"); r.Method == http.MethodPut && d != "" && strings.Contains(string(lost), d) {
			lost = []byte(strings.ReplaceAll(string(lost), d, "")) // and has it again
			if err := os.WriteFile(ts.MkAbs(args[0]+".lost"), lost, 0o644); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
		one.Unlock()
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			b, err := io.ReadAll(r.Body)
			if err != nil || names(b, string(lost)) {
				http.Error(w, `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"it names what is not here"}]}`, http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		spoiled, _ := os.ReadFile(ts.MkAbs(args[0] + ".spoiled"))
		switch d := path.Base(r.URL.Path); {
		case strings.HasPrefix(d, "sha256:") && strings.Contains(string(lost), d):
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"it was lost"}]}`, http.StatusNotFound)
			return
		case strings.HasPrefix(d, "sha256:") && strings.Contains(string(spoiled), d):
			w = &spoiler{ResponseWriter: w}
		}
		quiet.ServeHTTP(w, r)
	})
	if len(args) == 2 {
		h = guarded(h, args[1])
	}
	s := httptest.NewServer(h)
	ts.Defer(s.Close)
	ts.Setenv(args[0], strings.TrimPrefix(s.URL, "http://"))
}

// names says whether a manifest names something of a list of digests.
func names(manifest []byte, digests string) bool {
	return slices.ContainsFunc(strings.Fields(digests), func(d string) bool { return bytes.Contains(manifest, []byte(d)) })
}

// spoiler changes the first byte of what is answered.
type spoiler struct {
	http.ResponseWriter
	began bool
}

func (s *spoiler) Write(b []byte) (int, error) {
	if !s.began && len(b) > 0 {
		s.began = true
		b = append([]byte{b[0] ^ 1}, b[1:]...)
	}
	return s.ResponseWriter.Write(b)
}

// loseLayers makes a registry that startRegistry serves lose the layers of a
// reference in it, or spoil them.
func loseLayers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[2] != "lost" && args[2] != "spoiled" {
		ts.Fatalf("usage: layers VAR REPOSITORY:TAG lost|spoiled")
	}
	repo, tag, _ := strings.Cut(args[1], ":")
	resp, err := http.Get("http://" + ts.Getenv(args[0]) + "/v2/" + repo + "/manifests/" + tag)
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	m, err := manifest.Parse(b, resp.Header.Get("Content-Type"))
	ts.Check(err)
	var lost strings.Builder
	for _, l := range m.Manifest.Layers {
		if manifest.IsLayer(l.MediaType) {
			fmt.Fprintln(&lost, l.Digest)
		}
	}
	if lost.Len() == 0 {
		ts.Fatalf("%s has no layers to lose", args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+"."+args[2]), []byte(lost.String()), 0o644))
}

// guarded asks for basic authentication.
func guarded(h http.Handler, keys string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(keys)) == 1 {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
	})
}
