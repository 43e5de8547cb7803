// Package fetch brings in what lies outside a build: files by http and https,
// and the trees of git repositories.
//
// What was fetched is kept in the store: a file as a blob, a checkout as a
// layer, each with a small note of where it came from, so that a server is
// asked only whether something has changed, and not even that where a checksum
// or a commit says what is wanted. All of it may be pruned at any time. Several
// calls for the same thing are one, within a build and between processes.
//
// Servers and repositories are hostile: what they send is bounded, checked and
// never run; no redirect leads from outside into this machine's own network.
// Credentials go to the host that they are for and nowhere else: no address
// that is shown or kept has them, nor has a command line.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/retry"
	"github.com/whittle-build/whittle/internal/store"
)

// Client fetches for one build. Only Store must be set. It may be used by
// several goroutines at once.
type Client struct {
	Store *store.Store
	// Secret returns a secret of the build by its id, and whether there is one;
	// nil has none.
	Secret func(ctx context.Context, id string) ([]byte, bool, error)
	// SSH returns what serves the agent that is called id until its listener is
	// closed, and whether there is one; nil has none.
	SSH func(id string) (serve func(net.Listener), ok bool)
	// Environ is what git is found and finds its proxies by: PATH, HTTP_PROXY
	// and its like, and HOME for the hosts that ssh knows. Nothing else of it is
	// used.
	Environ    []string
	GitProgram string           // "" means git, found in PATH
	Now        func() time.Time // nil means time.Now

	Transport http.RoundTripper // nil means Go's own, with the bounds above
	MaxBytes  int64             // of one file; 0 means what a layer can hold
	Wait      time.Duration     // before the first new try; 0 means a quarter of a second
	Stall     time.Duration     // without a byte until a transfer counts as broken; 0 means a minute

	mu      sync.Mutex
	flights map[string]*flight
	commits map[string]string // by place
	http    *http.Client
}

// Progress is told how much of a transfer is done; total is 0 when it is not
// known. It may be nil.
type Progress func(done, total int64)

// Error says what about an address went wrong, and in its hint the way out.
type Error struct {
	What string // the address, without credentials
	Msg  string
	Way  string
	Err  error // what was seen; may be nil
}

func (e *Error) Error() string {
	s := e.What + ": " + e.Msg
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Hint returns the way out; it may be empty.
func (e *Error) Hint() string { return e.Way }

func (e *Error) Unwrap() error { return e.Err }

// flight is one thing that is being fetched, or was.
type flight struct {
	done  chan struct{}
	value any
	err   error
}

// once does what is called name only once, however often it is asked for.
func once[T any](ctx context.Context, c *Client, name string, do func() (T, error)) (value T, err error) {
	c.mu.Lock()
	f := c.flights[name]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		if c.flights == nil {
			c.flights = map[string]*flight{}
		}
		c.flights[name] = f
		c.mu.Unlock()
		f.value, f.err = do()
		close(f.done)
	} else {
		c.mu.Unlock()
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return value, context.Cause(ctx)
	}
	if f.err != nil {
		return value, f.err
	}
	return f.value.(T), nil
}

// landed is what once returned for a name; nil where that was not asked for, or failed.
func (c *Client) landed(name string) any {
	c.mu.Lock()
	f := c.flights[name]
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	select {
	case <-f.done:
		return f.value
	default:
		return nil
	}
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// secret returns a secret without the line's end that its file may have.
func (c *Client) secret(ctx context.Context, id string) (string, bool, error) {
	if c.Secret == nil {
		return "", false, nil
	}
	b, ok, err := c.Secret(ctx, id)
	if err != nil {
		return "", false, fmt.Errorf("secret %s: %w", id, err)
	}
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return string(b), ok, nil
}

// lock makes this process the only one that fetches what is called name.
func (c *Client) lock(ctx context.Context, name string) (*store.Lock, error) {
	k := digest.NewKey("fetch")
	k.Text("name", name)
	return c.Store.LockKey(ctx, k.Sum(), nil)
}

const maxTries = 4

// retry calls do until it succeeds, fails for good, or was tried maxTries
// times.
func (c *Client) retry(ctx context.Context, do func() error) error {
	return retry.Policy{Tries: maxTries, First: c.Wait}.Do(ctx, do, func(err error) (time.Duration, bool) {
		var again *fleeting
		if !errors.As(err, &again) {
			return 0, false
		}
		return again.wait, true
	})
}

// fleeting is an error after which the same may work.
type fleeting struct {
	error
	wait time.Duration // that the server asked for
}

func (e *fleeting) Unwrap() error { return e.error }
