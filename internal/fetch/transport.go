package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/progress"
)

const maxRedirects = 10

// trail is what is known of a request and of the redirects that follow it.
type trail struct {
	hops   int
	inside bool // the first server is of this machine's own network
}

type trailKey struct{}

// do makes a request, follows redirects, and returns an answer that is one.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	t := &trail{inside: isInside(req.URL.Hostname())}
	req = req.WithContext(context.WithValue(req.Context(), trailKey{}, t))
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, failed(req.Context(), err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 || resp.StatusCode == http.StatusNotModified {
		return resp, nil
	}
	resp.Body.Close()
	status := &statusError{code: resp.StatusCode, authorized: req.Header.Get("Authorization") != "" || req.URL.User != nil}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, &fleeting{status, retryAfter(resp)}
	}
	return nil, status
}

// failed is the error of a request without an answer. Most are worth another
// try; what asking again does not change is not.
func failed(ctx context.Context, err error) error {
	var u *url.Error
	for errors.As(err, &u) { // its text has the address
		err = u.Err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var fatal *Error
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	if errors.As(err, &fatal) || errors.As(err, &cert) || errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &dns) && dns.IsNotFound {
		return err
	}
	return &fleeting{error: err}
}

// client returns the HTTP client, whose connections live as long as c.
func (c *Client) client() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http == nil {
		g := &guard{first: c.Transport, next: c.Transport}
		if c.Transport == nil {
			g.first, g.next = newTransport(nil), newTransport(refuseInside)
		}
		c.http = &http.Client{Transport: g, CheckRedirect: checkRedirect}
	}
	return c.http
}

func newTransport(control func(network, address string, c syscall.RawConn) error) *http.Transport {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second, Control: control}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		ReadBufferSize:        64 << 10,
	}
}

// guard keeps redirects of a server outside from leading into this machine's
// own network. What the Dockerfile names itself may be anywhere.
type guard struct{ first, next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	t, _ := req.Context().Value(trailKey{}).(*trail)
	if t == nil || t.hops == 0 {
		if t != nil && !proxied(req) {
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				GotConn: func(i httptrace.GotConnInfo) { t.inside = t.inside || isInsideAddr(i.Conn.RemoteAddr().String()) },
			}))
		}
		return g.first.RoundTrip(req)
	}
	if t.inside || proxied(req) {
		return g.first.RoundTrip(req)
	}
	return g.next.RoundTrip(req)
}

// proxied reports whether a proxy makes the connection: then its address says
// nothing of the server's.
func proxied(req *http.Request) bool {
	p, err := http.ProxyFromEnvironment(req)
	return err == nil && p != nil
}

// refuseInside is a net.Dialer's Control: names are looked up by then.
func refuseInside(_, addr string, _ syscall.RawConn) error {
	if isInsideAddr(addr) {
		return insideError(addr)
	}
	return nil
}

func insideError(host string) error {
	return &Error{Msg: "the server redirects to " + host + ", an address of the inner network",
		Way: "if that is meant, write the address that it leads to"}
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	from, to := via[0].URL, req.URL
	if len(via) >= maxRedirects {
		return &Error{Msg: fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	if to.Scheme != "http" && to.Scheme != "https" {
		return &Error{Msg: "the server redirects to " + address.Redact(to.String()) + ", which is neither http nor https"}
	}
	if to.Host != from.Host || to.Scheme != from.Scheme && to.Scheme == "http" {
		// Credentials are for the server that they were given for.
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	t, _ := req.Context().Value(trailKey{}).(*trail)
	if t == nil {
		return nil
	}
	t.hops = len(via)
	if !t.inside && isInside(to.Hostname()) {
		return insideError(to.Hostname())
	}
	return nil
}

// isInside reports names and addresses that only make sense here. No name is
// looked up.
func isInside(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	return isInsideIP(net.ParseIP(host))
}

func isInsideAddr(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	host, _, _ = strings.Cut(host, "%")
	return isInsideIP(net.ParseIP(host))
}

func isInsideIP(ip net.IP) bool {
	if ip == nil {
		return false
	}
	shared := net.IPNet{IP: net.IPv4(100, 64, 0, 0).To4(), Mask: net.CIDRMask(10, 32)} // RFC 6598
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || shared.Contains(ip)
}

// authorize gives a request the credentials that the build has for its host.
func (c *Client) authorize(req *http.Request) error {
	req.Header.Set("User-Agent", "whittle")
	for _, prefix := range []string{"HTTP_AUTH_HEADER_", "HTTP_AUTH_TOKEN_"} {
		value, ok, err := c.secret(req.Context(), prefix+req.URL.Hostname())
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if prefix == "HTTP_AUTH_TOKEN_" {
			value = "Bearer " + value
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return &Error{What: "secret " + prefix + req.URL.Hostname(), Msg: "it has more than one line, or control characters, in it"}
		}
		req.Header.Set("Authorization", value)
	}
	return nil
}

// statusError is an answer that is none.
type statusError struct {
	code       int
	authorized bool
}

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answers %d %s", e.code, http.StatusText(e.code)))
}

// explain gives an error its address and a way out.
func (c *Client) explain(ctx context.Context, u *url.URL, err error) error {
	what := address.Redact(u.String())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var again *fleeting
	if errors.As(err, &again) {
		err = again.error
	}
	var known *Error
	if errors.As(err, &known) {
		if known.What == "" {
			known = &Error{what, known.Msg, known.Way, known.Err}
		}
		return known
	}
	var status *statusError
	var bad *mismatch
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var op *net.OpError
	e := &Error{What: what}
	switch {
	case errors.As(err, &status):
		e.Msg, e.Way = status.Error(), status.way(u)
	case errors.As(err, &bad):
		e.Msg = bad.Error()
		e.Way = "the file is not the one that --checksum names: if the new one is meant, write its checksum"
	case errors.As(err, &cert):
		e.Msg, e.Err = "the server's certificate is not trusted", cert.Err
		e.Way = "if its authority is your own, name the file with its certificate in SSL_CERT_FILE"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		e.Msg, e.Way = "the server does not speak TLS", "write http:// if that is meant"
	case errors.As(err, &dns), errors.As(err, &op) && op.Op == "dial":
		e.Msg, e.Err, e.Way = "the server cannot be reached", cause(err), "is this machine offline? "+insteadOfDownload
	default:
		if c.Store.Explain(err) != err {
			return c.Store.Explain(err)
		}
		e.Msg, e.Way = "the download failed", "try again; "+insteadOfDownload
		e.Err = errors.New(progress.Brief(address.Redact(err.Error())))
	}
	return e
}

const insteadOfDownload = "a file that the build context holds needs no download: COPY it"

// cause is the innermost of the network's errors.
func cause(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New(dns.Err)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (e *statusError) way(u *url.URL) string {
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		if e.authorized {
			return "the server does not take the credentials that it was given"
		}
		return fmt.Sprintf("if it wants a token, give one: --secret id=HTTP_AUTH_TOKEN_%s,env=NAME", u.Hostname())
	case http.StatusNotModified:
		return "this machine has nothing of it, and did not ask for changes: the server or a proxy before it is wrong; " + insteadOfDownload
	case http.StatusNotFound, http.StatusGone:
		return "open the address in a browser: has the file moved?"
	}
	if e.code >= 500 || e.code == http.StatusTooManyRequests {
		return "try again later; " + insteadOfDownload
	}
	return ""
}
