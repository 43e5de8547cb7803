// Package engine speaks with a Docker engine that is running: it asks which layers
// the engine has, and gives it an image.
//
// It finds the engine as docker's client does: by DOCKER_HOST, by the context that
// DOCKER_CONTEXT or the client's configuration names, or at its usual socket.
package engine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// Engine is an engine that was found; nobody has asked yet whether it answers.
type Engine struct {
	Name   string // its address, as it was given
	base   string // of its addresses
	client *http.Client
}

// Error is an engine that cannot be had, or does not do what it should.
type Error struct {
	Msg string
	Way string
	Err error
}

func (e *Error) Error() string { return e.Msg }

// Hint returns the way out.
func (e *Error) Hint() string { return e.Way }

func (e *Error) Unwrap() error { return e.Err }

// Open makes an engine of what the environment says.
func Open(getenv func(string) string) (*Engine, error) {
	at, err := find(getenv)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(at.host)
	if err != nil {
		return nil, &Error{Msg: fmt.Sprintf("docker engine %s: %v", at.host, err), Way: "DOCKER_HOST is unix:///PATH or tcp://HOST:PORT", Err: err}
	}
	e := &Engine{Name: at.host, base: "http://docker"}
	t := &http.Transport{DisableCompression: true}
	switch u.Scheme {
	case "unix":
		path := u.Host + u.Path
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	case "tcp", "http", "https":
		e.base = "http://" + u.Host
		if u.Scheme == "https" || at.certs != "" || at.verify {
			e.base = "https://" + u.Host
		}
		if t.TLSClientConfig, err = at.tls(); err != nil {
			return nil, fmt.Errorf("docker engine %s: %w", at.host, err)
		}
	default:
		return nil, &Error{Msg: fmt.Sprintf("docker engine %s: %q is not spoken here", at.host, u.Scheme),
			Way: "leave --load out, and send the image: whittle save NAME | docker load"}
	}
	e.client = &http.Client{Transport: t}
	return e, nil
}

// place is where an engine is.
type place struct {
	host   string
	certs  string // folder with ca.pem, cert.pem and key.pem; "" is none
	verify bool   // its certificate is checked
}

// find looks where docker's client looks.
func find(getenv func(string) string) (place, error) {
	dir := getenv("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(getenv("HOME"), ".docker")
	}
	if host := getenv("DOCKER_HOST"); host != "" {
		if getenv("DOCKER_TLS_VERIFY") == "" {
			return place{host: host}, nil // docker's client takes certificates with that or --tls only
		}
		return place{host: host, certs: cmp.Or(getenv("DOCKER_CERT_PATH"), dir), verify: true}, nil
	}
	name := getenv("DOCKER_CONTEXT")
	if name == "" {
		var cfg struct {
			CurrentContext string `json:"currentContext"`
		}
		if b, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil && json.Unmarshal(b, &cfg) == nil {
			name = cfg.CurrentContext
		}
	}
	if name == "" || name == "default" {
		return place{host: "unix:///var/run/docker.sock"}, nil
	}
	return inContext(dir, name)
}

// inContext reads a context of docker's client: contexts/meta/ID/meta.json, where ID is the
// SHA-256 of its name, and contexts/tls/ID/docker.
func inContext(dir, name string) (place, error) {
	id := digest.Of([]byte(name)).Hex()
	b, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return place{}, &Error{Msg: fmt.Sprintf("docker context %s: %v", name, err), Way: "docker context ls lists those that there are; DOCKER_HOST names an engine by its address", Err: err}
	}
	var meta struct {
		Endpoints map[string]struct {
			Host          string
			SkipTLSVerify bool
		}
	}
	if err := json.Unmarshal(b, &meta); err != nil {
		return place{}, fmt.Errorf("docker context %s: %w", name, err)
	}
	end := meta.Endpoints["docker"]
	p := place{host: end.Host, verify: strings.HasPrefix(end.Host, "tcp:") && !end.SkipTLSVerify}
	certs := filepath.Join(dir, "contexts", "tls", id, "docker")
	if _, err := os.Stat(certs); err == nil {
		p.certs = certs
	} else {
		p.verify = false
	}
	if p.host == "" {
		return p, &Error{Msg: fmt.Sprintf("docker context %s: names no docker engine", name), Way: "docker context inspect " + name + " shows it"}
	}
	return p, nil
}

