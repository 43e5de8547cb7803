package registry

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClearTextGoesWhereTheConfigurationSaysSo(t *testing.T) {
	w := &wire{do: func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			return nil, errors.New("no TLS here")
		}
		return answer(r, http.StatusOK), nil
	}}
	c := client()
	c.Transport = w
	c.Hosts = Hosts{"registry.local:5000": {HTTP: true}}
	_, _ = c.Resolve(t.Context(), Ref{Domain: "registry.local:5000", Path: "a", Tag: "1"}, amd64)
	if !slices.ContainsFunc(w.seen, func(r *http.Request) bool { return r.URL.String() == "http://registry.local:5000/v2/a/manifests/1" }) {
		t.Errorf("asked %v", w.seen)
	}
	w.seen = nil
	_, _ = c.Resolve(t.Context(), Ref{Domain: "registry.local:5001", Path: "a", Tag: "1"}, amd64)
	for _, r := range w.seen {
		if r.URL.Scheme != "https" {
			t.Errorf("%s went out", r.URL)
		}
	}
}

func TestAttack34_AMirrorIsShownItsOwnCredentialsAlone(t *testing.T) {
	p := paint(t, "amd64", 1000)
	origin, ref := pushed(t, p)
	mirror := serve(t)
	if _, err := client().Push(t.Context(), p.upload(mirror.ref("cache/team/app", "1"))); err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{false, true} {
		keys := `"` + origin.host() + `": {"auth": "` + auth("origin") + `"}`
		if known {
			keys += `, "` + mirror.host() + `": {"auth": "` + auth("mirror") + `"}`
		}
		var shown []string
		mirror.inject(func(w http.ResponseWriter, r *http.Request) bool {
			a := r.Header.Get("Authorization")
			if a == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			shown = append(shown, a)
			return false
		})
		origin.inject(func(http.ResponseWriter, *http.Request) bool { return false })
		c := client()
		c.Keys = configFile(t, `{"auths": {`+keys+`}}`)
		c.Hosts = Hosts{origin.host(): {Mirrors: []Mirror{{mirror.host(), "cache"}}}}
		r, b, err := pull(t, c, ref)
		if err != nil || r.Ref != ref || len(b.got[0]) != 1000 {
			t.Fatalf("known %t: %+v, %v", known, r, err)
		}
		for _, a := range shown {
			if a != "Basic "+auth("mirror") {
				t.Errorf("known %t: the mirror was shown %q", known, a)
			}
		}
		if known != (len(shown) > 0) || known == (origin.count("GET /v2/team/app/manifests") > 0) {
			t.Errorf("known %t: the mirror was shown %d credentials, the registry asked %d times", known, len(shown), origin.count("GET"))
		}
	}
}

func TestAMirrorThatIsNotThereIsAskedOnce(t *testing.T) {
	p := paint(t, "amd64", 1000, 2000, 3000)
	_, ref := pushed(t, p)
	gone := serve(t)
	host := gone.host()
	gone.Close()
	c := client()
	c.Hosts = Hosts{ref.Domain: {Mirrors: []Mirror{{host, ""}}}}
	passed := 0
	c.Event = func(e Event) {
		if e.Action == Passing {
			passed++
		}
	}
	if _, _, err := pull(t, c, ref); err != nil || passed != 1 {
		t.Errorf("%v, passed over %d times", err, passed)
	}
}

func TestCertificatesLieInFoldersCalledAfterHosts(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca.crt", "client.cert", "client.key", "notes.txt"} {
		if err := os.MkdirAll(filepath.Join(dir, "host:5000"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "host:5000", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Host{}.withDirs([]string{dir, filepath.Join(dir, "none")}, "host:5000")
	if err != nil || len(h.CA) != 1 || len(h.Pairs) != 1 || !strings.HasSuffix(h.Pairs[0].Key, "client.key") {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := h.tls(); err == nil {
		t.Error("a certificate that is none was taken")
	}
	if h, err := (Host{}).withDirs([]string{dir}, "host"); err != nil || len(h.CA) != 0 {
		t.Errorf("another host: %+v, %v", h, err)
	}
}
