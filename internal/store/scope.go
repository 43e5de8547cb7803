package store

import "github.com/whittle-build/whittle/internal/digest"

// Scope keeps apart what builds leave in one store that do not trust each other: who keeps
// a record, a note or a cache mount under its name in one scope finds nothing that was
// kept in another. Layers have no scope: they are what their digest says, or nobody finds
// them but by a record. The zero Scope is that of all who ask for nothing more.
type Scope struct {
	Of digest.Digest `json:"of,omitzero"`
}

// ScopeOf is the scope of those who trust what id stands for.
func ScopeOf(id digest.Digest) Scope { return Scope{id} }

// Key is the name in the store of what has the name key in the scope.
func (c Scope) Key(key digest.Digest) digest.Digest {
	if c.Of.IsZero() {
		return key
	}
	k := digest.NewKey("scope")
	k.Digest("of", c.Of)
	k.Digest("key", key)
	return k.Sum()
}
