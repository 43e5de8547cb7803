// Package retry does again what failed for a while only. What that is, its
// callers know.
package retry

import (
	"context"
	"time"
)

// Policy says how often and how soon.
type Policy struct {
	Tries int           // in all, 1 or more
	First time.Duration // the pause after the first try; it doubles with each; 0 means 250 ms
}

// most bounds one pause, whatever a server asks for.
const most = 30 * time.Second

// Do calls do until it succeeds, fails for good, was called p.Tries times, or
// ctx ends, and returns its last error; a pause that ctx ends returns the cause.
// again says of an error whether the next try may do better, and how long the
// other side asked to be left alone.
func (p Policy) Do(ctx context.Context, do func() error, again func(error) (asked time.Duration, ok bool)) error {
	for try := 1; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || try >= p.Tries {
			return err
		}
		asked, ok := again(err)
		if !ok {
			return err
		}
		if err := p.Pause(ctx, try, asked); err != nil {
			return err
		}
	}
}

// Pause waits after try number try, as long as asked at least.
func (p Policy) Pause(ctx context.Context, try int, asked time.Duration) error {
	wait := p.First
	if wait <= 0 {
		wait = 250 * time.Millisecond
	}
	t := time.NewTimer(min(max(wait<<min(try-1, 16), asked), most))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
