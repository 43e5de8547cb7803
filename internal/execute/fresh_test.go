package execute

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func TestWhatIsDoneOnceIsWaitedFor(t *testing.T) {
	var o onces
	var runs, early atomic.Int32
	var finished atomic.Bool
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			err := o.do(digest.Of([]byte("a")), func() error {
				runs.Add(1)
				time.Sleep(10 * time.Millisecond)
				finished.Store(true)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if !finished.Load() {
				early.Add(1)
			}
		})
	}
	all.Wait()
	if runs.Load() != 1 || early.Load() != 0 {
		t.Errorf("done %d times, and %d did not wait", runs.Load(), early.Load())
	}
	// What has failed is tried again.
	bad := errors.New("bad")
	b := digest.Of([]byte("b"))
	if err := o.do(b, func() error { return bad }); err != bad {
		t.Errorf("error %v", err)
	}
	if err := o.do(b, func() error { return nil }); err != nil || !o.done[b] {
		t.Errorf("the second time: %v", err)
	}
}
