package execute

import (
	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/store"
)

// CacheAbout is what the store keeps with a cache mount: it tells which one it is.
type CacheAbout struct {
	cachemount.Identity
	Scope store.Scope `json:"scope,omitzero"`
}

// Key is the name that it has in the store.
func (a CacheAbout) Key() digest.Digest { return a.Scope.Key(a.Name()) }
