package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// proxy stands before Docker's own registry and does what networks and busy
// registries do.
type proxy struct {
	*httptest.Server
	mu    sync.Mutex
	seen  []string
	fault func(w http.ResponseWriter, r *http.Request, good http.Handler) bool // nil: none
}

func before(t *testing.T, host string) *proxy {
	t.Helper()
	p := &proxy{}
	good := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	good.ErrorLog = log.New(io.Discard, "", 0)
	good.Director = func(r *http.Request) { // the Host stays, so that locations lead here
		r.URL.Scheme, r.URL.Host = "http", host
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r.Method+" "+r.URL.Path)
		fault := p.fault
		p.mu.Unlock()
		if fault == nil || !fault(w, r, good) {
			good.ServeHTTP(w, r)
		}
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) set(fault func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.fault = nil, fault
}

func (p *proxy) host() string { return strings.TrimPrefix(p.URL, "http://") }

// recorded is what the good handler would answer.
func recorded(r *http.Request, good http.Handler) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	good.ServeHTTP(rec, r)
	return rec
}

// write passes an answer on with another body.
func write(w http.ResponseWriter, rec *httptest.ResponseRecorder, body []byte) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// times makes a fault happen so many times.
func times(n int32, fault func(http.ResponseWriter, *http.Request, http.Handler)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	var done atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
		if r.URL.Path == "/v2/" || done.Add(1) > n {
			return false
		}
		fault(w, r, good)
		return true
	}
}

func status(code int, header ...string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// blobs makes a fault one of layers alone.
func blobs(p picture, fault func(http.ResponseWriter, *http.Request, http.Handler) bool) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
		return isLayer(r, p) && fault(w, r, good)
	}
}

func TestAPullFromARealRegistryBehindABadNetwork(t *testing.T) {
	host := distribution(t)
	p := paint(t, "amd64", 3_000_000)
	x := before(t, host)
	ref := Ref{Domain: x.host(), Path: "team/app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	const always = 1 << 30
	truncated := func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		rec := recorded(r, good)
		write(w, rec, rec.Body.Bytes()[:rec.Body.Len()/3])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	spoiled := func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		rec := recorded(r, good)
		b := bytes.Clone(rec.Body.Bytes())
		b[len(b)/2] ^= 1
		write(w, rec, b)
	}
	stalled := func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		rec := recorded(r, good)
		w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
		_, _ = w.Write(rec.Body.Bytes()[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	tests := map[string]struct {
		fault func(http.ResponseWriter, *http.Request, http.Handler) bool
		err   string // "" means that it works in the end
	}{
		"503 for a while":   {times(3, status(http.StatusServiceUnavailable)), ""},
		"500 and 502":       {times(2, status(http.StatusBadGateway)), ""},
		"503 for good":      {times(always, status(http.StatusServiceUnavailable)), "answers 503"},
		"429":               {times(2, status(http.StatusTooManyRequests, "Retry-After", "1")), ""},
		"429 for good":      {times(always, status(http.StatusTooManyRequests)), "limits how often it is asked"},
		"a truncated layer": {blobs(p, times(2, truncated)), ""},
		"a layer truncated for good": {blobs(p, times(always, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", "3000000")
			panic(http.ErrAbortHandler)
		})), "EOF"},
		"a spoiled layer":              {blobs(p, times(always, spoiled)), "digest"},
		"a spoiled manifest or config": {times(always, spoiled), ""},
		"a layer that stands still":    {blobs(p, times(1, stalled)), ""},
		"a layer that is gone":         {blobs(p, times(always, status(http.StatusNotFound))), "the image is incomplete"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			x.set(tt.fault)
			c := client()
			c.Idle = 300 * time.Millisecond
			_, b, err := pull(t, c, ref)
			if name == "a spoiled manifest or config" {
				if err == nil {
					t.Error("it was taken")
				}
				return
			}
			if tt.err == "" && (err != nil || !bytes.Equal(b.got[0], p.layers[0])) {
				t.Errorf("%v", err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if tt.err != "" && b.got[0] != nil {
				t.Error("a layer was kept")
			}
		})
	}
}

func TestAPushToARealRegistryBehindABadNetwork(t *testing.T) {
	host := distribution(t)
	x := before(t, host)
	cut := func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, 1_000_000)
		panic(http.ErrAbortHandler)
	}
	half := func(w http.ResponseWriter, r *http.Request, good http.Handler) { // the registry sees half of it
		r.Body = io.NopCloser(io.LimitReader(r.Body, 1_000_000))
		_ = recorded(r, good)
		panic(http.ErrAbortHandler)
	}
	uploads := func(fault func(http.ResponseWriter, *http.Request, http.Handler) bool) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
			return (r.Method == http.MethodPut || r.Method == http.MethodPatch) && strings.Contains(r.URL.Path, "/uploads/") && fault(w, r, good)
		}
	}
	tests := map[string]func(http.ResponseWriter, *http.Request, http.Handler) bool{
		"503 for a while":  times(3, status(http.StatusServiceUnavailable)),
		"429":              times(1, status(http.StatusTooManyRequests, "Retry-After", "1")),
		"a cut upload":     uploads(times(2, cut)),
		"a half of upload": uploads(times(1, half)),
	}
	n := 0
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			n++
			p := paint(t, strings.Repeat("a", n), 6_000_000)
			ref := Ref{Domain: x.host(), Path: "team/app", Tag: strconv.Itoa(n)}
			x.set(fault)
			if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
				t.Fatal(err)
			}
			x.set(nil)
			b := basket{}
			r, err := client().Resolve(t.Context(), ref, amd64)
			if err == nil {
				err = client().Pull(t.Context(), r, b.sink())
			}
			if err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
				t.Errorf("pulled: %v", err)
			}
		})
	}
}

