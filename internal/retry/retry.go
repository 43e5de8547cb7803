// Package retry does again what failed for a while only. What that is, its
// callers know.
package retry

import (
	"context"
	"fmt"
	"time"
)

// Policy says how often and how soon.
type Policy struct {
	Tries int           // in all, 1 or more
	First time.Duration // the pause after the first try; it doubles with each; 0 means 250 ms
}

const (
	// most bounds one pause of which nobody asked how long it be.
	most = 30 * time.Second
	// Longest is the longest pause that the other side may ask for.
	Longest = 2 * time.Minute
)

// TooLong is a failure after which the other side asked to be left alone for longer than
// whoever waits here is made to wait.
type TooLong struct {
	Asked time.Duration
	Err   error
}

func (e *TooLong) Error() string {
	return fmt.Sprintf("%v (asks to be left alone for %v)", e.Err, e.Asked)
}

func (e *TooLong) Unwrap() error { return e.Err }

// Do calls do until it succeeds, fails for good, was called p.Tries times, or
// ctx ends, and returns its last error; a pause that ctx ends returns the cause.
// again says of an error whether the next try may do better, and how long the
// other side asked to be left alone: for more than Longest, and the error is a
// TooLong, at once.
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
		if asked > Longest {
			return &TooLong{asked, err}
		}
		if err := p.Pause(ctx, try, asked); err != nil {
			return err
		}
	}
}

// Pause waits after try number try, as long as asked at least; asked is at most Longest.
func (p Policy) Pause(ctx context.Context, try int, asked time.Duration) error {
	wait := p.First
	if wait <= 0 {
		wait = 250 * time.Millisecond
	}
	t := time.NewTimer(max(min(wait<<min(try-1, 16), most), min(asked, Longest)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
