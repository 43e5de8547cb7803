package copying

import (
	"github.com/whittle-build/whittle/internal/entry"
)

// unpack places the whole of From in Dest. An archive goes over what is there
// without asking: files replace directories, and directories files and links.
// Only a directory that the archive merely implies goes through a link, as
// var/run/pid does where the image has /var/run as one; links are followed as
// if Dest were the root, so nothing of an archive lands outside Dest.
func (c *copier) unpack() error {
	c.batch = c.l.nextBatch()
	at, err := entry.Resolve(c.l, entry.Clean(c.r.Dest), true)
	if err != nil {
		return err
	}
	base, err := c.mkdirAll(at)
	if err != nil {
		return err
	}
	base.item.Entry.Mtime = c.r.Now
	return c.unpackDir(".", base, base)
}

// unpackDir places what is in the archive's directory from. base is the node
// of Dest.
func (c *copier) unpackDir(from string, into, base *node) error {
	kids, err := c.r.From.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range kids {
		if err := check(e, e.Base()); err != nil {
			return err
		}
		if c.l.cut && !into.attached() {
			return &Conflict{Path: "/" + into.item.Entry.Path, Source: e.Path, Parent: true}
		}
		if !e.IsDir() {
			if err := c.unpackLeaf(e, into); err != nil {
				return err
			}
			continue
		}
		n, err := c.unpackedDir(e, into, base)
		if err != nil {
			return err
		}
		if err := c.unpackDir(e.Path, n, base); err != nil {
			return err
		}
		if !c.implied(e) {
			n.item.Entry.Mtime = e.Mtime
		}
	}
	return nil
}

// implied reports whether the archive has no entry for the directory e.
func (c *copier) implied(e entry.Entry) bool { return c.r.Implied != nil && c.r.Implied(e.Path) }

// unpackLeaf places anything but a directory over whatever has its name.
func (c *copier) unpackLeaf(e entry.Entry, into *node) error {
	old, err := c.l.child(into, e.Base())
	if err != nil {
		return err
	}
	if old != nil && old.item.Entry.IsDir() {
		c.l.cut = true
	}
	n := c.l.add(into, e.Base())
	n.item = c.item(e, n.item.Entry)
	return nil
}

// unpackedDir places a directory of the archive, without its contents.
func (c *copier) unpackedDir(e entry.Entry, into, base *node) (*node, error) {
	name := e.Base()
	old, err := c.l.child(into, name)
	if err != nil {
		return nil, err
	}
	implied := c.implied(e)
	if implied && old != nil && old.item.Entry.Kind == entry.Symlink {
		if into, name, err = c.behind(old, base); err != nil || name == "." {
			return into, err
		}
		if old, err = c.l.child(into, name); err != nil {
			return nil, err
		}
	}
	if old == nil || !old.item.Entry.IsDir() {
		n := c.l.add(into, name)
		n.bare = true
		n.item = c.item(e, n.item.Entry)
		if implied { // a --chown is not about it
			n.item.Entry.UID, n.item.Entry.GID = 0, 0
		}
		return n, nil
	}
	if !implied {
		old.item = c.item(e, old.item.Entry)
	}
	return old, nil
}

// behind returns the directory and the name that a link leads to, with base
// for the root. The name is "." when it is base itself.
func (c *copier) behind(link, base *node) (*node, string, error) {
	root := subtree{c.l, base.item.Entry.Path}
	name := link.item.Entry.Path
	if root.base != "." {
		name = name[len(root.base)+1:]
	}
	p, err := entry.Resolve(root, name, true)
	if err != nil {
		return nil, "", err
	}
	if p == "." {
		return base, ".", nil
	}
	dir, err := c.mkdirAll(entry.Join(root.base, entry.Parent(p)))
	el := entry.Entry{Path: p}
	return dir, el.Base(), err
}

// A subtree is what Lstat sees below a directory.
type subtree struct {
	*layout
	base string
}

// Lstat implements entry.FS for entry.Resolve.
func (s subtree) Lstat(p string) (entry.Entry, error) {
	return s.layout.Lstat(entry.Join(s.base, p))
}
