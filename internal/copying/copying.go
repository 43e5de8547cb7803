// Package copying owns what a COPY, an ADD or a WORKDIR writes: which sources
// match, where they land, with which owner, mode and links, and the digest of
// what is copied. It computes; it never opens a file of the host and writes
// nothing. Its inputs are two entry.FS views, its output is a list of entries
// in the order of a layer.
//
// The behaviour is the Dockerfile reference's, to the letter where anybody
// could tell the difference; testdata/cases.txt holds the answers of a running
// builder that the tests compare with. Known differences, each with its
// reason:
//
//   - directories that are made, or get something new, get Request.Now, not
//     the time of day;
//   - a block device stays one: there it changes its type by mistake;
//   - ids up to 4294967294 are numbers, not the names of users, whom nobody
//     finds and who are then root;
//   - what a layer cannot hold is refused, as *Unfit: there a file named
//     .wh.x is copied, and deletes x when the image is used.
//
// Everything read here is hostile: sources and destinations cannot leave
// their root, links are followed inside it, tables of users are bounded.
package copying

import (
	"path"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// Request says what to copy and where to. The zero value of every field but
// From, To and Sources is a usable default.
type Request struct {
	// From holds what is copied: a build context, the merged view of a stage
	// or an image, or an unpacked archive.
	From entry.FS
	// Sources are paths in From, as written and expanded; "" is its root.
	Sources []string
	// Literal sources are names, not patterns: here-documents, downloads.
	Literal bool
	// Parents keeps the paths of sources below Dest. Each is a directory, /./
	// and a pattern of what to take from it: the part that is kept.
	Parents bool
	// Excludes are patterns of what to leave out of copied directories, by its
	// path below them.
	Excludes []string
	// Archive unpacks From's root into Dest, which is then a directory;
	// Sources is not read. Owners, modes and times are the archive's: Chmod
	// does nothing, Chown sets every owner.
	Archive bool
	// Name is what messages call the archive; "" leaves it out.
	Name string
	// Implied reports whether an archive has the directory at a path of From
	// only as the parent of something: then an existing directory keeps its
	// metadata, and a link to one stays. Nil means that it never does.
	Implied func(path string) bool
	// FromContext makes 0:0 the owner of everything; otherwise ids are kept.
	FromContext bool

	// To is what the instruction's layer will lie on.
	To entry.FS
	// Dest is an absolute path; a "/" or "/." at its end says that it is a
	// directory.
	Dest string
	// Chown and Chmod are the flags' values, expanded.
	Chown, Chmod string
	// Now is the time of directories that are made or get something new.
	Now entry.Time

	// HintDirs are searched first for the likely place of a missing source:
	// the working directories of the stage that is copied from.
	HintDirs []string
}

// Item is one entry of the layer.
type Item struct {
	// Entry is the result: its Path is where it lands, its metadata is final.
	Entry entry.Entry
	// Source is the path in From. It is "" for directories that are made or
	// only repeated, and for an empty file that stands for a socket.
	Source string
	// From is the index of the request whose From has Source.
	From int
	// Parent is set for directories that hold what is written: existing ones
	// with the metadata they have, but for the time, and made ones.
	Parent bool
	// Made is set for directories that did not exist and are not a copy of
	// one: their Mtime is the request's Now.
	Made bool

	links linkGroup
	below *graft // what follows a directory, instead of items for it
}

// Warning is advice about a copy that does what it should and perhaps not
// what was meant.
type Warning struct {
	Source  string   // the source, as written
	Paths   []string // what it is about, in From
	Message string
	Hint    string
}

// Plan returns what one instruction writes, in layer order: parents before
// children, names sorted, each path once. Every existing directory that holds
// something written is among the items, with the metadata it has in To, so
// that a layer made of them says everything about its parents. What To has just
// so is left out. A request that changes nothing has no items.
//
// An instruction whose sources are of several kinds has several requests, in
// their order: each sees what those before it placed. To is that of the first.
//
// Mistakes of the Dockerfile's author are *NotFound, *Conflict, *BadMode,
// *BadPattern, *NotKept, *Unfit and *pattern.Error.
func Plan(rs []Request) (*Items, []Warning, error) {
	if len(rs) == 0 {
		return &Items{}, nil, nil
	}
	root, err := rs[0].To.Lstat(".")
	if err != nil {
		return nil, nil, err
	}
	l := newLayout(rs[0].To, root, rs[0].Now)
	var warnings []Warning
	for i := range rs {
		w, err := place(l, &rs[i], i)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, w...)
	}
	items, err := changed(l.items(), rs)
	return Listed(items), warnings, err
}

