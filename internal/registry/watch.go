package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// watch ends a request when the other side stands still: when nothing comes that is waited
// for, or nothing is taken of what is sent. What takes long on this side, making what is sent
// or using what comes, does not count.
type watch struct {
	ctx  context.Context
	end  context.CancelCauseFunc
	idle time.Duration

	mu       sync.Mutex
	timer    *time.Timer
	waits    stalled   // for what, and how long
	until    time.Time // zero: for nothing
	answered bool      // what is still sent does not count any more
}

// stalled is a request of which the other side stood still. The next one may do better.
type stalled struct {
	what string
	long time.Duration
}

func (e *stalled) Error() string { return fmt.Sprintf("%s for %v", e.what, e.long) }

const (
	nothingCame  = "nothing came"
	nothingTaken = "the registry took nothing"
)

// watched returns req as it is sent, with the watch over it, which has begun.
func watched(req *http.Request, idle time.Duration) (*http.Request, *watch) {
	w := &watch{idle: idle}
	w.ctx, w.end = context.WithCancelCause(req.Context())
	w.timer = time.AfterFunc(idle, w.ring)
	w.wait(w.patience(req), nothingCame, false)
	req = req.WithContext(w.ctx)
	if req.Body == nil || req.Body == http.NoBody {
		return req, w
	}
	w.wait(idle, nothingTaken, false)
	req.Body = &sent{req.Body, w}
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return &sent{body, w}, nil
		}
	}
	return req, w
}

// patience is how long an answer may take to begin. What changes something in a registry
// may take twice as long as a look: it puts together and checks what it was sent.
func (w *watch) patience(req *http.Request) time.Duration {
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return w.idle
	}
	return 2 * w.idle
}

// wait begins to wait for the other side; sending says that it is to take something.
func (w *watch) wait(patience time.Duration, what string, sending bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sending && w.answered {
		return
	}
	w.waits, w.until = stalled{what, patience}, time.Now().Add(patience)
	w.timer.Reset(patience)
}

// rest ends the waiting.
func (w *watch) rest(sending bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sending && w.answered {
		return
	}
	w.until = time.Time{}
	w.timer.Stop()
}

// ring ends the request, unless the timer was set anew meanwhile.
func (w *watch) ring() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.until.IsZero() && !time.Now().Before(w.until) {
		still := w.waits
		w.end(&still)
	}
}

// answer is told what came of the request, which is over when that is an error, else when
// the answer's body is closed.
func (w *watch) answer(resp *http.Response, err error) (*http.Response, error) {
	w.mu.Lock()
	w.answered, w.until = true, time.Time{}
	w.timer.Stop()
	w.mu.Unlock()
	if err != nil {
		err = w.because(err)
		w.end(nil)
		return nil, err
	}
	resp.Body = &coming{resp.Body, w}
	return resp, nil
}

// because is the error of a request that was ended here, else err.
func (w *watch) because(err error) error {
	if own, ok := context.Cause(w.ctx).(*stalled); ok && err != io.EOF {
		return own
	}
	return err
}

// sent is the body of a request. While the transport reads it nothing is waited for; until it
// asks for more, it is writing to the network.
type sent struct {
	io.ReadCloser
	w *watch
}

func (s *sent) Read(p []byte) (int, error) {
	s.w.rest(true)
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.w.wait(2*s.w.idle, nothingCame, true)
	} else {
		s.w.wait(s.w.idle, nothingTaken, true)
	}
	return n, err
}

// coming is the body of an answer.
type coming struct {
	io.ReadCloser
	w *watch
}

func (c *coming) Read(p []byte) (int, error) {
	c.w.wait(c.w.idle, nothingCame, false)
	n, err := c.ReadCloser.Read(p)
	c.w.rest(false)
	if err != nil {
		err = c.w.because(err)
	}
	return n, err
}

func (c *coming) Close() error {
	err := c.ReadCloser.Close()
	c.w.rest(false)
	c.w.end(nil)
	return err
}
