package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/retry"
)

const (
	// maxTries bounds how often one request is made.
	maxTries = 5
	// maxRedirects is Go's own.
	maxRedirects = 10
	// worthTelling is how long a pause is that the user is told of.
	worthTelling = 2 * time.Second
)

// session is the way to one repository with the rights for one kind of work.
type session struct {
	c      *Client
	ref    Ref
	host   string
	path   string
	scheme string
	auth   *authenticator
	http   *http.Client
}

// open returns the session for ref's repository; actions are transport's
// scopes. from are repositories of the same registry to read from.
func (c *Client) open(ctx context.Context, ref Ref, actions string, from ...string) (*session, error) {
	key := fmt.Sprint(ref.repository(), " ", actions, " ", from)
	c.mu.Lock()
	s, ok := c.sessions[key]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	s, err := c.connect(ctx, ref, actions, from)
	if err != nil {
		return nil, explain(ref, err, c.Keys.way(ref.Domain, s != nil && s.auth.some.Load()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions = map[string]*session{}
	}
	c.sessions[key] = s
	return s, nil
}

func (c *Client) connect(ctx context.Context, ref Ref, actions string, from []string) (*session, error) {
	opts, scheme := c.spoken(ref.Domain)
	repo, err := name.NewRepository(ref.repository(), opts...)
	if err != nil {
		return nil, err
	}
	scopes := []string{repo.Scope(actions)}
	for _, f := range from {
		scopes = append(scopes, "repository:"+f+":pull")
	}
	s := &session{c: c, ref: ref, host: repo.RegistryStr(), path: repo.RepositoryStr(), scheme: scheme}
	s.auth = &authenticator{keys: c.Keys, domain: ref.Domain, path: ref.Path}
	var rt http.RoundTripper
	err = s.retry(ctx, func() error {
		rt, err = transport.NewWithContext(ctx, repo.Registry, s.auth, c.guard(), scopes)
		return badRealm(ref, err)
	})
	if err != nil {
		return s, err
	}
	s.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return s, nil
}

// spoken is how the registry domain is spoken to, and how its names are parsed then. Of
// http the transport makes https when the registry talks that.
func (c *Client) spoken(domain string) (opts []name.Option, scheme string) {
	if isLoopback(domain) || c.Hosts.of(domain).HTTP {
		return []name.Option{name.Insecure}, "http"
	}
	return nil, "https"
}

// badRealm makes a token server that the transport refuses an error that lasts.
func badRealm(ref Ref, err error) error {
	if err == nil || !strings.Contains(err.Error(), "invalid realm in www-authenticate") {
		return err
	}
	return &Error{Ref: ref.String(), Msg: "registry " + ref.Domain + " sends to a token server that may not be asked", Err: &fatalError{err},
		Way: "a token server on the inner network has to be named by a host name, not by its address; the registry's configuration says which (realm)"}
}

// inner returns the one transport of the client, so that connections live on
// between sessions.
func (c *Client) inner() http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base == nil {
		c.base = c.Transport
	}
	if c.base == nil {
		c.base = &timed{&transports{hosts: c.Hosts, dirs: c.CertDirs, rest: newTransport()}, http.ProxyFromEnvironment, c.reached}
	}
	return c.base
}

// isInside reports addresses that only make sense here.
func isInside(host string) bool {
	if isLoopback(host) {
		return true
	}
	ip := numeric(host)
	return ip.IsValid() && (ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsUnspecified())
}

// retry calls do until it succeeds, fails for good, or was tried maxTries times. A longer
// pause that the registry asks for is told, and that it stands still; where there is another
// place to ask, that one is.
func (s *session) retry(ctx context.Context, do func() error) error {
	_, other := ctx.Value(otherKey{}).(bool)
	return s.tries().Do(ctx, do, func(err error) (time.Duration, bool) {
		asked, again := askedWait(err), isFleeting(err)
		var still *stalled
		switch stands := errors.As(err, &still); {
		case other && (stands || asked > worthTelling):
			return 0, false
		case again && asked > worthTelling && asked <= retry.Longest:
			s.c.event(Event{Action: Waiting, Err: fmt.Errorf("registry %s asks to be left alone for %v: waiting", s.ref.Domain, asked)})
		case stands:
			s.c.event(Event{Action: Waiting, Err: fmt.Errorf("registry %s: %w", s.ref.Domain, still)})
		}
		return asked, again
	})
}

func (s *session) tries() retry.Policy { return retry.Policy{Tries: maxTries, First: s.c.Wait} }

// url is the address of something of the repository.
func (s *session) url(parts string) string {
	return s.scheme + "://" + s.host + "/v2/" + s.path + "/" + parts
}

// do makes one request. The answer has one of the wanted codes; its body is
// the caller's to close.
func (s *session) do(req *http.Request, want ...int) (*http.Response, error) {
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, root(err)
	}
	if err := transport.CheckError(resp, want...); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// document gets a small document whole, trying again if need be.
func (s *session) document(ctx context.Context, address, accept string, limit int64) (b []byte, header http.Header, err error) {
	err = s.retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		resp, err := s.do(req, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err == nil && int64(len(b)) > limit {
			err = fatalf("%s: more than %d bytes", redact(address), limit)
		}
		header = resp.Header
		return err
	})
	return b, header, err
}

// redact drops what may be a secret from an address.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// authenticator looks the credentials up when they are first asked for, and
// then only once.
type authenticator struct {
	keys         Keychain
	domain, path string

	once sync.Once
	cfg  authn.AuthConfig
	err  error
	some atomic.Bool
}

// AuthorizationContext implements authn.ContextAuthenticator.
func (a *authenticator) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	a.once.Do(func() {
		k, err := a.keys.For(ctx, a.domain, a.path)
		a.err = err
		a.cfg = authn.AuthConfig{
			Username: k.Username, Password: k.Password,
			IdentityToken: k.IdentityToken, RegistryToken: k.RegistryToken,
		}
		a.some.Store(k != Credential{})
	})
	if a.err != nil {
		return nil, &fatalError{a.err}
	}
	cfg := a.cfg
	return &cfg, nil
}

// Authorization implements authn.Authenticator.
func (a *authenticator) Authorization() (*authn.AuthConfig, error) {
	return a.AuthorizationContext(context.Background())
}

// way is the way out of a denied access. Credentials are not looked for here:
// a registry that was never reached was shown none.
func (a *authenticator) way() string { return a.keys.way(a.domain, a.some.Load()) }
