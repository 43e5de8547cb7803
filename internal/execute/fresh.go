package execute

import (
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
)

// onces remembers which things one build has done.
type onces struct {
	mu   sync.Mutex
	done map[digest.Digest]bool
}

// do does what is named d, unless it is done; who comes meanwhile waits for it.
func (o *onces) do(d digest.Digest, f func() error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done[d] {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	if o.done == nil {
		o.done = map[digest.Digest]bool{}
	}
	o.done[d] = true
	return nil
}
