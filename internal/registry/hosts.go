package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Hosts says how registries are reached, by their domain with its port. One that is
// not in it is reached by https, with a certificate that the system trusts, or
// where it is this machine's by http as well.
type Hosts map[string]Host

// Host is how one registry is reached.
type Host struct {
	// Mirrors are asked before the registry itself, in order, for what is pulled. They are
	// shown the credentials for their own domain and no others.
	Mirrors  []Mirror
	HTTP     bool     // it may be spoken to in clear text
	Insecure bool     // its certificate is not checked
	CA       []string // files of certificates to trust, besides the system's
	Pairs    []Pair   // to show it
}

// Mirror is another place that has what a registry has: domain/prefix/path for its path.
type Mirror struct{ Domain, Prefix string }

// Pair is a certificate of ours and its key, as files.
type Pair struct{ Cert, Key string }

// of finds a registry by any of its names.
func (h Hosts) of(domain string) Host {
	if host, ok := h[domain]; ok {
		return host
	}
	return h[hubAlias(domain)]
}

// endpoints are the references under which ref may be had, its own at the end.
func (c *Client) endpoints(ref Ref) []Ref {
	var list []Ref
	for _, m := range c.Hosts.of(ref.Domain).Mirrors {
		at := ref
		at.Domain, at.Path = m.Domain, path.Join(m.Prefix, ref.Path)
		list = append(list, at)
	}
	return append(list, ref)
}

// pulling does something with ref at a mirror, or if none can at the registry itself,
// of which the error is.
func (c *Client) pulling(ctx context.Context, ref Ref, do func(ctx context.Context, s *session, at Ref) error) error {
	for _, at := range c.endpoints(ref) {
		if at != ref && c.isDead(at.Domain) {
			continue
		}
		ctx := ctx
		if at != ref {
			ctx = context.WithValue(ctx, otherKey{}, true)
		}
		s, err := c.open(ctx, at, transport.PullScope)
		if err != nil && at != ref {
			c.dead(at.Domain)
		}
		if err == nil {
			err = do(ctx, s, at)
		}
		if err == nil || at == ref || ctx.Err() != nil {
			return err
		}
		c.event(Event{Action: Passing, Err: err})
	}
	return nil // endpoints ends with ref
}

// otherKey says of a context that there is another place to ask than this one, a mirror.
type otherKey struct{}

// isDead says whether a mirror could not even be spoken to: then it is asked no more.
func (c *Client) isDead(domain string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone[domain]
}

func (c *Client) dead(domain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone = map[string]bool{}
	}
	c.gone[domain] = true
}

// transports has a transport for each host that needs one of its own, and one for
// all others.
type transports struct {
	hosts Hosts
	dirs  []string // with certificates, in folders called after hosts
	rest  http.RoundTripper

	mu  sync.Mutex
	own map[string]http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	rt, err := t.to(req.URL.Host)
	if err != nil {
		return nil, &fatalError{fmt.Errorf("%s: %w", req.URL.Host, err)}
	}
	return rt.RoundTrip(req)
}

func (t *transports) to(host string) (http.RoundTripper, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rt, ok := t.own[host]; ok {
		return rt, nil
	}
	h, err := t.hosts.of(host).withDirs(t.dirs, host)
	if err != nil {
		return nil, err
	}
	rt := t.rest
	if h.Insecure || len(h.CA)+len(h.Pairs) > 0 {
		conf, err := h.tls()
		if err != nil {
			return nil, err
		}
		own := newTransport()
		own.TLSClientConfig = conf
		rt = own
	}
	if t.own == nil {
		t.own = map[string]http.RoundTripper{}
	}
	t.own[host] = rt
	return rt, nil
}

// withDirs adds what lies in dir/host: *.crt are certificates to trust, and *.cert with
// *.key those to show, as docker has it (docs.docker.com/engine/security/certificates).
func (h Host) withDirs(dirs []string, host string) (Host, error) {
	for _, dir := range dirs {
		list, err := os.ReadDir(filepath.Join(dir, host))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return h, err
		}
		for _, e := range list {
			name := filepath.Join(dir, host, e.Name())
			if base, ok := strings.CutSuffix(name, ".cert"); ok {
				h.Pairs = append(h.Pairs, Pair{name, base + ".key"})
			} else if strings.HasSuffix(name, ".crt") {
				h.CA = append(h.CA, name)
			}
		}
	}
	return h, nil
}

func (h Host) tls() (*tls.Config, error) {
	conf := &tls.Config{InsecureSkipVerify: h.Insecure} // whoever wrote it into the configuration wants that
	for _, p := range h.Pairs {
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Cert, err)
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	if len(h.CA) == 0 {
		return conf, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range h.CA {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: has no certificate", name)
		}
	}
	conf.RootCAs = pool
	return conf, nil
}
