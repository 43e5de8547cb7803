package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// configFile writes a docker config and returns a keychain of it.
func configFile(t *testing.T, text string) Keychain {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Keychain{Files: []string{"/does/not/exist.json", file}}
}

func auth(user string) string { return base64.StdEncoding.EncodeToString([]byte(user + ":secret")) }

func TestAttack34_CredentialsMatchTheirHostExactly(t *testing.T) {
	k := configFile(t, `{"auths": {
		"example.com": {"auth": "`+auth("plain")+`"},
		"example.com:8443": {"auth": "`+auth("port")+`"},
		"https://old.example.org/v1/": {"auth": "`+auth("old")+`"},
		"https://index.docker.io/v1/": {"auth": "`+auth("hub")+`"},
		"quay.example/team": {"auth": "`+auth("team")+`"},
		"quay.example/team/app": {"auth": "`+auth("app")+`"},
		"127.0.0.1:5000": {"identitytoken": "it"}
	}}`)
	tests := []struct{ domain, path, user string }{
		{"example.com", "a/b", "plain"},
		{"EXAMPLE.com", "a/b", "plain"},
		{"example.com:8443", "a/b", "port"},
		{"example.com:443", "a/b", ""},
		{"example.com.evil.org", "a/b", ""},
		{"evil-example.com", "a/b", ""},
		{"sub.example.com", "a/b", ""},
		{"example.co", "a/b", ""},
		{"old.example.org", "a", "old"},
		{"docker.io", "library/x", "hub"},
		{"index.docker.io.evil.org", "library/x", ""},
		{"docker.io.evil.org", "library/x", ""},
		{"quay.example", "team/app", "app"},
		{"quay.example", "team/app/x", "app"},
		{"quay.example", "team/apple", "team"},
		{"quay.example", "team", "team"},
		{"quay.example", "teammate/x", ""},
		{"quay.example", "other", ""},
	}
	for _, tt := range tests {
		got, err := k.For(t.Context(), tt.domain, tt.path)
		if err != nil || got.Username != tt.user || tt.user != "" && got.Password != "secret" {
			t.Errorf("%s/%s: %q, %v, want %q", tt.domain, tt.path, got.Username, err, tt.user)
		}
	}
	if got, err := k.For(t.Context(), "127.0.0.1:5000", "x"); err != nil || got.IdentityToken != "it" {
		t.Errorf("identity token: %+v, %v", got, err)
	}
}

func TestAHostThatIsFiledTwiceHasOneCredential(t *testing.T) {
	k := configFile(t, `{"auths": {
		"index.docker.io": {"auth": "`+auth("b")+`"}, "docker.io": {"auth": "`+auth("a")+`"},
		"https://index.docker.io/v1/": {"auth": "`+auth("hub")+`"},
		"http://example.com": {"auth": "`+auth("http")+`"}, "https://example.com/v2/": {"auth": "`+auth("v2")+`"},
		"EXAMPLE.org": {"auth": "`+auth("upper")+`"}, "example.org": {"auth": "`+auth("own")+`"}
	}}`)
	for range 20 { // each time in another order of the map
		for domain, want := range map[string]string{"docker.io": "hub", "example.com": "http", "example.org": "own"} {
			got, err := k.For(t.Context(), domain, "x")
			if err != nil || got.Username != want {
				t.Fatalf("%s: %q, %v, want %q", domain, got.Username, err, want)
			}
		}
	}
}

func TestHelpersAreAskedInDockersOrder(t *testing.T) {
	k := configFile(t, `{"auths": {"a.example": {"auth": "`+auth("file")+`"}, "none.example": {"auth": "`+auth("fallback")+`"}},
		"credHelpers": {"ecr.example": "ecr-login"}, "credsStore": "desktop"}`)
	var asked []string
	k.Helper = func(_ context.Context, name, input string) ([]byte, error) {
		asked = append(asked, name+" "+input)
		switch input {
		case "none.example", "nobody.example":
			return []byte("credentials not found in native keychain\n"), errors.New("exit status 1")
		case "broken.example":
			return []byte("panic"), errors.New("exit status 2")
		case "token.example":
			return []byte(`{"ServerURL":"x","Username":"<token>","Secret":"it"}`), nil
		}
		return fmt.Appendf(nil, `{"Username":"%s","Secret":"s"}`, name), nil
	}
	tests := []struct {
		domain, want, asked string
	}{
		{"ecr.example", "ecr-login", "ecr-login ecr.example"},
		{"ecr.example.evil.org", "desktop", "desktop ecr.example.evil.org"},
		{"a.example", "desktop", "desktop a.example"},
		{"docker.io", "desktop", "desktop https://index.docker.io/v1/"},
		{"none.example", "fallback", "desktop none.example"},
		{"nobody.example", "", "desktop nobody.example"},
	}
	for _, tt := range tests {
		asked = nil
		got, err := k.For(t.Context(), tt.domain, "x")
		if err != nil || got.Username != tt.want || strings.Join(asked, ",") != tt.asked {
			t.Errorf("%s: %q, %v, asked %q; want %q, asked %q", tt.domain, got.Username, err, asked, tt.want, tt.asked)
		}
	}
	if got, err := k.For(t.Context(), "token.example", "x"); err != nil || got.IdentityToken != "it" || got.Username != "" {
		t.Errorf("token: %+v, %v", got, err)
	}
	if _, err := k.For(t.Context(), "broken.example", "x"); err == nil || !strings.Contains(err.Error(), "credential helper desktop") {
		t.Errorf("broken helper: %v", err)
	}
}

