package copying

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// A layout is the result being made: a tree of what is written, and through
// it the view of To with that on top.
type layout struct {
	entry.FS // To; only Lstat sees what is written
	root     *node
	now      entry.Time // of directories in which something changes
	batches  int
	cut      bool // something written was replaced with what was below it
}

// A node is one path of the result: something written, or a directory of To
// on the way to it.
type node struct {
	item  Item
	up    *node
	kids  []*node // sorted by name
	below *graft  // in place of kids
	bare  bool    // nothing of To shows through this directory
	gone  bool    // replaced
	under bool    // To has a directory here
}

func newLayout(to entry.FS, root entry.Entry, now entry.Time) *layout {
	root.Inode, root.Opaque = 0, false
	return &layout{FS: to, now: now, root: &node{item: Item{Entry: root, Parent: true}}}
}

func (l *layout) nextBatch() int {
	l.batches++
	return l.batches
}

// Lstat implements entry.FS for entry.Resolve.
func (l *layout) Lstat(p string) (entry.Entry, error) {
	n := l.root
	if p == "." {
		return n.item.Entry, nil
	}
	for name := range strings.SplitSeq(p, "/") {
		if err := n.open(); err != nil {
			return entry.Entry{}, err
		}
		k := n.kid(name)
		if k == nil && (n.bare || !n.item.Entry.IsDir()) {
			return entry.Entry{}, entry.NotExist("lstat", p)
		}
		if k == nil {
			return l.FS.Lstat(p)
		}
		n = k
	}
	return n.item.Entry, nil
}

// child returns the node of an existing name in the directory n, or nil. The
// node of something that only To has is not yet part of the tree unless it is
// a directory.
func (l *layout) child(n *node, name string) (*node, error) {
	if err := n.open(); err != nil {
		return nil, err
	}
	if k := n.kid(name); k != nil {
		return k, nil
	}
	if n.bare {
		return nil, nil
	}
	e, err := l.FS.Lstat(n.path(name))
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e.Inode, e.Opaque = 0, false
	if !e.IsDir() {
		return &node{item: Item{Entry: e}, up: n}, nil
	}
	k := n.attach(name)
	k.item = Item{Entry: e, Parent: true}
	k.under = true
	return k, nil
}

// add puts a new node in place of whatever had the name. The directory is
// another one from now on.
func (l *layout) add(n *node, name string) *node {
	n.item.Entry.Mtime = l.now
	return n.attach(name)
}

func (n *node) attach(name string) *node {
	k := &node{up: n, item: Item{Entry: entry.Entry{Path: n.path(name)}}}
	i, ok := n.search(name)
	if ok {
		old := n.kids[i]
		old.gone = true
		k.under = old.under
		n.kids[i] = k
	} else {
		n.kids = slices.Insert(n.kids, i, k)
	}
	return k
}

// kid returns the node of name in n, or nil.
func (n *node) kid(name string) *node {
	if i, ok := n.search(name); ok {
		return n.kids[i]
	}
	return nil
}

// search finds the place of name among the kids. Mostly it comes after them:
// what is copied is sorted.
func (n *node) search(name string) (int, bool) {
	skip := 0
	if dir := n.item.Entry.Path; dir != "." {
		skip = len(dir) + 1
	}
	byName := func(k *node, name string) int { return strings.Compare(k.item.Entry.Path[skip:], name) }
	if last := len(n.kids) - 1; last < 0 || byName(n.kids[last], name) < 0 {
		return last + 1, false
	}
	return slices.BinarySearchFunc(n.kids, name, byName)
}

// mkdirAll returns the directory at the physical path p. Missing ones are
// made as made says.
func (l *layout) mkdirAll(p string, made entry.Entry) (*node, error) {
	n := l.root
	if p == "." {
		return n, nil
	}
	for name := range strings.SplitSeq(p, "/") {
		k, err := l.child(n, name)
		if err != nil {
			return nil, err
		}
		if k != nil && !k.item.Entry.IsDir() {
			return nil, &Conflict{Path: "/" + k.item.Entry.Path, Parent: true}
		}
		if k == nil {
			if err := checkName(name, n.path(name)); err != nil {
				return nil, err
			}
			k = l.add(n, name)
			made.Path = k.item.Entry.Path
			k.item = Item{Entry: made, Parent: true, Made: true}
			k.bare = true
		}
		n = k
	}
	return n, nil
}

// path returns the path of name in the directory n.
func (n *node) path(name string) string { return entry.Join(n.item.Entry.Path, name) }

// attached reports whether n is still part of the tree.
func (n *node) attached() bool {
	for ; n != nil; n = n.up {
		if n.gone {
			return false
		}
	}
	return true
}

// items lists the tree. A directory of To is left out when nothing below it
// is written, and so is the root: its metadata never changes.
func (l *layout) items() []Item {
	var out []Item
	var list func(n *node) bool
	list = func(n *node) bool {
		mark := len(out)
		wrote := !n.item.Parent || n.item.Made
		n.item.Entry.Opaque = n.bare && n.under && n.item.Entry.IsDir()
		if n.item.below = n.below; n.below != nil {
			n.below.c.l = nil // of which nothing else is needed any more
		}
		out = append(out, n.item)
		for _, k := range n.kids {
			wrote = list(k) || wrote
		}
		if !wrote {
			out = out[:mark]
		}
		return wrote
	}
	if !list(l.root) {
		return nil
	}
	return out[1:]
}

// isNotExist is true for a missing path, as entry.FS reports it.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