func TestAnUploadGoesOnWhereTheRegistryHasIt(t *testing.T) {
	p := paint(t, "amd64", 6_000_000)
	f := serve(t)
	var mu sync.Mutex
	var got []byte
	var asked []string
	cuts := 2
	f.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/uploads/kept") {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", "/v2/team/app/blobs/uploads/kept")
				w.WriteHeader(http.StatusAccepted)
				return true
			}
			return strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodPut && status201(w)
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.Header.Get("Content-Range"))
		w.Header().Set("Location", "/v2/team/app/blobs/uploads/kept")
		switch {
		case r.Method == http.MethodGet:
			w.Header().Set("Range", fmt.Sprintf("0-%d", len(got)-1))
			w.WriteHeader(http.StatusNoContent)
			return true
		case r.ContentLength > 1000 && cuts > 0:
			cuts--
			b, _ := io.ReadAll(io.LimitReader(r.Body, 2_000_000))
			got = append(got, b...)
			panic(http.ErrAbortHandler)
		}
		b, _ := io.ReadAll(r.Body)
		if r.ContentLength <= 1000 && len(b) > 0 { // the config, in a request of its own
			return status201(w)
		}
		got = append(got, b...)
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusAccepted)
			return true
		}
		if digest.Of(got) != digest.Of(p.layers[0]) {
			w.WriteHeader(http.StatusBadRequest)
			return true
		}
		return status201(w)
	})
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	if _, err := client().Push(t.Context(), p.upload(f.ref("team/app", "1"))); err != nil {
		t.Fatal(err)
	}
	want := "PUT |GET |PATCH 2000000-5999999|GET |PATCH 4000000-5999999|PUT "
	if got := strings.Join(asked, "|"); !strings.HasPrefix(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func status201(w http.ResponseWriter) bool {
	w.WriteHeader(http.StatusCreated)
	return true
}

func TestARedirectOfARealRegistryToAnotherHostCarriesNothing(t *testing.T) {
	host := distribution(t)
	p := paint(t, "amd64", 100_000)
	x := before(t, host)
	ref := Ref{Domain: x.host(), Path: "app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	var storage []http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		storage = append(storage, r.Header.Clone())
		_, _ = w.Write(p.layers[0])
	}))
	defer other.Close()
	x.set(func(w http.ResponseWriter, r *http.Request, good http.Handler) bool {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if !isLayer(r, p) {
			return false
		}
		http.Redirect(w, r, other.URL+"/signed?X-Amz-Signature=s", http.StatusTemporaryRedirect)
		return true
	})
	c := client()
	c.Keys = configFile(t, `{"auths": {"`+x.host()+`": {"auth": "`+auth("user")+`"}}}`)
	if _, b, err := pull(t, c, ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Fatal(err)
	}
	for _, h := range storage {
		if h.Get("Authorization") != "" || h.Get("Cookie") != "" {
			t.Errorf("the storage saw %v", h)
		}
	}
	if len(storage) != 1 {
		t.Errorf("the storage was asked %d times", len(storage))
	}
}

// certificate makes one for loopback, signed by itself: its file and its key's.
func certificate(t *testing.T, dir string) (cert, key string, signer *ecdsa.PrivateKey, der []byte) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	like := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	if der, err = x509.CreateCertificate(rand.Reader, like, like, &signer.PublicKey, signer); err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, signer, der
}

