package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox"
)

// Port is a TCP port of the host that leads to one of the container.
type Port struct {
	Host      string `json:"host"` // address to listen at; "" is all
	HostPort  int    `json:"hostPort"`
	Container int    `json:"container"`
}

func (p Port) String() string { return fmt.Sprintf("%s->%d/tcp", p.Address(), p.Container) }

// Address is where the host listens.
func (p Port) Address() string { return net.JoinHostPort(p.IP(), strconv.Itoa(p.HostPort)) }

// IP is the address to listen at.
func (p Port) IP() string {
	if p.Host == "" {
		return "0.0.0.0"
	}
	return p.Host
}

// ParsePort reads docker's -p: [[IP:]HOST:]CONTAINER[/tcp]. A host port that
// is left out or 0 is chosen when the container starts.
func ParsePort(s string) (Port, error) {
	bad := func(msg string) (Port, error) {
		return Port{}, &Error{Msg: fmt.Sprintf("-p %q: %s", s, msg), Way: "write -p HOST:CONTAINER, for example -p 8080:80; --network host opens all ports of the container on the host"}
	}
	spec, proto, _ := strings.Cut(s, "/")
	if proto != "" && proto != "tcp" {
		return bad("only tcp is forwarded, not " + proto)
	}
	if strings.Contains(spec, "-") {
		return bad("ranges of ports are not read; give one -p for each")
	}
	var p Port
	left, cport := cutLast(spec)
	var err error
	if p.Container, err = number(cport, 1); err != nil {
		return bad(err.Error())
	}
	if left == "" {
		return p, nil
	}
	ip, hport := cutLast(left)
	if hport != "" {
		if p.HostPort, err = number(hport, 0); err != nil {
			return bad(err.Error())
		}
	}
	p.Host = strings.Trim(ip, "[]")
	if p.Host != "" && net.ParseIP(p.Host) == nil {
		return bad(p.Host + " is not an address")
	}
	return p, nil
}

// cutLast splits at the last colon.
func cutLast(s string) (left, right string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

func number(s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > 65535 {
		return 0, fmt.Errorf("%q is no port number", s)
	}
	return n, nil
}

// forwarder accepts connections on the host and passes them on into the
// container's network.
type forwarder struct {
	ports     []Port // host ports chosen
	listeners []net.Listener
	wg        sync.WaitGroup
	cancel    context.CancelFunc
}

// listen opens the host's side; nothing is accepted yet.
func listen(ports []Port) (*forwarder, error) {
	f := &forwarder{ports: slices.Clone(ports), cancel: func() {}}
	for i := range f.ports {
		p := &f.ports[i]
		l, err := net.Listen("tcp", net.JoinHostPort(p.Host, strconv.Itoa(p.HostPort)))
		if err != nil {
			return nil, errors.Join(listenError(*p, err), f.close())
		}
		p.HostPort = l.Addr().(*net.TCPAddr).Port
		f.listeners = append(f.listeners, l)
	}
	return f, nil
}

func listenError(p Port, err error) error {
	e := &Error{Msg: fmt.Sprintf("port %d of the host: %v", p.HostPort, err), Way: fmt.Sprintf("choose another one, for example -p %d:%d", p.Container+10000, p.Container), Err: err}
	var no syscall.Errno
	if errors.As(err, &no) {
		e.Msg = fmt.Sprintf("port %d of the host: %v", p.HostPort, no)
	}
	switch no {
	case unix.EADDRINUSE:
		e.Way = fmt.Sprintf("stop what listens there (ss -ltnp shows it, ps other containers), or choose another: -p 0:%d takes a free one", p.Container)
	case unix.EACCES:
		e.Way = fmt.Sprintf("only root may listen below 1024; choose a higher one, for example -p %d:%d", p.HostPort+8000, p.Container)
	case unix.EADDRNOTAVAIL:
		e.Msg, e.Way = fmt.Sprintf("address %s: this machine does not have it", p.Host), "leave the address out to listen on all"
	}
	return e
}

// dialFunc connects to a port of the container.
type dialFunc func(ctx context.Context, port int) (net.Conn, error)

// into dials in the network of pid.
func into(pid int) dialFunc {
	return func(ctx context.Context, port int) (net.Conn, error) {
		return sandbox.DialIn(ctx, pid, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
}

// The host's side of a port listens from the first moment, and the container's
// only once its program has come so far. Until a container is grace old, who
// connects meanwhile waits, and is not refused.
const (
	grace     = 10 * time.Second
	gracePoll = 10 * time.Millisecond
)

// patient returns a dial that asks again, until that time, while nobody
// listens.
func patient(dial dialFunc, until time.Time) dialFunc {
	return func(ctx context.Context, port int) (net.Conn, error) {
		for {
			conn, err := dial(ctx, port)
			if !errors.Is(err, unix.ECONNREFUSED) || !time.Now().Before(until) {
				return conn, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(gracePoll):
			}
		}
	}
}

// serve passes connections on to where dial leads until close.
func (f *forwarder) serve(dial dialFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	for i, l := range f.listeners {
		f.wg.Go(func() {
			for {
				conn, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil { // too many open files, say: it passes
					time.Sleep(lockPoll)
					continue
				}
				f.wg.Go(func() { forward(ctx, conn, dial, f.ports[i].Container) })
			}
		})
	}
}

func forward(ctx context.Context, outer net.Conn, dial dialFunc, port int) {
	defer outer.Close()
	inner, err := dial(ctx, port)
	if err != nil {
		return // as refused there, so closed here
	}
	defer inner.Close()
	stop := context.AfterFunc(ctx, func() { outer.Close(); inner.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { pipe(inner, outer) })
	pipe(outer, inner)
	wg.Wait()
}

// pipe copies one direction and then closes that half. The bytes go through this
// process: to have the kernel move them Go takes two more descriptors for each
// direction, and keeps them after its end until garbage was collected twice.
// With few descriptors nobody could enter the container for minutes.
func pipe(dst, src net.Conn) {
	io.Copy(struct{ io.Writer }{dst}, struct{ io.Reader }{src})
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
		return
	}
	dst.Close()
}

// close stops listening and ends what is passed on.
func (f *forwarder) close() error {
	var errs []error
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	f.cancel()
	f.wg.Wait()
	return errors.Join(errs...)
}
