// Package sharedcache owns the form in which records and layers travel between
// stores by way of a registry: sets that only grow.
//
// A set is one OCI artifact: its first layer is a document with records,
// contents and layers, and its further ones are the blobs of those layers, so
// that a registry keeps them as long as the artifact. Nobody can lock a tag of
// a registry, so a writer never depends on being alone: what it adds is an
// artifact under a tag of its own, a segment, and only then does it write the
// union of all under the cache's tag. That union says which segments are in it.
// When two write it at once the later one may lack the segment of the other;
// who reads takes the segments that the union does not name as well, and the
// next writer includes them.
//
// What comes from a registry is hostile: it is bounded and checked before it is
// used, and a layer's blob is held against the diffID that its set says. Nothing
// here opens a file or a connection.
package sharedcache

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/store"
)

// Media types of the artifact and of its first layer.
const (
	ArtifactType = "application/vnd.whittle.cache.v1"
	RecordsType  = "application/vnd.whittle.cache.records.v1+json+gzip"
)

// Bounds on what is read.
const (
	MaxDocument = 64 << 20 // bytes of the document, compressed
	maxText     = 512 << 20
	maxRecords  = 1 << 20
)

// Record says that the step with this key made this layer.
type Record struct {
	Key     digest.Digest `json:"key"`
	Layer   digest.Digest `json:"layer"`
	Kind    string        `json:"kind,omitempty"` // of the step: run, copy, workdir
	Size    int64         `json:"size"`           // bytes of the layer's files
	Entries int           `json:"entries"`
	Created time.Time     `json:"created"`
	Took    time.Duration `json:"took,omitempty"` // nanoseconds that the step ran
	Text    string        `json:"text,omitempty"` // of the step, for people
	// Single says that whoever made it had a single id, so that a process in the
	// step saw all files as root's: see Set.Record.
	Single bool `json:"single,omitempty"`
}

// Layer is one that a record names. Its id is its diffID, or follows from the run
// that made it (store.TreeID): so no set can say what is in a layer of another's.
type Layer struct {
	ID      digest.Digest `json:"id"`
	DiffID  digest.Digest `json:"diffID"`
	Key     digest.Digest `json:"key,omitzero"` // of the step whose run made it
	Nonce   string        `json:"nonce,omitempty"`
	Size    int64         `json:"size"` // bytes of its files
	Entries int           `json:"entries"`
	// Blob is its compressed form in the same repository. A layer without one was
	// not thought worth sending: who needs its files makes it again.
	Blob *manifest.Descriptor `json:"blob,omitempty"`
}

// Set is what a cache knows. Two records of one key are both kept.
type Set struct {
	records  map[digest.Digest][]Record
	contents map[string]digest.Digest
	layers   map[digest.Digest]Layer
	includes map[string]bool // segments
}

// New returns an empty set.
func New() *Set {
	return &Set{
		records: map[digest.Digest][]Record{}, contents: map[string]digest.Digest{},
		layers: map[digest.Digest]Layer{}, includes: map[string]bool{},
	}
}

// Add adds a record with its layer. What is said twice in different ways, which
// honest writers do not, is decided without regard to the order.
func (s *Set) Add(r Record, l Layer) {
	s.records[r.Key] = insert(s.records[r.Key], r)
	if old, ok := s.layers[l.ID]; !ok || l.better(&old) {
		s.layers[l.ID] = l
	}
}

// insert adds r to a short list, the oldest first.
func insert(list []Record, r Record) []Record {
	for i, o := range list {
		if o.Layer == r.Layer {
			if !r.Created.Before(o.Created) {
				return list
			}
			list = slices.Delete(list, i, i+1)
			break
		}
	}
	at := slices.IndexFunc(list, func(o Record) bool {
		return cmp.Or(r.Created.Compare(o.Created), bytes.Compare(r.Layer[:], o.Layer[:])) < 0
	})
	if at < 0 {
		at = len(list)
	}
	return slices.Insert(list, at, r)
}

// better says whether l is to be kept in the place of o: because it has a blob,
// or a smaller one.
func (l *Layer) better(o *Layer) bool {
	if l.Blob == nil || o.Blob == nil {
		return l.Blob != nil && o.Blob == nil
	}
	return cmp.Or(cmp.Compare(l.Blob.Size, o.Blob.Size), bytes.Compare(l.Blob.Digest[:], o.Blob.Digest[:])) < 0
}

// AddContent adds the digest of what a copy reads: see Content.
func (s *Set) AddContent(name string, d digest.Digest) {
	if old, ok := s.contents[name]; !ok || bytes.Compare(d[:], old[:]) < 0 {
		s.contents[name] = d
	}
}

