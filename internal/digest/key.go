package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strconv"
)

// Format is the version of all keys. It changes when the meaning of a field
// or the content of a layer changes, so that a mistake of one version does not
// live on in the records of another.
const Format = "whittle key 1"

// A Field is one labelled part of a key, kept so that a key can be explained.
type Field struct {
	Label string `json:"label"`
	Value string `json:"value"`
}

// A Key hashes labelled fields, each with its length, so that no two lists of
// fields give the same bytes. It also keeps the fields, which is what
// explaining a miss compares. The zero value is not ready: use NewKey.
type Key struct {
	h      hash.Hash
	fields []Field
}

// NewKey begins a key. kind keeps keys of different things apart.
func NewKey(kind string) *Key {
	k := &Key{h: sha256.New()}
	k.write(Format)
	k.write(kind)
	return k
}

func (k *Key) write(s string) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
	k.h.Write(n[:])
	k.h.Write([]byte(s))
}

// Text adds one field.
func (k *Key) Text(label, value string) {
	k.write(label)
	k.write(value)
	k.fields = append(k.fields, Field{label, value})
}

// List adds a field of several values, in order; the number of values is part
// of the key.
func (k *Key) List(label string, values []string) {
	k.Text(label, strconv.Itoa(len(values)))
	for i, v := range values {
		k.Text(label+"."+strconv.Itoa(i), v)
	}
}

// Digest adds a digest.
func (k *Key) Digest(label string, d Digest) { k.Text(label, d.Hex()) }

// Int adds a number.
func (k *Key) Int(label string, n int64) { k.Text(label, strconv.FormatInt(n, 10)) }

// Bool adds a truth value.
func (k *Key) Bool(label string, b bool) { k.Text(label, strconv.FormatBool(b)) }

// Sum returns the key of the fields so far; more may be added after it.
func (k *Key) Sum() Digest {
	var d Digest
	k.h.Sum(d[:0])
	return d
}

// Fields returns what was hashed, in order. The caller must not change it.
func (k *Key) Fields() []Field { return k.fields }
