package image

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/nearest"
)

// Resolve finds the image that ref means: an ID, a name, or the beginning of
// an ID, in this order, as docker does. The name is the one that ref meant,
// or zero when ref is an ID. The image has the annotations that it goes out with under
// that name.
func (c *Catalog) Resolve(ref string) (*Image, Name, error) { return c.resolve(ref, 1) }

// baseDigits is how much of an ID a Dockerfile must give: what whittle and
// docker show of one.
const baseDigits = 12

// ResolveBase is Resolve for what a Dockerfile names. There a short name is a
// name of a registry, even when an image's ID happens to begin so: a beginning
// of an ID has twelve digits at least.
func (c *Catalog) ResolveBase(ref string) (*Image, Name, error) { return c.resolve(ref, baseDigits) }

// resolve takes the beginning of an ID from this many digits on.
func (c *Catalog) resolve(ref string, digits int) (*Image, Name, error) {
	bare := strings.TrimPrefix(ref, "sha256:")
	if id, err := digest.ParseHex(bare); err == nil {
		m, err := c.Get(id)
		if errors.Is(err, ErrNotFound) {
			return nil, Name{}, c.unknown(ref)
		}
		return m, Name{}, err
	}
	n, nameErr := ParseName(ref)
	if !n.Digest.IsZero() {
		n.Tag = "" // the digest alone decides
	}
	if nameErr == nil {
		means, err := c.Meaning(n)
		if err == nil {
			m, err := c.GetAs(means.ID, means.Said)
			return m, n, err
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, Name{}, err
		}
	}
	if isHex(bare) && len(bare) >= digits {
		m, err := c.byPrefix(ref, bare)
		if m != nil || err != nil {
			return m, Name{}, err
		}
	}
	if nameErr != nil {
		return nil, Name{}, nameErr
	}
	return nil, Name{}, c.unknown(ref)
}

func isHex(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// byPrefix returns nil and no error when no image begins so.
func (c *Catalog) byPrefix(ref, prefix string) (*Image, error) {
	ids, err := c.ids()
	if err != nil {
		return nil, err
	}
	var found []digest.Digest
	for _, id := range ids {
		if strings.HasPrefix(id.Hex(), prefix) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return c.Get(found[0])
	}
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, id := range found {
		list = append(list, describe(id, prefix, names))
	}
	return nil, &Error{
		Msg: fmt.Sprintf("%s: %d images begin so: %s", ref, len(found), strings.Join(shorten(list), ", ")),
		Way: "give more digits of the ID",
	}
}

// describe writes an ID with one digit more than docker shows when it takes
// that to tell it from others, and with its first name.
func describe(id digest.Digest, prefix string, names []named) string {
	s := id.Hex()[:min(64, max(12, len(prefix)+4))]
	i := slices.IndexFunc(names, func(n named) bool { return n.means(id) })
	if i >= 0 {
		s += " (" + names[i].Name.Familiar() + ")"
	}
	return s
}

// maxListed bounds the candidates of an error.
const maxListed = 8

func shorten(list []string) []string {
	if len(list) <= maxListed {
		return list
	}
	return append(slices.Clip(list[:maxListed]), fmt.Sprintf("and %d more", len(list)-maxListed))
}

// unknown is the error for a reference that nothing answers to; it names what
// comes closest.
func (c *Catalog) unknown(ref string) error {
	e := &Error{Msg: ref + ": no such image in the store", Err: ErrNotFound}
	names, err := c.names()
	if err != nil {
		return errors.Join(e, err)
	}
	if len(names) == 0 {
		e.Way = "the store has no image yet: build, pull, load or import one"
		return e
	}
	if near := closest(ref, names); len(near) > 0 {
		e.Way = "did you mean " + strings.Join(near, " or ") + "?"
		return e
	}
	var list []string
	for _, n := range names {
		list = append(list, n.Name.Familiar())
	}
	e.Way = "the store has " + strings.Join(shorten(list), ", ")
	return e
}

// closest returns up to three names that ref could be a slip of: other tags
// of the same repository, or a few letters away.
func closest(ref string, names []named) []string {
	want, err := ParseName(strings.ToLower(ref))
	if err != nil {
		return nil
	}
	type scored struct {
		text string
		dist int
	}
	var near []scored
	for _, n := range names {
		fam := n.Name.Familiar()
		d := nearest.Distance(want.Familiar(), fam)
		if n.Name.Repository() == want.Repository() {
			d = min(d, 1)
		}
		if d <= 1+len(want.FamiliarRepository())/4 {
			near = append(near, scored{fam, d})
		}
	}
	sort.SliceStable(near, func(i, k int) bool { return near[i].dist < near[k].dist })
	var out []string
	for _, s := range near[:min(3, len(near))] {
		out = append(out, s.text)
	}
	return out
}
