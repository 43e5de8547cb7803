package abreast

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestEachIsDoneOnceAndNoMoreAtOnceThanAsked(t *testing.T) {
	var now, most, done atomic.Int64
	err := Each(t.Context(), make([]int, 100), 3, func(context.Context, int) error {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		done.Add(1)
		now.Add(-1)
		return nil
	})
	if err != nil || done.Load() != 100 || most.Load() > 3 {
		t.Errorf("%d done, %d at once, %v", done.Load(), most.Load(), err)
	}
}

func TestTheFirstErrorEndsTheOthers(t *testing.T) {
	bad := errors.New("bad")
	var begun atomic.Int64
	err := Each(t.Context(), []int{0, 1, 2, 3, 4}, 2, func(ctx context.Context, i int) error {
		begun.Add(1)
		if i == 0 {
			return bad
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if !errors.Is(err, bad) || begun.Load() > 2 {
		t.Errorf("%v, %d begun", err, begun.Load())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(bad)
	if err := Each(ctx, []int{1}, 1, func(context.Context, int) error { return nil }); !errors.Is(err, bad) {
		t.Errorf("of a context that has ended: %v", err)
	}
}
