package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// Documents is what the catalog needs of a store: small named documents,
// each written whole. A missing one is fs.ErrNotExist.
type Documents interface {
	PutDoc(kind, name string, b []byte) error
	Doc(kind, name string) ([]byte, error)
	Docs(kind string) ([]string, error)
	DeleteDoc(kind, name string) error
	// UpdateDoc replaces a document by what fn makes of it, nil to remove it;
	// no other change comes between.
	UpdateDoc(kind, name string, fn func(old []byte) ([]byte, error)) error
}

// Kinds of the catalog's documents. An image's document is named by its ID in
// hex, a tag's by the SHA-256 of its full name.
const (
	KindImage = "image"
	KindTag   = "tag"
)

// Catalog is the images of a store and their names. Any number of catalogs
// and processes may share a store: each change is one document.
type Catalog struct {
	docs Documents
	now  func() time.Time
}

// NewCatalog returns the catalog of a store; now is the clock.
func NewCatalog(docs Documents, now func() time.Time) *Catalog {
	return &Catalog{docs: docs, now: now}
}

// tag is the document of a name.
type tag struct {
	Name string        `json:"name"`
	ID   digest.Digest `json:"id"`
	Time time.Time     `json:"time"`
	// Also are the same for other platforms.
	Also []digest.Digest `json:"also,omitempty"`
	// Said is nil in documents of a time when annotations were the image's.
	Said *Said `json:"said,omitempty"`
}

func tagDoc(n Name) string { return digest.Of([]byte(n.String())).Hex() }

// Put stores m, without its annotations: those are of a name. Storing an image again keeps the
// moment at which it first came, and its origin unless m has one.
func (c *Catalog) Put(m *Image) error {
	put := *m
	put.Annotations = nil
	old, err := c.Get(m.ID)
	if err == nil {
		put.Stored = old.Stored
		if put.Manifest.IsZero() {
			put.Manifest, put.Source = old.Manifest, old.Source
		}
		put.Annotations = old.Annotations // which older names rely on
	}
	if put.Stored.IsZero() {
		put.Stored = c.now().UTC()
	}
	b, err := put.encode()
	if err != nil {
		return fmt.Errorf("image %s: %w", m.ID.Short(), err)
	}
	return c.docs.PutDoc(KindImage, m.ID.Hex(), b)
}

// Get returns the image with this ID, or ErrNotFound.
func (c *Catalog) Get(id digest.Digest) (*Image, error) {
	b, err := c.docs.Doc(KindImage, id.Hex())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w", id.Short(), ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", id.Short(), err)
	}
	return decode(id, b)
}

// Tag makes the name n stand for m, wherever it was before. A tag and a digest in one name
// are two names.
func (c *Catalog) Tag(n Name, m Meaning) error {
	for _, one := range append([]digest.Digest{m.ID}, m.Also...) {
		if _, err := c.docs.Doc(KindImage, one.Hex()); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = ErrNotFound
			}
			return fmt.Errorf("image %s: %w", one.Short(), err)
		}
	}
	for _, one := range n.split() {
		b, err := json.Marshal(tag{one.String(), m.ID, c.now().UTC(), m.Also, &m.Said})
		if err != nil {
			return err
		}
		if err := c.docs.PutDoc(KindTag, tagDoc(one), b); err != nil {
			return fmt.Errorf("tag %s: %w", one.Familiar(), err)
		}
	}
	return nil
}

// split parts a name with both tag and digest.
func (n Name) split() []Name {
	if n.Tag == "" || n.Digest.IsZero() {
		return []Name{n}
	}
	byTag, byDigest := n, n
	byTag.Digest, byDigest.Tag = digest.Digest{}, ""
	return []Name{byTag, byDigest}
}

// lookup reads the document of the name n. With a digest in it the digest alone decides.
func (c *Catalog) lookup(n Name) (tag, error) {
	if !n.Digest.IsZero() {
		n.Tag = ""
	}
	t, err := c.readTag(tagDoc(n))
	if errors.Is(err, fs.ErrNotExist) {
		return tag{}, fmt.Errorf("%s: %w", n.Familiar(), ErrNotFound)
	}
	if err != nil {
		return tag{}, err
	}
	if t.Name != n.String() {
		return tag{}, fmt.Errorf("tag %s: its document is about %s", n.Familiar(), t.Name)
	}
	return t, nil
}

func (c *Catalog) readTag(doc string) (tag, error) {
	b, err := c.docs.Doc(KindTag, doc)
	if err != nil {
		return tag{}, err
	}
	var t tag
	if err := json.Unmarshal(b, &t); err != nil {
		return tag{}, fmt.Errorf("tag document %s: %w", doc, err)
	}
	return t, nil
}

// named is a name of the catalog with what it stands for.
type named struct {
	Name Name
	ID   digest.Digest
	Time time.Time
	Also []digest.Digest
}

// means says whether the name stands for the image id.
func (n *named) means(id digest.Digest) bool { return n.ID == id || slices.Contains(n.Also, id) }

// names returns all names, sorted.
func (c *Catalog) names() ([]named, error) {
	docs, err := c.docs.Docs(KindTag)
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	var out []named
	for _, doc := range docs {
		t, err := c.readTag(doc)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		n, err := ParseName(t.Name)
		if err != nil {
			return nil, fmt.Errorf("tag document %s: %w", doc, err)
		}
		out = append(out, named{n, t.ID, t.Time, t.Also})
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Name.String() < out[k].Name.String() })
	return out, nil
}

// ids returns the IDs of all images, sorted.
func (c *Catalog) ids() ([]digest.Digest, error) {
	docs, err := c.docs.Docs(KindImage)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	var out []digest.Digest
	for _, doc := range docs {
		id, err := digest.ParseHex(doc)
		if err != nil {
			return nil, fmt.Errorf("image document: %w", err)
		}
		out = append(out, id)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Hex() < out[j].Hex() })
	return out, nil
}

// Summary is an image with its names, sorted; an image without any is
// dangling.
type Summary struct {
	Image  *Image
	Names  []Name
	Tagged time.Time // when the youngest of its names was given
}

// Dangling reports whether s has no name.
func (s Summary) Dangling() bool { return len(s.Names) == 0 }

// List returns all images, the youngest first, those of equal age by ID.
func (c *Catalog) List() ([]Summary, error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	ids, err := c.ids()
	if err != nil {
		return nil, err
	}
	var out []Summary
	for _, id := range ids {
		m, err := c.Get(id)
		if errors.Is(err, ErrNotFound) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		out = append(out, summarise(m, names))
	}
	sort.SliceStable(out, func(i, k int) bool { return out[k].Image.Created.Before(out[i].Image.Created) })
	return out, nil
}

// Summary returns one image with its names.
func (c *Catalog) Summary(id digest.Digest) (Summary, error) {
	m, err := c.Get(id)
	if err != nil {
		return Summary{}, err
	}
	names, err := c.names()
	if err != nil {
		return Summary{}, err
	}
	return summarise(m, names), nil
}

func summarise(m *Image, names []named) Summary {
	s := Summary{Image: m}
	for _, n := range names {
		if !n.means(m.ID) {
			continue
		}
		s.Names = append(s.Names, n.Name)
		if n.Time.After(s.Tagged) {
			s.Tagged = n.Time
		}
	}
	return s
}
