package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
	text   []byte // memory for write
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
	k.text = appendText(k.text[:0], s)
	k.h.Write(k.text)
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
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

// SumOf is the key of a kind with a field of that label for each digest: less work than to add them
// to a Key, which keeps what it was made of.
func SumOf(kind, label string, list []Digest) Digest {
	k := NewKey(kind)
	var value [2 * len(Digest{})]byte
	for i := range list {
		hex.Encode(value[:], list[i][:])
		k.text = appendText(appendText(k.text[:0], label), value[:])
		k.h.Write(k.text)
	}
	return k.Sum()
}

// Sum returns the key of the fields so far; more may be added after it.
func (k *Key) Sum() Digest {
	var d Digest
	k.h.Sum(d[:0])
	return d
}

// Fields returns what was hashed, in order. The caller must not change it.
func (k *Key) Fields() []Field { return k.fields }