func TestHelpersAreProgramsByName(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nread server\necho '{\"Username\":\"'$1-$server'\",\"Secret\":\"s\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/bin:/usr/bin")
	k := configFile(t, `{"credsStore": "test"}`)
	if got, err := k.For(t.Context(), "a.example", "x"); err != nil || got.Username != "get-a.example" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, name := range []string{"../evil", "a/b", "-x", " "} {
		k := configFile(t, fmt.Sprintf(`{"credsStore": %q}`, name))
		if _, err := k.For(t.Context(), "a.example", "x"); err == nil || !strings.Contains(err.Error(), "not a name") {
			t.Errorf("helper %q: %v", name, err)
		}
	}
}

func TestABrokenConfigIsNamedWithoutItsContent(t *testing.T) {
	for _, text := range []string{`{"auths": {"a.example": {"auth": 5ecret}}}`, `{"auths": {"a.example": {"auth": "5ecret!"}}}`, `{"auths":{"a.example":{"auth":"NWVjcmV0"}}}`} {
		k := configFile(t, text)
		_, err := k.For(t.Context(), "a.example", "x")
		if err == nil || !strings.Contains(err.Error(), k.Files[1]) {
			t.Errorf("%s: %v does not name the file", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "5ecret") {
			t.Errorf("%s: %v tells a secret", text, err)
		}
	}
}

func TestCredentialFilesFollowTheEnvironment(t *testing.T) {
	env := map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "/run/u"}
	get := func(k string) string { return env[k] }
	if got := strings.Join(CredentialFiles(get), " "); got != "/h/.docker/config.json /run/u/containers/auth.json" {
		t.Errorf("got %s", got)
	}
	env["DOCKER_CONFIG"], env["REGISTRY_AUTH_FILE"] = "/d", "/a.json"
	if got := strings.Join(CredentialFiles(get), " "); got != "/d/config.json /a.json" {
		t.Errorf("got %s", got)
	}
}

// locked wants a token, which its own /token gives to user:secret.
func locked(t *testing.T, p picture) (*fake, Ref) {
	f, ref := pushed(t, p)
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if u, pw, _ := r.BasicAuth(); u != "user" || pw != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			fmt.Fprintf(w, `{"token":"tok %s"}`, strings.Join(r.URL.Query()["scope"], " "))
			return true
		case strings.HasPrefix(r.Header.Get("Authorization"), "Bearer tok "):
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="fake"`, f.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	return f, ref
}

func TestA401IsAnsweredWithAToken(t *testing.T) {
	p := paint(t, "amd64", 1000)
	f, ref := locked(t, p)
	c := client()
	c.Keys = configFile(t, `{"auths": {"`+f.host()+`": {"auth": "`+auth("user")+`"}}}`)
	_, b, err := pull(t, c, ref)
	if err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Fatalf("%d bytes, %v", len(b.got[0]), err)
	}
	if n := f.count("GET /token"); n != 1 {
		t.Errorf("%d tokens were fetched, want one for resolve and pull", n)
	}
	up := p.upload(f.ref("team/other", "1"))
	if _, err := c.Push(t.Context(), up); err != nil {
		t.Errorf("push: %v", err)
	}
}

func TestWrongOrMissingCredentialsSayWhichItIs(t *testing.T) {
	f, ref := locked(t, paint(t, "amd64", 10))
	for text, want := range map[string]string{
		`{}`: "no credentials for",
		`{"auths": {"` + f.host() + `": {"auth": "` + auth("other") + `"}}}`: "do not suffice",
	} {
		c := client()
		c.Keys = configFile(t, text)
		_, err := c.Resolve(t.Context(), ref, amd64)
		if !errors.Is(err, ErrDenied) || !strings.Contains(hint(err), want) {
			t.Errorf("%v, hint %q, want %q", err, hint(err), want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestAttack34_ARedirectToAnotherHostCarriesNoCredentials(t *testing.T) {
	p := paint(t, "amd64", 1000)
	for _, way := range []string{"basic", "bearer"} {
		var mu sync.Mutex
		var leaked []string
		served := 0
		storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			served++
			for _, h := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
				if v := r.Header.Get(h); v != "" {
					leaked = append(leaked, h+": "+v)
				}
			}
			if r.URL.Query().Get("ask") != "" && served == 1 { // a storage that asks must get nothing either
				w.Header().Set("WWW-Authenticate", `Basic realm="give it to me"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Write(p.layers[0])
		}))
		defer storage.Close()
		f, ref := locked(t, p)
		token := f.fault
		f.inject(func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r, p) {
				http.Redirect(w, r, storage.URL+"/blob", http.StatusTemporaryRedirect)
				return true
			}
			if way == "basic" {
				if u, _, ok := r.BasicAuth(); !ok || u != "user" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				return false
			}
			return token(w, r)
		})
		c := client()
		c.Keys = configFile(t, `{"auths": {"`+f.host()+`": {"auth": "`+auth("user")+`"}}}`)
		_, b, err := pull(t, c, ref)
		if err != nil || !bytes.Equal(b.got[0], p.layers[0]) || served == 0 {
			t.Errorf("%s: %d bytes, %v, storage served %d", way, len(b.got[0]), err, served)
		}
		if len(leaked) > 0 {
			t.Errorf("%s: the storage got %q", way, leaked)
		}
	}
}

