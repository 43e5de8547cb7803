package registry

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// mutual is a registry that wants to be shown the certificate in cert, and says in nginx's
// words, with a 400, or while the connection is made, that it does not see it.
func mutual(t *testing.T, cert string, words string, version uint16) *httptest.Server {
	t.Helper()
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	good := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if words != "" && len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, words, http.StatusBadRequest)
			return
		}
		good.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: version}
	if words != "" {
		s.TLS.ClientAuth = tls.VerifyClientCertIfGiven
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestARegistryThatWantsACertificateIsToldSo(t *testing.T) {
	dir := t.TempDir()
	cert, key, _, _ := certificate(t, dir)
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	otherCert, otherKey, _, _ := certificate(t, other)
	for name, tt := range map[string]struct {
		words   string
		version uint16
		host    Host
		domain  string // "" is the server's address; else it is reached by this name
		msg     string
	}{
		"TLS 1.3, none":           {"", tls.VersionTLS13, Host{}, "", "wants to be shown a certificate"},
		"TLS 1.2, none":           {"", tls.VersionTLS12, Host{}, "", "wants to be shown a certificate"},
		"TLS 1.3, another":        {"", tls.VersionTLS13, Host{Pairs: []Pair{{otherCert, otherKey}}}, "", "wants to be shown a certificate, or another one"},
		"TLS 1.3, elsewhere":      {"", tls.VersionTLS13, Host{}, "registry.example.com", "wants to be shown a certificate"},
		"nginx, none":             {"<title>400 No required SSL certificate was sent</title>", tls.VersionTLS13, Host{}, "", "wants to be shown a certificate"},
		"nginx, one that is old":  {"<title>400 The SSL certificate error</title>", tls.VersionTLS13, Host{}, "", "wants to be shown a certificate, or another one"},
		"TLS 1.3, the right one":  {"", tls.VersionTLS13, Host{Pairs: []Pair{{cert, key}}}, "", "not found"},
		"nginx, the right one":    {"no", tls.VersionTLS13, Host{Pairs: []Pair{{cert, key}}}, "", "not found"},
		"a 400 for other reasons": {"bad request", tls.VersionTLS13, Host{}, "", "answers 400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mutual(t, cert, tt.words, tt.version)
			address := s.Listener.Addr().String()
			domain := address
			c := client()
			tt.host.Insecure = true
			if tt.domain != "" {
				domain = tt.domain
			}
			c.Hosts = Hosts{domain: tt.host}
			if tt.domain != "" {
				conf, err := tt.host.tls()
				if err != nil {
					t.Fatal(err)
				}
				tr := newTransport()
				tr.TLSClientConfig = conf
				c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					r = r.Clone(r.Context())
					r.URL.Host = address
					return tr.RoundTrip(r)
				})
			}
			_, err := c.Resolve(t.Context(), Ref{Domain: domain, Path: "a", Tag: "1"}, amd64)
			way := ""
			if strings.Contains(tt.msg, "wants") {
				way = `[[registry."` + domain + `".keypair]]`
			}
			if err == nil || !strings.Contains(err.Error(), tt.msg) || !strings.Contains(hint(err), way) {
				t.Errorf("%v, hint %q; want %q, hint %q", err, hint(err), tt.msg, way)
			}
		})
	}
}
