package execute

import (
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
)

// onces remembers which things one build has seen.
type onces struct {
	mu   sync.Mutex
	seen map[digest.Digest]bool
}

// first reports whether d has not been seen before.
func (o *onces) first(d digest.Digest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[d] {
		return false
	}
	if o.seen == nil {
		o.seen = map[digest.Digest]bool{}
	}
	o.seen[d] = true
	return true
}
