package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// Record is what is known of a step that ran: the layer that it made, and the
// fields of its key, by which a later miss is explained. It is kept as JSON:
// bytes of a text that are not UTF-8 come back as U+FFFD.
type Record struct {
	Layer   digest.Digest  `json:"layer"`             // zero: the step changed nothing
	Kind    string         `json:"kind,omitempty"`    // of the step
	Content digest.Digest  `json:"content,omitempty"` // digest of the layer's content, where known
	Size    int64          `json:"size"`              // bytes of the layer's files
	Entries int            `json:"entries"`           // of the layer
	Created time.Time      `json:"created"`
	Took    time.Duration  `json:"took,omitempty"` // nanoseconds that the step ran
	Text    string         `json:"text,omitempty"` // of the step, for people
	Fields  []digest.Field `json:"fields,omitempty"`
	Nonce   string         `json:"nonce,omitempty"`
	// Step is the key of the step, of which the record's is made in a scope.
	Step  digest.Digest     `json:"step,omitzero"`
	Extra map[string]string `json:"extra,omitempty"`

	// Used is when it was last asked for, to the hour; of Records only.
	Used time.Time `json:"-"`
}

// TreeID is the id of a layer that is born as a tree, by the run of the step with
// this key: its bytes are not hashed until somebody wants them as a tar. Nobody
// can make a layer of another step, or an image's, have the same.
func TreeID(key digest.Digest, nonce string) digest.Digest {
	k := digest.NewKey("layer")
	k.Digest("key", key)
	k.Text("nonce", nonce)
	return k.Sum()
}

// StepKey is the key of the step of a record that is kept under key: stores of an older whittle
// say it only so.
func (r *Record) StepKey(key digest.Digest) digest.Digest { return cmp.Or(r.Step, key) }

// recordFile is the JSON of a record.
type recordFile struct {
	Key digest.Digest `json:"key"`
	*Record
}

// A record's file begins with this word and the digest of all after the line.
const recordMagic = "whittle-record-1"

// PutRecord stores r under key. The layer must be there: only what was made
// by running the step under this key is ever recorded.
func (s *Store) PutRecord(key digest.Digest, r *Record) error {
	if !r.Layer.IsZero() {
		if err := s.NeedLayer(r.Layer); err != nil {
			return fmt.Errorf("record %s: %w", key.Short(), err)
		}
	}
	b, err := json.Marshal(recordFile{key, r})
	if err != nil {
		return fmt.Errorf("record %s: %w", key.Short(), err)
	}
	line := recordMagic + " " + digest.Of(b).Hex() + "\n"
	if err := s.write("record", s.sharded(recordDir, key), append([]byte(line), b...)); err != nil {
		return fmt.Errorf("record %s: %w", key.Short(), err)
	}
	return nil
}

// Record returns what is recorded under key, or ErrNotFound. A record that is
// damaged, or whose layer is not there or not whole, is dropped and counts as
// not found. Under a Use lock the layer stays.
func (s *Store) Record(key digest.Digest) (*Record, error) {
	path := s.sharded(recordDir, key)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("record %s: %w", key.Short(), ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", key.Short(), err)
	}
	file, err := parseRecord(key, b)
	if err == nil && !file.Layer.IsZero() {
		err = s.NeedLayer(file.Layer)
	}
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrNotFound):
		if err := ignoreAbsent(os.Remove(path)); err != nil {
			return nil, fmt.Errorf("record %s: %w", key.Short(), err)
		}
		return nil, fmt.Errorf("record %s: dropped: %w", key.Short(), ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("record %s: %w", key.Short(), err)
	}
	if fi, err := os.Lstat(path); err == nil {
		s.touch(path, fi)
	}
	return file.Record, nil
}

// Records calls fn for every record that can be read, until fn returns false.
// Their layers are not looked at: it is for explaining, not for use.
func (s *Store) Records(fn func(key digest.Digest, r *Record) bool) error {
	enough := errors.New("enough")
	err := s.eachSharded(recordDir, func(path string, key digest.Digest, ok bool) error {
		if !ok {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return ignoreAbsent(err)
		}
		file, err := parseRecord(key, b)
		if err != nil {
			return nil
		}
		if fi, err := os.Lstat(path); err == nil {
			file.Used = fi.ModTime()
		}
		if !fn(key, file.Record) {
			return enough
		}
		return nil
	})
	if err == enough {
		return nil
	}
	return err
}

// parseRecord reads the file of a record; all its errors are ErrDamaged.
func parseRecord(key digest.Digest, b []byte) (recordFile, error) {
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	if string(line) != recordMagic+" "+digest.Of(rest).Hex() {
		return recordFile{}, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	file := recordFile{Record: &Record{}}
	if err := json.Unmarshal(rest, &file); err != nil {
		return recordFile{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if file.Key != key {
		return recordFile{}, fmt.Errorf("%w: it is the record of key %s", ErrDamaged, file.Key.Short())
	}
	return file, nil
}
