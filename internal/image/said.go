package image

import (
	"errors"
	"maps"

	"github.com/whittle-build/whittle/internal/digest"
)

// Said is the annotations of the documents that are written for a name's images. They are
// kept with the name: the same image may have others under another one.
type Said struct {
	Manifests   map[digest.Digest]map[string]string `json:"manifests,omitempty"`   // by the image
	Descriptors map[digest.Digest]map[string]string `json:"descriptors,omitempty"` // of those, in the index
	Index       map[string]string                   `json:"index,omitempty"`
}

// Equal says whether both say the same.
func (s Said) Equal(other Said) bool {
	same := maps.Equal[map[string]string, map[string]string]
	return same(s.Index, other.Index) && maps.EqualFunc(s.Manifests, other.Manifests, same) && maps.EqualFunc(s.Descriptors, other.Descriptors, same)
}

// About notes what is said of an image: in its manifest, and beside that in an index.
func (s *Said) About(id digest.Digest, manifest, descriptor map[string]string) {
	note := func(in *map[digest.Digest]map[string]string, of map[string]string) {
		if len(of) == 0 {
			return
		}
		if *in == nil {
			*in = map[digest.Digest]map[string]string{}
		}
		(*in)[id] = of
	}
	note(&s.Manifests, manifest)
	note(&s.Descriptors, descriptor)
}

// Meaning is what a name stands for: an image, which it means where one is asked for, the same
// for other platforms, and what is said of them.
type Meaning struct {
	ID   digest.Digest
	Also []digest.Digest
	Said Said
}

// Meaning returns what the name n stands for, or ErrNotFound. With a digest in it the
// digest alone decides.
func (c *Catalog) Meaning(n Name) (Meaning, error) {
	t, err := c.lookup(n)
	if err != nil {
		return Meaning{}, err
	}
	m := Meaning{ID: t.ID, Also: t.Also}
	if t.Said != nil {
		m.Said = *t.Said
		return m, nil
	}
	// Stores had the annotations with the image once.
	for _, id := range append([]digest.Digest{t.ID}, t.Also...) {
		old, err := c.Get(id)
		if err == nil {
			m.Said.About(id, old.Annotations, nil)
		} else if !errors.Is(err, ErrNotFound) {
			return m, err
		}
	}
	return m, nil
}

// GetAs returns the image id as it goes out under a name of which this is said.
func (c *Catalog) GetAs(id digest.Digest, said Said) (*Image, error) {
	m, err := c.Get(id)
	if err == nil {
		m.Annotations = said.Manifests[id]
	}
	return m, err
}