// Record returns what is recorded under key: of several that have a blob the
// oldest, else the oldest of all. So all that read one set take the same layers,
// and find the same keys above them. What somebody with a single id has made is
// for others of that kind only: single says so of who asks.
func (s *Set) Record(key digest.Digest, single bool) (Record, Layer, bool) {
	best := -1
	list := s.records[key]
	for i, r := range list {
		if r.Single && !single {
			continue
		}
		if best < 0 || s.layers[r.Layer].Blob != nil && s.layers[list[best].Layer].Blob == nil {
			best = i
		}
	}
	if best < 0 {
		return Record{}, Layer{}, false
	}
	return list[best], s.layers[list[best].Layer], true
}

// Lose takes note that the blobs of these layers are not where the set says, so
// that others are taken, or sent again.
func (s *Set) Lose(layers map[digest.Digest]bool) {
	for id := range layers {
		s.lose(id)
	}
}

func (s *Set) lose(id digest.Digest) {
	if l, ok := s.layers[id]; ok {
		l.Blob = nil
		s.layers[id] = l
	}
}

// Content returns the digest of what a copy reads out of layers, by the name
// that stands for the copy and the layers.
func (s *Set) Content(name string) (digest.Digest, bool) {
	d, ok := s.contents[name]
	return d, ok
}

// Blob returns the blob of a layer, if the set has one.
func (s *Set) Blob(layer digest.Digest) *manifest.Descriptor { return s.layers[layer].Blob }

// Len is the number of records.
func (s *Set) Len() int {
	n := 0
	for _, list := range s.records {
		n += len(list)
	}
	return n
}

// Include notes that all of a segment is in s.
func (s *Set) Include(segment string) { s.includes[segment] = true }

// Includes says whether that was noted.
func (s *Set) Includes(segment string) bool { return s.includes[segment] }

// Merge adds all of o to s. The order in which sets are merged makes no
// difference to what is recorded.
func (s *Set) Merge(o *Set) {
	for _, list := range o.records {
		for _, r := range list {
			if l, ok := o.layers[r.Layer]; ok {
				s.Add(r, l)
			}
		}
	}
	for name, d := range o.contents {
		s.AddContent(name, d)
	}
	maps.Copy(s.includes, o.includes)
}

// Without returns what is in s and not in o, its blobs included.
func (s *Set) Without(o *Set) *Set {
	out := New()
	for key, list := range s.records {
		for _, r := range list {
			l := s.layers[r.Layer]
			known := slices.ContainsFunc(o.records[key], func(k Record) bool { return k.Layer == r.Layer })
			if !known || l.Blob != nil && o.layers[r.Layer].Blob == nil {
				out.Add(r, l)
			}
		}
	}
	for name, d := range s.contents {
		if o.contents[name] != d {
			out.contents[name] = d
		}
	}
	return out
}

// Empty says whether there is nothing in s to tell.
func (s *Set) Empty() bool { return len(s.records) == 0 && len(s.contents) == 0 }

// LoseBlobs takes note that these blobs are not where the set says.
func (s *Set) LoseBlobs(blobs map[digest.Digest]bool) {
	for id, l := range s.layers {
		if l.Blob != nil && blobs[l.Blob.Digest] {
			s.lose(id)
		}
	}
}

// Blobs lists the blobs of all layers, each once, in the order of their digests.
func (s *Set) Blobs() []manifest.Descriptor {
	seen := map[digest.Digest]manifest.Descriptor{}
	for _, l := range s.layers {
		if l.Blob != nil {
			seen[l.Blob.Digest] = *l.Blob
		}
	}
	var list []manifest.Descriptor
	for _, d := range sorted(seen) {
		list = append(list, seen[d])
	}
	return list
}

// sorted are the keys of m in the order of their bytes.
func sorted[V any](m map[digest.Digest]V) []digest.Digest {
	var ids []digest.Digest
	for id := range m {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i].Hex() < ids[j].Hex() })
	return ids
}

// document is the first layer of the artifact.
type document struct {
	Format   int                      `json:"format"`
	Records  []Record                 `json:"records"`
	Contents map[string]digest.Digest `json:"contents"`
	Layers   []Layer                  `json:"layers"`
	Includes []string                 `json:"includes"`
}

// Encode writes the document: equal sets give equal bytes.
func (s *Set) Encode() ([]byte, error) {
	doc := document{Format: 1, Contents: s.contents, Includes: slices.Sorted(maps.Keys(s.includes))}
	for _, key := range sorted(s.records) {
		doc.Records = append(doc.Records, s.records[key]...)
	}
	for _, id := range sorted(s.layers) {
		doc.Layers = append(doc.Layers, s.layers[id])
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = layer.Compress(&b, bytes.NewReader(text), layer.Gzip, 0)
	return b.Bytes(), err
}

// Decode reads a document. It refuses what no writer writes; all its errors are
// ErrBad.
func Decode(b []byte) (*Set, error) {
	s, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBad, err)
	}
	return s, nil
}

