// Package digest owns the names of things: Digest, the SHA-256 of some bytes,
// and Key, the one hasher that makes every cache key.
//
// Both are values that can be compared and used as map keys. Nothing here
// reads files or knows what is being named.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is the SHA-256 of a blob, a layer or a key. It is an array, so it
// can be compared, used as a map key, and never be half-parsed.
type Digest [sha256.Size]byte

const prefix = "sha256:"

// Of returns the digest of b.
func Of(b []byte) Digest { return sha256.Sum256(b) }

// Parse reads the "sha256:…" form. All other code takes a Digest.
func Parse(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return Digest{}, fmt.Errorf("digest %q: want sha256: and %d hex digits", s, 2*sha256.Size)
	}
	return ParseHex(h)
}

// ParseHex reads the bare form: exactly 64 lower-case hex digits.
func ParseHex(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) || strings.ToLower(s) != s {
		return d, fmt.Errorf("digest %q: want %d lower-case hex digits", s, 2*len(d))
	}
	_, err := hex.Decode(d[:], []byte(s))
	if err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

// Hex returns the 64 hex digits without a prefix.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// Short returns the first 12 hex digits, the form that people read.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// String returns the "sha256:…" form.
func (d Digest) String() string { return prefix + d.Hex() }

// IsZero reports whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes the "sha256:…" form; a zero digest is empty text.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return nil, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}