// place adds what r writes to l.
func place(l *layout, r *Request, index int) ([]Warning, error) {
	c := copier{r: r, index: index, l: l}
	var err error
	if c.owner, err = chown(l.FS, r.Chown); err != nil {
		return nil, err
	}
	m, err := parseMode(r.Chmod)
	if err != nil {
		return nil, err
	}
	if r.Archive {
		err := c.unpack()
		if err != nil && r.Name != "" {
			err = &InArchive{Archive: r.Name, Err: err}
		}
		return nil, err
	}
	c.mode = m
	var warnings []Warning
	for _, s := range r.Sources {
		ms, err := match(r, s)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			if err := c.copy(m); err != nil {
				return nil, err
			}
		}
		if w, ok := flattened(r, s, ms); ok {
			warnings = append(warnings, w)
		}
	}
	return warnings, nil
}

// A copier places the sources of one request.
type copier struct {
	r     *Request
	index int
	l     *layout
	owner *owner // nil: owners are kept
	mode  mode
	batch int // which copied source hard links belong to
}

// copy places one matched source. A copied directory itself gives nothing but
// its contents, and its time if the destination had to be made.
func (c *copier) copy(m matched) error {
	c.batch = c.l.nextBatch()
	if err := c.ensure(c.r.Dest); err != nil {
		return err
	}
	at, err := entry.Resolve(c.l, entry.Clean(c.r.Dest), true)
	if err != nil {
		return err
	}
	old, err := c.l.Lstat(at)
	have := err == nil
	if err != nil && !isNotExist(err) {
		return err
	}
	if m.entry.IsDir() {
		if have && !old.IsDir() {
			return &Conflict{Path: "/" + at, Source: m.name}
		}
		dir, err := c.mkdirAll(at)
		if err != nil {
			return err
		}
		err = c.contents(m.filter, branch{path: m.entry.Path}, dir)
		dir.item.Entry.Mtime = m.entry.Mtime
		if m.entry.Path == "." { // when a root was made is nobody's matter
			dir.item.Entry.Mtime = c.r.Now
		}
		return err
	}
	if have && old.IsDir() {
		at = entry.Join(at, path.Base(m.name))
	}
	dir, err := c.mkdirAll(entry.Parent(at))
	if err != nil {
		return err
	}
	return c.leaf(m.entry, dir, path.Base(at))
}

// ensure makes the directory that the destination's text asks for: itself
// when it ends in a slash, else its parent.
func (c *copier) ensure(dest string) error {
	p := entry.Clean(dest)
	if !meansDir(dest) {
		p = entry.Parent(p)
	}
	at, err := entry.Resolve(c.l, p, true)
	if err != nil {
		return err
	}
	_, err = c.mkdirAll(at)
	return err
}

// meansDir reports whether a destination says that it is a directory.
func meansDir(dest string) bool {
	return dest == "" || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
}

// mkdirAll returns the node of the directory at the physical path p, which it
// makes when it is missing, and its parents.
func (c *copier) mkdirAll(p string) (*node, error) {
	made := entry.Entry{Kind: entry.Dir, Mode: c.mode.ofMade(), Mtime: c.r.Now}
	if c.owner != nil {
		made.UID, made.GID = c.owner.uid, c.owner.gid
	}
	return c.l.mkdirAll(p, made)
}

// contents places what counts in the directory from.
func (c *copier) contents(f *filter, from branch, into *node) error {
	return f.each(from, func(k kid) error {
		switch {
		case !k.entry.IsDir():
			return c.leaf(k.entry, into, k.entry.Base())
		case k.way:
			return c.way(f, k, into)
		}
		return c.dir(f, k, into)
	})
}

