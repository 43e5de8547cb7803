package copying

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// ContentFormat changes with the meaning of the bytes below.
const ContentFormat = "whittle content 4"

// Content returns the digest of what the request copies, and the paths that
// its sources match. It covers everything that decides the result and does
// not depend on To: names, kinds, modes, ids, link targets, which files are
// hard links, devices, extended attributes and content; not times. What the
// request replaces anyway (ids under Chown or from a context, modes under an
// octal Chmod, the metadata of a copied directory itself) is left out, so
// that it does not make a cached result look old.
//
// File content is d's digest of it, or is read from From when d is nil.
func Content(r Request, d entry.Digester) (digest.Digest, []string, error) {
	c := contents{r: &r, d: d, h: sha256.New()}
	m, err := parseMode(r.Chmod)
	if err != nil {
		return digest.Digest{}, nil, err
	}
	c.noIDs = r.Chown != "" || r.FromContext && !r.Archive
	c.noModes = m.octal && !r.Archive
	c.say(ContentFormat)
	c.number(boolBit(r.Archive))
	names, err := c.sources()
	if c.files != nil {
		// What could not be read comes before what was not asked for then.
		if rerr := c.files.end(); rerr != nil {
			err = rerr
		}
	}
	if err != nil {
		return digest.Digest{}, nil, err
	}
	c.h.Write(c.text)
	var sum digest.Digest
	c.h.Sum(sum[:0])
	return sum, names, nil
}

// contents writes the description of what is copied. Every text is preceded
// by its length and every list by its, so no two descriptions are alike.
type contents struct {
	r              *Request
	d              entry.Digester
	h              hash.Hash
	text           []byte   // of the description, not yet in h
	files          *reading // of what is read from From; nil if nothing is
	noIDs, noModes bool
	f              *filter           // of the source that is described
	links          map[uint64]string // inode to the name first seen
}

func (c *contents) sources() ([]string, error) {
	if c.r.Archive {
		c.links = map[uint64]string{}
		c.f = &filter{from: c.r.From}
		return []string{"."}, c.dir(branch{path: "."}, "")
	}
	var names []string
	for _, s := range c.r.Sources {
		ms, err := match(c.r, s)
		if err != nil {
			return nil, err
		}
		c.number(uint64(len(ms)))
		for _, m := range ms {
			names = append(names, m.name)
			if err := c.match(m); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// match describes one matched source. The name of a file counts, because it
// may land under it; that of a directory only when a pattern found it.
func (c *contents) match(m matched) error {
	c.links = map[uint64]string{}
	c.f = m.filter
	name := path.Base(m.name)
	if !m.entry.IsDir() {
		return c.entry(kid{entry: m.entry}, "", name)
	}
	if !m.wild {
		name = ""
	}
	c.number(uint64(entry.Dir))
	c.say(name)
	return c.dir(branch{path: m.entry.Path}, "")
}

// dir describes what is in the directory d. rel is its name in the copy.
// How many there are is not known before, so that each is announced and the
// end is too.
func (c *contents) dir(d branch, rel string) error {
	err := c.f.each(d, func(k kid) error {
		c.number(1)
		return c.entry(k, rel, k.entry.Base())
	})
	c.number(0)
	return err
}

// entry describes k, whose name in the directory dir of the copy is name.
func (c *contents) entry(k kid, dir, name string) error {
	c.spill()
	e := k.entry
	if err := check(e, name); err != nil {
		return err
	}
	if c.noIDs {
		e.UID, e.GID = 0, 0
	}
	if c.noModes && e.Kind != entry.Symlink && !k.way {
		e.Mode = 0
	}
	c.number(uint64(e.Kind))
	c.say(name)
	implied := c.r.Implied != nil && e.IsDir() && c.r.Implied(e.Path)
	c.number(uint64(e.Mode)<<32 | boolBit(k.way)<<1 | boolBit(implied))
	c.number(uint64(e.UID)<<32 | uint64(e.GID))
	c.xattrs(e.Xattrs)
	switch e.Kind {
	case entry.File:
		return c.file(e, dir, name)
	case entry.Dir:
		return c.dir(k.branch, path.Join(dir, name))
	case entry.Symlink:
		c.say(e.Link)
	case entry.Char, entry.Block:
		c.number(uint64(e.Major)<<32 | uint64(e.Minor))
	}
	return nil
}

// file describes content, or of which earlier file this is another name.
func (c *contents) file(e entry.Entry, dir, name string) error {
	if e.Inode != 0 {
		if first, ok := c.links[e.Inode]; ok {
			c.say("link")
			c.say(first)
			return nil
		}
		c.links[e.Inode] = path.Join(dir, name)
	}
	c.say("file")
	if c.d == nil {
		return c.later(e)
	}
	sum, err := c.d.FileDigest(e)
	c.text = append(c.text, sum[:]...)
	return err
}

// later has the content of e read, and its digest come next in the hash.
func (c *contents) later(e entry.Entry) error {
	if c.files == nil {
		c.files = newReading(c.r.From, c.h)
	}
	text := c.text
	c.text = make([]byte, 0, len(text)+len(text)/2)
	return c.files.add(text, e.Path, e.Size)
}

// spill puts what there is of the description into the hash, before it is
// much, unless parts of it wait there for their turn.
func (c *contents) spill() {
	if c.files == nil && len(c.text) > 1<<15 {
		c.h.Write(c.text)
		c.text = c.text[:0]
	}
}

// xattrs describes the attributes that travel with a file. Those of security
// modules and file systems, but for capabilities and access lists, belong to
// the machine.
func (c *contents) xattrs(all map[string]string) {
	if len(all) == 0 {
		c.number(0)
		return
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(n string) bool {
		return steersOverlay(n) || n != "security.capability" && strings.HasPrefix(n, "security.") ||
			strings.HasPrefix(n, "system.") && !strings.HasPrefix(n, "system.posix_acl_")
	})
	c.number(uint64(len(names)))
	for _, n := range names {
		c.say(n)
		c.say(all[n])
	}
}

func (c *contents) number(n uint64) {
	c.text = binary.LittleEndian.AppendUint64(c.text, n)
}

// say adds a text, with its length before it.
func (c *contents) say(s string) {
	c.number(uint64(len(s)))
	c.text = append(c.text, s...)
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
