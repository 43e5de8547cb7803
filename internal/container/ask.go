package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var errNotRunning = errors.New("the container does not run")

func notRunning(c *Container) error {
	return &Error{Msg: fmt.Sprintf("container %s is not running", c.Name), Way: fmt.Sprintf("start it first: start %s", c.Name), Err: errNotRunning}
}

// dial connects to the container's monitor. One that has only just begun to
// run may not listen yet.
func (s *Set) dial(ctx context.Context, c *Container) (*net.UnixConn, error) {
	path, err := s.folder(c)
	if err != nil {
		return nil, err
	}
	for locked(path) {
		conn, err := dialIn(path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, notRunning(c)
}

func dialIn(path string) (*net.UnixConn, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socketPath(dir), Net: "unixpacket"})
}

// ask sends one request and waits for its reply.
func (s *Set) ask(ctx context.Context, c *Container, req request, files ...*os.File) (reply, error) {
	conn, err := s.dial(ctx, c)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	return ask(ctx, conn, req, files...)
}

func ask(ctx context.Context, conn *net.UnixConn, req request, files ...*os.File) (reply, error) {
	if err := send(conn, req, files...); err != nil {
		return reply{}, unlessGone(err)
	}
	return hear(ctx, conn)
}

var errEnded = errors.New("the container ended meanwhile")

// unlessGone is errEnded for the error of writing to a monitor that has just
// stopped listening.
func unlessGone(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return errEnded
	}
	return err
}

// hear waits for a reply.
func hear(ctx context.Context, conn *net.UnixConn) (reply, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, maxPacket)
	n, err := conn.Read(buf)
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	if err != nil || n == 0 {
		return reply{}, errEnded
	}
	var r reply
	return r, json.Unmarshal(buf[:n], &r)
}

// ExecError is a process that could not be started in a container.
type ExecError struct {
	Msg, Way string
	Code     int
}

func (e *ExecError) Error() string { return e.Msg }

// Hint says what can be done about it.
func (e *ExecError) Hint() string { return e.Way }

// Exec runs a process in a running container and returns its exit code; with
// detach it does not wait for that. The streams are handed over as they are.
func (s *Set) Exec(ctx context.Context, c *Container, spec Spec, detach bool, in, out, errOut *os.File, sizes <-chan Size) (int, error) {
	conn, err := s.dial(ctx, c)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	req := request{Op: "exec", Spec: &spec, Detach: detach}
	if sizes != nil {
		req.Size = <-sizes
	}
	if err := unlessGone(send(conn, req, in, out, errOut)); errors.Is(err, errEnded) {
		return 0, notRunning(c)
	} else if err != nil {
		return 0, fmt.Errorf("container %s: exec: %w", c.Name, err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { sendSizes(conn, sizes, done) })
	r, err := hear(ctx, conn)
	close(done)
	wg.Wait()
	switch {
	case errors.Is(err, errEnded):
		return codeKilled, nil // it took the process with it
	case err != nil:
		return 0, fmt.Errorf("container %s: exec: %w", c.Name, err)
	case r.Status != nil:
		return r.Status.Code, nil
	case r.Ended:
		return 0, notRunning(c) // before the process began
	}
	return 0, &ExecError{r.Error, r.Way, r.Code}
}

func sendSizes(conn *net.UnixConn, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s := <-sizes:
			if send(conn, request{Op: "resize", Size: s}) != nil {
				return
			}
		case <-done:
			return
		}
	}
}