// tls is nil where nothing is said about it.
func (p place) tls() (*tls.Config, error) {
	if p.certs == "" {
		return nil, nil
	}
	c := &tls.Config{InsecureSkipVerify: !p.verify} // as the context says: its owner chose so
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.certs, "cert.pem"), filepath.Join(p.certs, "key.pem"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		c.Certificates = []tls.Certificate{pair}
	}
	pem, err := os.ReadFile(filepath.Join(p.certs, "ca.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", filepath.Join(p.certs, "ca.pem"))
	}
	return c, nil
}

// maxAnswer bounds what is read of an engine's answer.
const maxAnswer = 16 << 20

// patience is for questions; an image may take as long as it takes.
const patience = 20 * time.Second

func (e *Engine) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := e.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into)
}

// do sends a request, and makes an error of an answer that is none.
func (e *Engine) do(req *http.Request) (*http.Response, error) {
	resp, err := e.client.Do(req)
	if err != nil {
		if req.Context().Err() != nil && errors.Is(err, context.Canceled) {
			return nil, context.Cause(req.Context())
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without an address that nobody knows
		}
		return nil, &Error{Msg: fmt.Sprintf("docker engine %s: %v", e.Name, err), Err: err,
			Way: "is it running? DOCKER_HOST says where; without --load the image is in whittle's store, and whittle save writes it to a file"}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var said struct {
		Message string `json:"message"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(b, &said) != nil || said.Message == "" {
		said.Message = strings.TrimSpace(string(b))
	}
	return nil, fmt.Errorf("docker engine %s: %s: %s", e.Name, resp.Status, said.Message)
}

// maxImages bounds the images that are asked for their layers.
const maxImages = 1000

// Has returns how many of the layers, by diffID and lowest first, the engine has as
// the lowest layers of some image. One whose store takes no image apart has none.
func (e *Engine) Has(ctx context.Context, diffIDs []digest.Digest) (int, error) {
	var info struct{ DriverStatus [][]string }
	if err := e.get(ctx, "/info", &info); err != nil {
		return 0, err
	}
	for _, s := range info.DriverStatus {
		if len(s) == 2 && s[0] == "driver-type" && strings.HasPrefix(s[1], "io.containerd.snapshotter") {
			return 0, nil // containerd wants all blobs of an archive
		}
	}
	var images []struct{ ID string }
	if err := e.get(ctx, "/images/json", &images); err != nil {
		return 0, err
	}
	most := 0
	for _, m := range images[:min(len(images), maxImages)] {
		var one struct {
			RootFS struct{ Layers []string }
		}
		if err := e.get(ctx, "/images/"+url.PathEscape(m.ID)+"/json", &one); err != nil {
			continue // it may have been removed meanwhile
		}
		n := 0
		for n < len(diffIDs) && n < len(one.RootFS.Layers) && one.RootFS.Layers[n] == diffIDs[n].String() {
			n++
		}
		most = max(most, n)
	}
	return most, nil
}

// Load gives the engine the archive that write writes, and returns what it says.
func (e *Engine) Load(ctx context.Context, write func(io.Writer) error) (string, error) {
	pr, pw := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := write(pw)
		pw.CloseWithError(err)
		wrote <- err
	}()
	said, err := e.load(ctx, pr)
	pr.CloseWithError(errStopped)
	werr := <-wrote
	if werr != nil && !errors.Is(werr, errStopped) {
		return "", werr // the engine has only seen the end of that
	}
	return said, err
}

var errStopped = errors.New("the engine took no more of it")

func (e *Engine) load(ctx context.Context, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+"/images/load?quiet=1", io.NopCloser(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := e.do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("docker engine %s: %w", e.Name, err)
	}
	var said []string
	for d := json.NewDecoder(bytes.NewReader(b)); ; {
		var line struct {
			Stream      string
			Error       string
			ErrorDetail struct{ Message string }
		}
		if err := d.Decode(&line); err != nil {
			break // the end, or an engine that says nothing in JSON
		}
		if line.Error != "" {
			return "", fmt.Errorf("docker engine %s: %s", e.Name, line.Error)
		}
		if text := strings.TrimSpace(line.Stream); text != "" {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; "), nil
}
