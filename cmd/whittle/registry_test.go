package main

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// startRegistry serves an empty registry on the loopback for as long as the
// script runs, and puts its host:port into a variable: Debian's, where that is
// installed, else one of this process. With USER:PASSWORD it lets nobody else in,
// and with <token>:SECRET only who has exchanged that identity token for a token.
// What it is asked stands in the file VAR.log; it has nothing of which the digest
// stands in VAR.lost until it is sent that, and of what stands in VAR.spoiled the
// first byte is another. With tls it has a certificate, which is in VAR.crt; with mutual
// it also wants to be shown that, whose key is in VAR.key.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 3 {
		ts.Fatalf("usage: registry VAR [USER:PASSWORD] [tls|mutual]")
	}
	mutual := args[len(args)-1] == "mutual"
	secure := mutual || args[len(args)-1] == "tls"
	if secure {
		args = args[:len(args)-1]
	}
	asked, err := os.OpenFile(ts.MkAbs(args[0]+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	ts.Check(err)
	ts.Defer(func() { asked.Close() })
	var h http.Handler = &faulty{good: registryHandler(ts, args[0]), asked: asked, lost: ts.MkAbs(args[0] + ".lost"), spoiled: ts.MkAbs(args[0] + ".spoiled"), short: ts.MkAbs(args[0] + ".short")}
	if len(args) == 2 {
		if secret, is := strings.CutPrefix(args[1], "<token>:"); is {
			h = exchanging(h, secret)
		} else {
			h = guarded(h, args[1])
		}
	}
	s := httptest.NewUnstartedServer(h)
	if mutual {
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, VerifyPeerCertificate: func(shown [][]byte, _ [][]*x509.Certificate) error {
			if !bytes.Equal(shown[0], s.Certificate().Raw) {
				return errors.New("another certificate")
			}
			return nil
		}}
	}
	if secure {
		s.StartTLS()
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".crt"), ca, 0o644))
		key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	} else {
		s.Start()
	}
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.Listener.Addr().String())
}

// registryHandler leads to an empty registry.
func registryHandler(ts *testscript.TestScript, name string) http.Handler {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	host := l.Addr().String()
	ts.Check(l.Close())
	dir := ts.MkAbs("." + name)
	ts.Check(os.Mkdir(dir, 0o755))
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", dir, host)
	ts.Check(os.WriteFile(config, []byte(text), 0o644))
	cmd := exec.Command(program, "serve", config)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 500 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("docker-registry does not answer on %s", host)
	return nil
}

// faulty is a registry that may have lost something.
type faulty struct {
	good          http.Handler
	asked         io.Writer
	lost, spoiled string // files of digests
	short         string // and of those of which only the first 9 MB come

	mu sync.Mutex // who reads and changes lost
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(f.asked, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL, " ", r.Header.Get("Range"))))
	lost := f.losses(r)
	spoiled, _ := os.ReadFile(f.spoiled)
	short, _ := os.ReadFile(f.short)
	switch d := path.Base(r.URL.Path); {
	case strings.HasPrefix(d, "sha256:") && strings.Contains(lost, d):
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"it was lost"}]}`, http.StatusNotFound)
		return
	case strings.HasPrefix(d, "sha256:") && strings.Contains(string(spoiled), d):
		w = &spoiler{ResponseWriter: w}
	case r.Method == http.MethodGet && strings.HasPrefix(d, "sha256:") && strings.Contains(string(short), d):
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w = &shortener{w, 9<<20 - from}
	case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
		b, err := io.ReadAll(r.Body)
		if err != nil || names(b, lost) {
			http.Error(w, `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"it names what is not here"}]}`, http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
	}
	f.good.ServeHTTP(w, r)
}

// losses are the digests that are lost. One that is sent is there again.
func (f *faulty) losses(r *http.Request) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, _ := os.ReadFile(f.lost)
	d := r.URL.Query().Get("digest")
	if r.Method != http.MethodPut || d == "" || !bytes.Contains(b, []byte(d)) {
		return string(b)
	}
	b = bytes.ReplaceAll(b, []byte(d), nil)
	if err := os.WriteFile(f.lost, b, 0o644); err != nil {
		panic(err)
	}
	return string(b)
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

// shortener breaks the connection after so many bytes.
type shortener struct {
	http.ResponseWriter
	left int
}

func (s *shortener) Write(b []byte) (int, error) {
	n := min(len(b), max(s.left, 0))
	if _, err := s.ResponseWriter.Write(b[:n]); err != nil {
		return 0, err
	}
	if s.left -= n; n < len(b) {
		s.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// loseLayers makes a registry that startRegistry serves lose the layers of a
// reference in it, or spoil them.
func loseLayers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[2] != "lost" && args[2] != "spoiled" && args[2] != "short" {
		ts.Fatalf("usage: layers VAR REPOSITORY:TAG lost|spoiled|short")
	}
	repo, tag, _ := strings.Cut(args[1], ":")
	req, err := http.NewRequest(http.MethodGet, "http://"+ts.Getenv(args[0])+"/v2/"+repo+"/manifests/"+tag, nil)
	ts.Check(err)
	req.Header.Set("Accept", manifest.OCIManifest)
	resp, err := http.DefaultClient.Do(req)
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

// exchanging gives a token for an identity token (distribution's "OAuth2 token
// authentication"), and lets in who has that.
func exchanging(h http.Handler, secret string) http.Handler {
	token := rand.Text()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token" && r.Method == http.MethodPost && r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == secret:
			fmt.Fprintf(w, `{"access_token":%q}`, token)
		case r.URL.Path != "/token" && r.Header.Get("Authorization") == "Bearer "+token:
			h.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, r.Host))
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		}
	})
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
