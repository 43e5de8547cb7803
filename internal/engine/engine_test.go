package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func env(list map[string]string) func(string) string { return func(k string) string { return list[k] } }

func TestTheEngineIsWhereDockersClientFindsIt(t *testing.T) {
	dir := t.TempDir()
	meta := filepath.Join(dir, "contexts", "meta", digest.Of([]byte("far")).Hex())
	if err := os.MkdirAll(meta, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(meta, "meta.json"):  `{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far:2375"}}}`,
		filepath.Join(dir, "config.json"): `{"currentContext":"far"}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
		err  string
	}{
		"nothing said":     {map[string]string{"HOME": t.TempDir()}, "unix:///var/run/docker.sock", ""},
		"DOCKER_HOST":      {map[string]string{"DOCKER_HOST": "unix:///x", "DOCKER_CONFIG": dir}, "unix:///x", ""},
		"the current one":  {map[string]string{"DOCKER_CONFIG": dir}, "tcp://far:2375", ""},
		"the default one":  {map[string]string{"DOCKER_CONFIG": dir, "DOCKER_CONTEXT": "default"}, "unix:///var/run/docker.sock", ""},
		"none of the name": {map[string]string{"DOCKER_CONFIG": dir, "DOCKER_CONTEXT": "near"}, "", "docker context near"},
		"by ssh":           {map[string]string{"DOCKER_HOST": "ssh://me@far"}, "", `"ssh" is not spoken here`},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Open(env(tt.env))
			if tt.err != "" {
				var own *Error
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.As(err, &own) || own.Way == "" {
					t.Errorf("%v, want %q and a way out", err, tt.err)
				}
				return
			}
			if err != nil || e.Name != tt.want {
				t.Errorf("%+v, %v; want %s", e, err, tt.want)
			}
		})
	}
}

func TestAnEngineByTLSIsShownTheCertificateThatDockersClientShows(t *testing.T) {
	for name, with := range map[string]func(dir string) map[string]string{
		"DOCKER_CERT_PATH": func(dir string) map[string]string {
			return map[string]string{"DOCKER_CERT_PATH": dir, "HOME": "/does/not/exist"}
		},
		"DOCKER_CONFIG": func(dir string) map[string]string { return map[string]string{"DOCKER_CONFIG": dir} },
		"HOME":          func(dir string) map[string]string { return map[string]string{"HOME": filepath.Dir(dir)} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), ".docker")
			s := tlsEngine(t, dir)
			vars := with(dir)
			vars["DOCKER_HOST"] = "tcp://" + s.Listener.Addr().String()
			vars["DOCKER_TLS_VERIFY"] = "1"
			e, err := Open(env(vars))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Has(t.Context(), nil); err != nil {
				t.Error(err)
			}
			delete(vars, "DOCKER_TLS_VERIFY")
			if e, err = Open(env(vars)); err != nil || !strings.HasPrefix(e.base, "http://") {
				t.Errorf("without DOCKER_TLS_VERIFY: %+v, %v", e, err)
			}
		})
	}
}

// tlsEngine has no images, and talks to who shows the certificate in dir, where that of
// its own and the key are too.
func tlsEngine(t *testing.T, dir string) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{"ca.pem": cert, "cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/info" {
			fmt.Fprint(w, "{}")
			return
		}
		fmt.Fprint(w, "[]")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// fakeEngine answers as a Docker engine does.
func fakeEngine(t *testing.T, driver string, images map[string][]string, load func(io.Reader) string) *Engine {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
		switch {
		case r.URL.Path == "/info":
			answer(map[string]any{"DriverStatus": [][]string{{"driver-type", driver}}})
		case r.URL.Path == "/images/json":
			list := []map[string]string{{"Id": "gone"}}
			for id := range images {
				list = append(list, map[string]string{"Id": id})
			}
			answer(list)
		case r.URL.Path == "/images/load":
			fmt.Fprint(w, load(r.Body))
		default:
			layers, ok := images[strings.Split(r.URL.Path, "/")[2]]
			if !ok {
				http.Error(w, `{"message":"no such image"}`, http.StatusNotFound)
				return
			}
			answer(map[string]any{"RootFS": map[string]any{"Layers": layers}})
		}
	}))
	t.Cleanup(s.Close)
	e, err := Open(env(map[string]string{"DOCKER_HOST": "tcp://" + strings.TrimPrefix(s.URL, "http://")}))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestLayersThatTheEngineHasAreTheLowestOfSomeImage(t *testing.T) {
	a, b, c := digest.Of([]byte("a")), digest.Of([]byte("b")), digest.Of([]byte("c"))
	images := map[string][]string{"x": {a.String()}, "y": {a.String(), b.String(), a.String()}, "z": {c.String(), b.String()}}
	for _, tt := range []struct {
		driver string
		want   int
	}{{"overlay2", 2}, {"io.containerd.snapshotter.v1", 0}} {
		n, err := fakeEngine(t, tt.driver, images, nil).Has(t.Context(), []digest.Digest{a, b, c})
		if err != nil || n != tt.want {
			t.Errorf("%s: %d, %v; want %d", tt.driver, n, err, tt.want)
		}
	}
}

func TestLoadSaysWhatTheEngineSays(t *testing.T) {
	read := func(in io.Reader) string {
		b, _ := io.ReadAll(in)
		return `{"stream":"Loaded image: ` + string(b) + `\n"}` + "\n"
	}
	archive := func(w io.Writer) error { _, err := io.WriteString(w, "app:1"); return err }
	if said, err := fakeEngine(t, "", nil, read).Load(t.Context(), archive); err != nil || said != "Loaded image: app:1" {
		t.Errorf("%q, %v", said, err)
	}
	refuse := func(io.Reader) string { return `{"errorDetail":{"message":"bad"},"error":"bad"}` }
	if _, err := fakeEngine(t, "", nil, refuse).Load(t.Context(), archive); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("%v", err)
	}
	broken := errors.New("broken")
	if _, err := fakeEngine(t, "", nil, read).Load(t.Context(), func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want why it could not be written", err)
	}
}
