package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestItIsTriedAgainAsLongAsThatMayHelp(t *testing.T) {
	passing, lasting := errors.New("passing"), errors.New("lasting")
	tests := map[string]struct {
		results []error
		asked   time.Duration
		calls   int
		want    error
		took    time.Duration
	}{
		"at once":            {[]error{nil}, 0, 1, nil, 0},
		"the third time":     {[]error{passing, passing, nil}, 0, 3, nil, 3 * time.Second},
		"never":              {[]error{passing, passing, passing, nil}, 0, 3, passing, 3 * time.Second},
		"for good":           {[]error{passing, lasting, nil}, 0, 2, lasting, time.Second},
		"when asked to wait": {[]error{passing, nil}, 20 * time.Second, 2, nil, 20 * time.Second},
		"asked for long":     {[]error{passing, nil}, Longest, 2, nil, Longest},
		"asked for too long": {[]error{passing, nil}, Longest + 1, 1, passing, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, calls := time.Now(), 0
				err := Policy{Tries: 3, First: time.Second}.Do(t.Context(), func() error {
					calls++
					return tt.results[calls-1]
				}, func(err error) (time.Duration, bool) { return tt.asked, err == passing })
				if !errors.Is(err, tt.want) || calls != tt.calls || time.Since(began) != tt.took {
					t.Errorf("%v after %d calls and %v, want %v after %d and %v", err, calls, time.Since(began), tt.want, tt.calls, tt.took)
				}
			})
		})
	}
}

func TestWhatIsAskedForTooLongIsSaid(t *testing.T) {
	busy := errors.New("busy")
	err := Policy{Tries: 3}.Do(t.Context(), func() error { return busy }, func(error) (time.Duration, bool) { return time.Hour, true })
	var long *TooLong
	if !errors.As(err, &long) || long.Asked != time.Hour || err.Error() != "busy (asks to be left alone for 1h0m0s)" {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfTheContextEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(stopped) })
		err := Policy{Tries: 2, First: time.Minute}.Do(ctx, func() error { return errors.New("passing") },
			func(error) (time.Duration, bool) { return 0, true })
		if err != stopped {
			t.Errorf("got %v, want %v", err, stopped)
		}
	})
}