func TestDockersOwnRegistryByTLSWithAPassword(t *testing.T) {
	dir := t.TempDir()
	cert, key, _, _ := certificate(t, dir)
	const userSecret = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n" // by bcrypt, as htpasswd writes it
	htpasswd := filepath.Join(dir, "users")
	if err := os.WriteFile(htpasswd, []byte(userSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	host := distributionWith(t, fmt.Sprintf("auth: {htpasswd: {realm: r, path: %s}}\n", htpasswd), fmt.Sprintf("tls: {certificate: %s, key: %s}", cert, key))
	p := paint(t, "amd64", 100_000)
	ref := Ref{Domain: host, Path: "app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err == nil || !strings.Contains(err.Error(), "certificate that is not trusted") {
		t.Errorf("without its certificate: %v", err)
	}
	c := client()
	c.Hosts = Hosts{host: {CA: []string{cert}}}
	c.Keys = Keychain{Files: []string{filepath.Join(dir, "none.json")}}
	if _, err := c.Push(t.Context(), p.upload(ref)); err == nil || !strings.Contains(hint(err), "whittle login "+host) {
		t.Errorf("without credentials: %v, hint %q", err, hint(err))
	}
	c.Keys = Keychain{}
	if err := c.Check(t.Context(), host, Credential{Username: "user", Password: "guess"}); err == nil || !strings.Contains(err.Error(), "does not take this name") {
		t.Errorf("wrong password: %v", err)
	}
	if err := c.Check(t.Context(), host, Credential{Username: "user", Password: "secret"}); err != nil {
		t.Errorf("right password: %v", err)
	}
	c = client()
	c.Hosts = Hosts{host: {CA: []string{cert}}}
	c.Keys = Keychain{Files: []string{filepath.Join(dir, "config.json")}}
	if _, err := c.Keys.Keep(t.Context(), host, Credential{Username: "user", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, c, ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Error(err)
	}
}

func TestDockersOwnRegistryWithTokens(t *testing.T) {
	dir := t.TempDir()
	cert, _, signer, der := certificate(t, dir)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Method == http.MethodPost {
			_ = r.ParseForm()
			user, password = r.Form.Get("username"), r.Form.Get("password")
		}
		if user != "user" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		scopes := append(r.URL.Query()["scope"], strings.Fields(r.Form.Get("scope"))...)
		fmt.Fprintf(w, `{"token": %q, "access_token": %[1]q}`, token(t, signer, der, scopes))
	}))
	defer tokens.Close()
	host := distributionWith(t, fmt.Sprintf("auth: {token: {realm: %q, service: s, issuer: i, rootcertbundle: %s}}\n", strings.Replace(tokens.URL, "127.0.0.1", "localhost", 1), cert), "")
	p := paint(t, "amd64", 100_000)
	ref := Ref{Domain: host, Path: "app", Tag: "1"}
	if _, err := client().Push(t.Context(), p.upload(ref)); err == nil {
		t.Error("pushed without credentials")
	}
	c := client()
	c.Keys = configFile(t, `{"auths": {"`+host+`": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("user:secret"))+`"}}}`)
	if _, err := c.Push(t.Context(), p.upload(ref)); err != nil {
		t.Fatal(err)
	}
	if _, b, err := pull(t, c, ref); err != nil || !bytes.Equal(b.got[0], p.layers[0]) {
		t.Error(err)
	}
	// Lent from one repository to another: the token has to be for both.
	up := p.upload(Ref{Domain: host, Path: "copy", Tag: "1"})
	up.Layers[0].From = []Ref{ref}
	up.Layers[0].Open = func() (io.ReadCloser, error) { return nil, fmt.Errorf("opened for nothing") }
	if _, err := c.Push(t.Context(), up); err != nil {
		t.Error(err)
	}
}

// token is what a token server gives for scopes (distribution, "Token Authentication
// Specification"), with its certificate in the header.
func token(t *testing.T, signer *ecdsa.PrivateKey, der []byte, scopes []string) string {
	t.Helper()
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	list := []access{}
	for _, s := range scopes {
		f := strings.SplitN(s, ":", 3)
		if len(f) == 3 {
			list = append(list, access{f[0], f[1], strings.Split(f[2], ",")})
		}
	}
	now := time.Now()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(der)}}) + "." +
		part(map[string]any{"iss": "i", "aud": "s", "sub": "user", "exp": now.Add(time.Hour).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "jti": "1", "access": list})
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, signer, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}
