// Package registry owns the traffic with image registries: resolving a name,
// pulling and pushing.
//
// Every byte that comes in is checked against its digest and size while it
// streams; broken transfers are resumed. A registry's credentials go to that
// host and the token server that it names, whatever they redirect to, and in
// clear text to loopback only.
//
// The package stores nothing and makes no layer: layers pass through callbacks
// of the caller. It knows nothing of the store, of tags there, or of archives.
package registry

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Ref is a full reference: docker.io, library/golang and a tag or a digest.
type Ref struct {
	Domain string
	Path   string
	Tag    string
	Digest digest.Digest
}

// identifier is what the registry's address of the manifest ends with. A
// digest decides over a tag.
func (r Ref) identifier() string {
	if !r.Digest.IsZero() {
		return r.Digest.String()
	}
	return r.Tag
}

// repository is the part before the tag; without a path it is the registry.
func (r Ref) repository() string { return strings.TrimSuffix(r.Domain+"/"+r.Path, "/") }

// String returns the whole reference.
func (r Ref) String() string {
	s := r.repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// Client talks to registries. The zero value talks to all of them without
// credentials. A client may be used by several goroutines; it keeps its
// connections and tokens.
type Client struct {
	// Keys gives the credentials of a registry.
	Keys Keychain
	// Hosts says how certain registries are reached, and CertDirs where certificates
	// for them may be besides.
	Hosts    Hosts
	CertDirs []string
	// Transport makes the connections; nil means the standard one, with the
	// proxy of the environment.
	Transport http.RoundTripper
	// Keep, if it is set, returns what is there of a blob, where the rest is kept when its
	// transfer is interrupted; nil where it cannot be.
	Keep func(manifest.Descriptor) Kept
	// Jobs is how many blobs move at once; 0 means 4.
	Jobs int
	// Event is told what happens, from several goroutines at once. It may be
	// nil.
	Event func(Event)
	// Wait is the first pause before something is tried again; each further
	// one is twice as long. 0 means 250 ms.
	Wait time.Duration
	// Idle is how long a transfer may stand still; 0 means a minute.
	Idle time.Duration

	mu       sync.Mutex
	sessions map[string]*session
	gone     map[string]bool // mirrors that do not answer
	reach    map[string]time.Duration
	base     http.RoundTripper
}

// Kept is a part of a blob from its beginning on.
type Kept interface {
	io.ReaderAt
	io.WriterAt
	Size() int64     // bytes that were there
	Close(over bool) // over: nobody needs it any more
}

// worthKeeping is how large a blob is that is kept in parts.
const worthKeeping = 8 << 20

// Action says what an event is about.
type Action string

// The actions.
const (
	Pulling  Action = "pulling"
	Pulled   Action = "pulled"
	Pushing  Action = "pushing"
	Pushed   Action = "pushed"
	Have     Action = "have"    // the store has the layer: nothing is pulled
	Exists   Action = "exists"  // the registry has the blob: nothing is pushed
	Mounted  Action = "mounted" // the registry took it from another repository
	Retrying Action = "retrying"
	Waiting  Action = "waiting" // a registry wants to be left alone for a while, or did not answer; Err says which, Blob nothing
	Passing  Action = "passing" // a mirror has it not, or does not answer: the next is asked
)

// Event is a moment in the life of a blob.
type Event struct {
	Action Action
	Blob   manifest.Descriptor
	Done   int64 // bytes so far
	Err    error // why something is tried again
}

func (c *Client) event(e Event) {
	if c.Event != nil {
		c.Event(e)
	}
}

func (c *Client) jobs() int {
	if c.Jobs <= 0 {
		return 4
	}
	return c.Jobs
}

func (c *Client) idle() time.Duration {
	if c.Idle <= 0 {
		return time.Minute
	}
	return c.Idle
}

// newTransport is Go's, but it never decompresses: digests are of the bytes
// on the wire. It speaks HTTP/1.1: blobs come side by side on connections of
// their own, and a stalled one holds up no other.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		DisableCompression:    true,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
	}
}

// isLoopback reports whether host, which may have a port, is this machine by
// its name or address alone: no name is looked up.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	// Names are the same in capitals and with the dot of the root.
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || numeric(host).IsLoopback()
}

// numeric is the address that host is, without the zone of one of IPv6 and whichever way one of IPv4
// is written; else one that is not valid.
func numeric(host string) netip.Addr {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return ip.WithZone("").Unmap()
}