func decode(b []byte) (*Set, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	doc, err := readDocument(io.LimitReader(z, maxText))
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if doc.Format != 1 {
		return nil, fmt.Errorf("format %d; this whittle knows 1", doc.Format)
	}
	return doc.set()
}

func (doc *document) set() (*Set, error) {
	s := New()
	for _, l := range doc.Layers {
		s.layers[l.ID] = l
	}
	for _, r := range doc.Records {
		l, ok := s.layers[r.Layer]
		if !ok {
			return nil, fmt.Errorf("of the layer of key %s nothing is said", r.Key.Short())
		}
		s.Add(r, l)
	}
	for name, d := range doc.Contents {
		if _, err := digest.ParseHex(name); err != nil || d.IsZero() {
			return nil, fmt.Errorf("a content without a name or a digest")
		}
		s.contents[name] = d
	}
	for _, seg := range doc.Includes {
		s.includes[seg] = true
	}
	return s, nil
}

func (r *Record) check() error {
	if r.Key.IsZero() || r.Layer.IsZero() || r.Size < 0 || r.Entries < 0 || r.Took < 0 {
		return fmt.Errorf("that of key %s is not whole", r.Key.Short())
	}
	return nil
}

func (l *Layer) check() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("layer %s: %w", l.ID.Short(), err)
		}
	}()
	switch {
	case l.ID.IsZero() || l.DiffID.IsZero():
		return errors.New("has no id or no diffID")
	case l.ID != l.DiffID && (l.Nonce == "" || l.ID != store.TreeID(l.Key, l.Nonce)):
		return errors.New("its id is not that of what it says to be")
	case l.Size < 0 || l.Entries < 0:
		return errors.New("less than nothing is in it")
	case l.Blob != nil && (l.Blob.Digest.IsZero() || l.Blob.Size < 0 || !manifest.IsLayer(l.Blob.MediaType)):
		return errors.New("its blob is not one of a layer")
	}
	return nil
}

// tagSeparator stands between a cache's tag and the name of a segment.
const tagSeparator = ".w-"

// SegmentTag is the tag of the segment whose document is b: it is named by its
// content, so that writing it twice is writing it once.
func SegmentTag(tag string, b []byte) string { return tag + tagSeparator + digest.Of(b).Hex()[:32] }

// Segments picks the tags of segments of a cache.
func Segments(tag string, tags []string) []string {
	var out []string
	for _, t := range tags {
		if strings.HasPrefix(t, tag+tagSeparator) && len(t) == len(tag+tagSeparator)+32 && IsSegment(t) {
			out = append(out, t)
		}
	}
	return out
}

var segmentForm = lazyre.New(`\.w-[0-9a-f]{32}$`)

// IsSegment says whether a tag has the form of a segment's.
func IsSegment(tag string) bool { return segmentForm.MatchString(tag) }

// keySeparator stands between a cache's tag and the key that signs.
const keySeparator = ".k-"

// SignedTag is the tag of what one key signs: nobody else has a reason to write there.
func SignedTag(tag string, key digest.Digest) string { return tag + keySeparator + key.Hex()[:16] }

var signedForm = lazyre.New(`^[0-9a-f]{16}(\.|$)`)

// SignedTags lists those of a cache under which something is, whoever signs.
func SignedTags(tag string, tags []string) []string {
	var out []string
	for _, t := range tags {
		if rest, ok := strings.CutPrefix(t, tag+keySeparator); ok && signedForm.MatchString(rest) {
			out = append(out, tag+keySeparator+rest[:16])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// MaxTag is how long a cache's tag may be: a registry takes 128 bytes.
const MaxTag = 128 - len(keySeparator) - 16 - len(tagSeparator) - 32

// Manifest makes the artifact's manifest. documents is the descriptor of what
// Encode gave.
func (s *Set) Manifest(config, document manifest.Descriptor) ([]byte, manifest.Descriptor, error) {
	document.MediaType = RecordsType
	return manifest.NewArtifact(ArtifactType, config, append([]manifest.Descriptor{document}, s.Blobs()...))
}

// Document finds the document in the manifest of an artifact.
func Document(m *manifest.Manifest) (manifest.Descriptor, error) {
	if m == nil || len(m.Layers) == 0 || m.Layers[0].MediaType != RecordsType {
		return manifest.Descriptor{}, ErrNoCache
	}
	if n := m.Layers[0].Size; n > MaxDocument {
		return manifest.Descriptor{}, fmt.Errorf("records: %d bytes, more than %d", n, MaxDocument)
	}
	return m.Layers[0], nil
}

// ErrBad is wrapped by errors about a document that no writer has written so.
var ErrBad = errors.New("records that cannot be used")

// ErrNoCache is for a reference that names something else than a cache.
var ErrNoCache = errors.New("is an image, or something else that is no cache of whittle's")
