package container

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// refusing is a container's port at which nobody listens for the first calls.
func refusing(calls int, calledWith *int) dialFunc {
	return func(context.Context, int) (net.Conn, error) {
		if *calledWith++; *calledWith <= calls {
			return nil, &net.OpError{Op: "dial", Err: unix.ECONNREFUSED}
		}
		near, far := net.Pipe()
		go func() {
			io.WriteString(far, "hello")
			far.Close()
		}()
		return near, nil
	}
}

func TestAConnectionWaitsForAProgramThatDoesNotListenYet(t *testing.T) {
	f, err := listen([]Port{{Host: "127.0.0.1", Container: 8080}})
	if err != nil {
		t.Fatal(err)
	}
	var calls int
	f.serve(patient(refusing(5, &calls), time.Now().Add(time.Minute)))
	conn, err := net.Dial("tcp", f.ports[0].Address())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v; want hello", got, err)
	}
	if err := errors.Join(conn.Close(), f.close()); err != nil {
		t.Error(err)
	}
	if calls != 6 {
		t.Errorf("dialled %d times, want 6", calls)
	}
}

func TestWaitingForAPortEnds(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name  string
		ctx   context.Context
		until time.Duration
		want  error
		least int
	}{
		{"at once when the container is old", t.Context(), -time.Second, unix.ECONNREFUSED, 1},
		{"when the container has become old", t.Context(), 5 * gracePoll, unix.ECONNREFUSED, 2},
		{"with the container", gone, time.Hour, context.Canceled, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls int
			_, err := patient(refusing(1<<30, &calls), time.Now().Add(tt.until))(tt.ctx, 80)
			if !errors.Is(err, tt.want) || calls < tt.least {
				t.Errorf("%v after %d calls, want %v after at least %d", err, calls, tt.want, tt.least)
			}
		})
	}
}

func TestOtherFailuresOfAPortAreNotWaitedFor(t *testing.T) {
	var calls int
	dial := func(context.Context, int) (net.Conn, error) { calls++; return nil, unix.ESRCH }
	if _, err := patient(dial, time.Now().Add(time.Hour))(t.Context(), 80); !errors.Is(err, unix.ESRCH) || calls != 1 {
		t.Errorf("%v after %d calls, want %v after 1", err, calls, unix.ESRCH)
	}
}