// dir places a directory found inside a copied one: unlike the copied one
// itself it brings its own metadata, also to a directory that exists.
func (c *copier) dir(f *filter, k kid, parent *node) error {
	n, have, err := c.subdir(k.entry, parent)
	if err != nil {
		return err
	}
	n.item = c.item(k.entry, n.item.Entry)
	if !have {
		n.below, err = c.graft(f, k.branch)
		return err
	}
	err = c.contents(f, k.branch, n)
	n.item.Entry.Mtime = k.entry.Mtime
	return err
}

// way places a directory that is not copied but has something in it that is.
// A new one is like the source's, but for its time; one that exists takes the
// source's mode and no more.
func (c *copier) way(f *filter, k kid, parent *node) error {
	n, have, err := c.subdir(k.entry, parent)
	if err != nil {
		return err
	}
	if have {
		n.item.Entry.Mode, n.item.Parent = k.entry.Mode, false
	} else {
		n.item = c.newWay(k.entry, n.item.Entry)
	}
	return c.contents(f, k.branch, n)
}

// subdir returns the node for the directory e in parent, and whether it is
// there already.
func (c *copier) subdir(e entry.Entry, parent *node) (n *node, have bool, err error) {
	if err := check(e, e.Base()); err != nil {
		return nil, false, err
	}
	n, err = c.l.child(parent, e.Base())
	if err != nil {
		return nil, false, err
	}
	if n == nil {
		n = c.l.add(parent, e.Base())
		n.bare = true
		return n, false, nil
	}
	if !n.item.Entry.IsDir() {
		return nil, false, &Conflict{Path: "/" + n.item.Entry.Path, Source: e.Path}
	}
	return n, true, nil
}

// leaf places anything but a directory. It replaces anything but a directory.
func (c *copier) leaf(e entry.Entry, parent *node, name string) error {
	if err := check(e, name); err != nil {
		return err
	}
	old, err := c.l.child(parent, name)
	if err != nil {
		return err
	}
	if old != nil && old.item.Entry.IsDir() {
		return &Conflict{Path: "/" + old.item.Entry.Path, Source: e.Path, Directory: true}
	}
	n := c.l.add(parent, name)
	n.item = c.item(e, n.item.Entry)
	return nil
}

// newWay is item, for a directory that only leads to something that is copied.
func (c *copier) newWay(e, old entry.Entry) Item {
	it := c.item(e, old)
	it.Entry.Mtime = c.r.Now
	it.Parent, it.Made, it.Source = true, true, ""
	return it
}

// item is e as it lands at old's path, with the request's owner and mode.
// What is written to an existing directory adds to its extended attributes.
func (c *copier) item(e, old entry.Entry) Item {
	it := Item{Source: e.Path, From: c.index}
	if e.Kind == entry.File && e.Inode != 0 {
		it.links = linkGroup{c.batch, e.Inode}
	}
	e.Path, e.Inode, e.Opaque = old.Path, 0, false
	if e.Kind == entry.Socket {
		// A tar has no sockets, and one without its process is of no use; the
		// reference leaves an empty file.
		e.Kind, e.Size, it.Source = entry.File, 0, ""
	}
	if c.r.FromContext && !c.r.Archive {
		e.UID, e.GID = 0, 0
	}
	if c.owner != nil {
		e.UID, e.GID = c.owner.uid, c.owner.gid
	}
	if e.Kind != entry.Symlink && !c.r.Archive {
		e.Mode = c.mode.apply(e.Mode, e.IsDir())
	}
	e.Xattrs = mergeXattrs(old.Xattrs, e.Xattrs)
	it.Entry = e
	return it
}

// mergeXattrs returns old and what may be copied of add, which wins.
func mergeXattrs(old, add map[string]string) map[string]string {
	if len(old)+len(add) == 0 {
		return nil
	}
	all := make(map[string]string, len(old)+len(add))
	for k, v := range old {
		all[k] = v
	}
	for k, v := range add {
		if !steersOverlay(k) {
			all[k] = v
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}
