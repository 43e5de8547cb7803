// Package abreast does the same for each of a list, several at once.
package abreast

import (
	"context"
	"sync"
)

// Each calls do for the items, in their order, at most so many at once. After the first error no
// more are begun, the context of the others ends, and when all are back that error is
// returned; so is the cause of ctx when that ends.
func Each[T any](ctx context.Context, items []T, most int, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, most)
	var wg sync.WaitGroup
	for _, item := range items {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(ctx, item); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
