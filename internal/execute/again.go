package execute

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// A COPY runs again when something below it has changed, and then mostly writes
// what it wrote before: such a layer is found by what is to be written, and not
// made again. Not so for a step that is to run afresh, nor for a copy so small
// that it costs more to look.

const (
	worthBytes = 1 << 20
	worthItems = 512
)

func worth(items *copying.Items) bool { return items.Size >= worthBytes || items.Len >= worthItems }

// writtenKey names the layer of job's COPY by what it writes: with items in the
// place of what is below, from which they follow, it says what the step's key
// says. As there the times of files do not count.
func (l *Local) writtenKey(job solve.Job, items *copying.Items) (*digest.Key, error) {
	k := digest.NewKey("written")
	job.Step.KeyFields(k)
	k.Digest("content", job.Content)
	if l.Epoch != nil {
		k.Int("epoch", l.Epoch.Unix())
	}
	h, b := sha256.New(), []byte(nil)
	err := items.Each(func(it *copying.Item) error {
		b = appendItem(b[:0], it)
		h.Write(b)
		return nil
	})
	var d digest.Digest
	h.Sum(d[:0])
	k.Digest("items", d)
	return k, err
}

func appendItem(b []byte, it *copying.Item) []byte {
	e := &it.Entry
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(e.Path)
	text(e.Link)
	text(it.Source) // which lands where may depend on links below, as with ADD of an archive
	opaque := uint64(0)
	if e.Opaque {
		opaque = 1
	}
	for _, n := range []uint64{
		uint64(e.Kind), uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Size), uint64(e.Major), uint64(e.Minor),
		e.Inode, opaque, uint64(it.From), uint64(len(e.Xattrs)),
	} {
		b = binary.AppendUvarint(b, n)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		text(name)
		text(e.Xattrs[name])
	}
	return b
}

// written returns the layer that has just these items, if an earlier run made
// it.
func (l *Local) written(key digest.Digest) (made solve.Made, ok bool) {
	rec, err := l.Store.Record(l.Scope.Key(key))
	if err != nil || l.Usable != nil && !l.Usable(rec) {
		return made, false
	}
	return solve.Made{Layer: rec.Layer, Size: rec.Size, Entries: rec.Entries}, true
}

// noteWritten keeps made for written.
func (l *Local) noteWritten(job solve.Job, key *digest.Key, made solve.Made) error {
	return l.Store.PutRecord(l.Scope.Key(key.Sum()), &store.Record{
		Layer: made.Layer, Kind: "written", Size: made.Size, Entries: made.Entries,
		Created: l.Now().UTC(), Text: job.Step.Line.Text, Fields: key.Fields(),
	})
}