// wire is a transport that makes no connection.
type wire struct {
	mu   sync.Mutex
	seen []*http.Request
	do   func(*http.Request) (*http.Response, error)
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.seen = append(w.seen, r.Clone(context.Background()))
	w.mu.Unlock()
	return w.do(r)
}

func answer(r *http.Request, code int, header ...string) *http.Response {
	rec := httptest.NewRecorder()
	for i := 0; i+1 < len(header); i += 2 {
		rec.Header().Set(header[i], header[i+1])
	}
	rec.WriteHeader(code)
	resp := rec.Result()
	resp.Request = r
	return resp
}

func TestAttack34_ClearTextGoesToLoopbackOnly(t *testing.T) {
	for _, domain := range []string{"10.0.0.1:5000", "192.168.1.1", "registry.local:5000", "example.com", "docker.io", "localhost.evil.org:5000", "127.0.0.1.evil.org"} {
		w := &wire{do: func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme == "https" {
				return nil, errors.New("no TLS here")
			}
			return answer(r, http.StatusOK), nil
		}}
		c := client()
		c.Transport = w
		c.Keys = configFile(t, `{"auths": {"`+domain+`": {"auth": "`+auth("user")+`"}}}`)
		if _, err := c.Resolve(t.Context(), Ref{Domain: domain, Path: "a", Tag: "1"}, amd64); err == nil {
			t.Errorf("%s: resolved", domain)
		}
		for _, r := range w.seen {
			if r.URL.Scheme != "https" {
				t.Errorf("%s: %s went out", domain, r.URL)
			}
		}
	}
}

func TestAttack24_ARedirectIntoTheInnerNetworkIsNotFollowed(t *testing.T) {
	for _, to := range []string{"https://127.0.0.1:9/x", "https://169.254.169.254/latest", "https://10.1.2.3/", "https://[::1]/", "http://example.org/", "file:///etc/passwd"} {
		w := &wire{}
		w.do = func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/v2/" {
				return answer(r, http.StatusOK), nil
			}
			if r.URL.Host != "example.com" {
				t.Errorf("%s was asked", r.URL)
			}
			return answer(r, http.StatusFound, "Location", to), nil
		}
		c := client()
		c.Transport = w
		_, err := c.Resolve(t.Context(), Ref{Domain: "example.com", Path: "a", Tag: "1"}, amd64)
		if err == nil {
			t.Errorf("%s: followed", to)
		}
	}
}

func TestIsLoopbackGoesByNameAlone(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.1.2.3": true, "[::1]:5000": true, "a.localhost:80": true,
		"LocalHost": true, "localhost.:443": true, "::ffff:127.0.0.1": true, "[::1%lo]:443": true,
		"localhost.evil.org": false, "10.0.0.1": false, "127.0.0.1.evil.org": false, "example.com": false, "": false, "0.0.0.0": false,
	} {
		if got := isLoopback(host); got != want {
			t.Errorf("%s: %t", host, got)
		}
	}
}

func TestWhatIsInsideIsSoHoweverItIsWritten(t *testing.T) {
	for host, want := range map[string]bool{
		"10.1.2.3": true, "192.168.0.1": true, "169.254.169.254": true, "fe80::1%eth0": true, "::ffff:10.0.0.1": true, "0.0.0.0": true, "LOCALHOST.": true,
		"example.com": false, "8.8.8.8": false, "2001:db8::1": false, "": false,
	} {
		if got := isInside(host); got != want {
			t.Errorf("%s: %t", host, got)
		}
	}
}

func TestForeignLayersAreAskedOfTheRegistryOnly(t *testing.T) {
	p := paint(t, "amd64", 100)
	f, ref := pushed(t, p)
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the foreign address was asked") }))
	defer canary.Close()
	d := digest.Of(p.layers[0])
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
		fmt.Fprintf(w, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"%s","size":%d},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"%s","size":100,"urls":["%s/x"]}]}`,
			digest.Of(p.config), len(p.config), d, canary.URL)
		return true
	})
	if _, b, err := pull(t, client(), ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Errorf("%d bytes, %v", len(b.got[0]), err)
	}
	manifests := f.fault
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if isLayer(r, p) {
			w.WriteHeader(http.StatusNotFound)
		}
		return isLayer(r, p) || manifests(w, r)
	})
	if _, _, err := pull(t, client(), ref); err == nil || !strings.Contains(err.Error(), "only the urls in the image's manifest give it") {
		t.Errorf("a layer that the registry lacks: %v", err)
	}
}
