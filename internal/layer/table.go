package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
)

// A table is the file tree of one layer while its index is made. Names and
// inodes are apart, as in a file system, so that hard links, replaced names
// and links to replaced names come out right. It takes about 130 bytes an
// entry, and 60 more where names do not come in order; what is removed is not
// reused.
type table struct {
	names  pages[dirent]
	inodes pages[inode]
	find   map[slot]uint32 // → names, of directories that are mapped
	chars  strings.Builder // of the names that were added last
	links  []string        // texts of symlinks
	attrs  []string        // encoded extended attributes; 0 is none
	attrID map[string]uint32
	text   int // bytes of attributes and links

	// The directory found last: tars list a directory's files together.
	lastPath string
	lastDir  uint32

	aufs map[string]uint32 // hidden hard link sources of AUFS → inodes
}

type slot struct {
	dir  uint32
	name string
}

// A dirent is one name. ino 0 is a name that was removed.
type dirent struct {
	name string
	ino  uint32
	next uint32 // the next name of the same directory
	wh   bool   // the layer deletes what lies below under this name
}

// An inode has no pointers: there may be millions, which the collector of
// garbage need not look at.
type inode struct {
	size    int64
	sec     int64
	data    int64 // where a file's content begins on its device
	nsec    uint32
	uid     uint32
	gid     uint32
	attrs   uint32
	nlink   uint32
	rdev    uint32 // of devices; of a symlink its place among the table's links
	kids    uint32 // head of a directory's names, the one that was added last
	parent  uint32 // of a directory
	nid     uint32 // place in the image, in units of 32 bytes
	perm    uint16
	dev     uint16 // 0 is the index itself
	plen    uint16 // length of a directory's path
	kind    entry.Kind
	implied bool
	opaque  bool
	mapped  bool // a directory's names did not come in order, and are in find
	// whiteouts is set by sortNames for directories that delete something.
	whiteouts bool
}

const rootIno = 1

func newTable() *table {
	t := &table{find: map[slot]uint32{}, attrs: []string{""}, attrID: map[string]uint32{"": 0}}
	t.names.add(dirent{})
	t.inodes.add(inode{})
	t.inodes.add(inode{kind: entry.Dir, perm: 0o755, parent: rootIno, implied: true})
	return t
}

var errNotDir = errors.New("not a directory")

// lookup finds a name in a directory, or returns 0. Names mostly come in order:
// then one is the last or new.
func (t *table) lookup(dir uint32, name string) uint32 {
	ino := t.inodes.at(dir)
	if !ino.mapped {
		if ino.kids == 0 {
			return 0
		}
		switch c := strings.Compare(name, t.names.at(ino.kids).name); {
		case c == 0:
			return ino.kids
		case c > 0:
			return 0
		}
		t.mapNames(dir)
	}
	return t.find[slot{dir, name}]
}

// mapNames puts the names of a directory into find.
func (t *table) mapNames(dir uint32) {
	ino := t.inodes.at(dir)
	ino.mapped = true
	for d := ino.kids; d != 0; {
		n := t.names.at(d)
		t.find[slot{dir, n.name}] = d
		d = n.next
	}
}

// keep returns a copy of a name, which lies beside others.
func (t *table) keep(name string) string {
	if t.chars.Cap()-t.chars.Len() < len(name) {
		t.chars.Reset()
		t.chars.Grow(min(32<<10, 512+16*int(t.names.len())))
	}
	at := t.chars.Len()
	t.chars.WriteString(name)
	return t.chars.String()[at:]
}

// linkOf is the text of a symlink.
func (t *table) linkOf(ino *inode) string { return t.links[ino.rdev] }

// parent finds the directory that holds the last element of p, an entry.FS
// path, as an extractor whose root is the layer would: links of the layer
// itself are followed. Missing directories are made when mk is set.
func (t *table) parent(p string, mk bool) (dir uint32, base string, err error) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return rootIno, p, nil
	}
	dp, base := p[:i], p[i+1:]
	if dp == t.lastPath {
		return t.lastDir, base, nil
	}
	dir, straight, err := t.walk(dp, mk)
	if err == nil && straight {
		t.lastPath, t.lastDir = strings.Clone(dp), dir
	}
	return dir, base, err
}

const maxLinks = 40 // MAXSYMLINKS of the kernel

// walk resolves a directory. straight says that no link was on the way.
func (t *table) walk(p string, mk bool) (dir uint32, straight bool, err error) {
	cur, links, rest := uint32(rootIno), 0, p
	for rest != "" {
		el, tail, _ := strings.Cut(rest, "/")
		rest = tail
		switch el {
		case "", ".":
			continue
		case "..":
			cur = t.inodes.at(cur).parent
			continue
		}
		next, link, err := t.step(cur, el, mk)
		if err != nil {
			return 0, false, fmt.Errorf("%s: %w", p, err)
		}
		if link == "" {
			cur = next
			continue
		}
		if links++; links > maxLinks {
			return 0, false, fmt.Errorf("%s: %w", p, entry.ErrLoop)
		}
		if strings.HasPrefix(link, "/") {
			cur = rootIno
		}
		rest = link + "/" + rest
		if len(rest) > maxLinks*maxPath {
			return 0, false, fmt.Errorf("%s: %w", p, syscall.ENAMETOOLONG)
		}
	}
	return cur, links == 0, nil
}

// step goes from a directory to the one called name: to its inode, or to the
// text of a link.
func (t *table) step(dir uint32, name string, mk bool) (next uint32, link string, err error) {
	d := t.lookup(dir, name)
	if d == 0 && !mk {
		return 0, "", fs.ErrNotExist
	}
	if d == 0 {
		next, err = t.imply(dir, name)
		return next, "", err
	}
	n := t.names.at(d)
	switch ino := t.inodes.at(n.ino); ino.kind {
	case entry.Dir:
		return n.ino, "", nil
	case entry.Symlink:
		return 0, t.linkOf(ino), nil
	case entry.Whiteout:
		if mk {
			next, err = t.imply(dir, name)
			return next, "", err
		}
	}
	return 0, "", errNotDir
}

// imply makes a directory that only its content speaks of.
func (t *table) imply(dir uint32, name string) (uint32, error) {
	return t.put(dir, name, inode{kind: entry.Dir, perm: 0o755, implied: true})
}

// put gives name in dir a new inode. What was there is gone, but a directory
// that meets a directory only changes its metadata.
func (t *table) put(dir uint32, name string, ino inode) (uint32, error) {
	if len(name) > maxName {
		return 0, fmt.Errorf("name of %d bytes: %w", len(name), ErrBound)
	}
	if t.inodes.len() > 2*maxEntries {
		return 0, fmt.Errorf("more than %d entries: %w", 2*maxEntries, ErrBound)
	}
	d := t.lookup(dir, name)
	if d != 0 && ino.kind == entry.Dir {
		if i := t.names.at(d).ino; t.inodes.at(i).kind == entry.Dir {
			t.update(i, ino)
			return i, nil
		}
	}
	if ino.kind == entry.Dir {
		ino.parent = dir
		plen := int(t.inodes.at(dir).plen) + 1 + len(name)
		if plen > maxPath {
			return 0, fmt.Errorf("path of %d bytes: %w", plen, ErrBound)
		}
		ino.plen = uint16(plen)
	}
	i := t.inodes.add(ino)
	return i, t.attach(dir, name, i)
}

// update changes the metadata of directory i and keeps its content.
func (t *table) update(i uint32, ino inode) {
	old := t.inodes.at(i)
	ino.kids, ino.parent, ino.plen, ino.nlink, ino.mapped = old.kids, old.parent, old.plen, old.nlink, old.mapped
	ino.opaque = ino.opaque || old.opaque
	*old = ino
}

// attach makes name in dir a name of inode i.
func (t *table) attach(dir uint32, name string, i uint32) error {
	ino := t.inodes.at(i)
	if d := t.lookup(dir, name); d != 0 {
		n := t.names.at(d)
		if n.ino == i {
			return nil
		}
		ino.nlink++
		t.drop(n.ino)
		n.ino = i
		ino.opaque = ino.opaque || n.wh && ino.kind == entry.Dir
		return nil
	}
	if t.names.len() > maxEntries {
		return fmt.Errorf("more than %d entries: %w", maxEntries, ErrBound)
	}
	ino.nlink++
	name = t.keep(name)
	parent := t.inodes.at(dir)
	d := t.names.add(dirent{name: name, ino: i, next: parent.kids})
	parent.kids = d
	if parent.mapped {
		t.find[slot{dir, name}] = d
	}
	return nil
}

// drop takes one name from an inode, and removes a directory's content.
func (t *table) drop(i uint32) {
	ino := t.inodes.at(i)
	ino.nlink--
	if ino.kind != entry.Dir {
		return
	}
	t.lastPath = ""
	for d := ino.kids; d != 0; {
		n := t.names.at(d)
		if n.ino != 0 {
			t.drop(n.ino)
			delete(t.find, slot{i, n.name})
			n.ino = 0
		}
		d = n.next
	}
	ino.kids = 0
}

// whiteout records that the layer deletes name. Entries of the layer itself
// are not touched, whatever the order: whiteouts apply to lower layers only
// (OCI image-spec, layer.md).
func (t *table) whiteout(dir uint32, name string) error {
	d := t.lookup(dir, name)
	if d == 0 {
		if _, err := t.put(dir, name, inode{kind: entry.Whiteout}); err != nil {
			return err
		}
		d = t.lookup(dir, name)
	}
	n := t.names.at(d)
	n.wh = true
	if ino := t.inodes.at(n.ino); ino.kind == entry.Dir {
		ino.opaque = true
	}
	return nil
}

// target finds the inode that a hard link entry speaks of.
func (t *table) target(p string) (uint32, error) {
	if i, ok := t.aufs[p]; ok {
		return i, nil
	}
	dir, base, err := t.parent(p, false)
	if err != nil {
		return 0, err
	}
	d := t.lookup(dir, base)
	if d == 0 || t.inodes.at(t.names.at(d).ino).kind == entry.Whiteout {
		return 0, fs.ErrNotExist
	}
	return t.names.at(d).ino, nil
}

// attrSet keeps one copy of each set of extended attributes.
func (t *table) attrSet(attrs map[string]string) (uint32, error) {
	if len(attrs) == 0 {
		return 0, nil
	}
	enc, err := encodeXattrs(attrs)
	if err != nil {
		return 0, err
	}
	if id, ok := t.attrID[enc]; ok {
		return id, nil
	}
	if t.text += len(enc); t.text > maxText {
		return 0, fmt.Errorf("extended attributes and links of %d bytes: %w", t.text, ErrBound)
	}
	id := uint32(len(t.attrs))
	t.attrs = append(t.attrs, enc)
	t.attrID[enc] = id
	return id, nil
}

// linkMode is what Linux says of every symlink, whatever a tar says.
const linkMode = 0o777

// inodeOf makes an inode of an entry.
func (t *table) inodeOf(e *entry.Entry) (inode, error) {
	attrs, err := t.attrSet(keptXattrs(e.Xattrs))
	if err != nil {
		return inode{}, err
	}
	ino := inode{
		kind: e.Kind, perm: uint16(e.Mode & 0o7777), uid: e.UID, gid: e.GID,
		sec: e.Mtime.Sec, nsec: e.Mtime.Nsec, attrs: attrs, opaque: e.Opaque && e.Kind == entry.Dir,
	}
	switch e.Kind {
	case entry.File:
		ino.size = e.Size
	case entry.Symlink:
		if t.text += len(e.Link); t.text > maxText {
			return inode{}, fmt.Errorf("extended attributes and links of %d bytes: %w", t.text, ErrBound)
		}
		ino.rdev, ino.perm = uint32(len(t.links)), linkMode
		t.links = append(t.links, strings.Clone(e.Link))
	case entry.Char, entry.Block:
		ino.rdev = encodeDev(e.Major, e.Minor)
	}
	return ino, nil
}

// sortNames puts the names of every directory in order and forgets those
// that were removed. After it the table does not change.
func (t *table) sortNames() {
	t.find = nil
	var kids []uint32
	for i := uint32(1); i < t.inodes.len(); i++ {
		ino := t.inodes.at(i)
		if ino.kind != entry.Dir || ino.kids == 0 {
			continue
		}
		kids = kids[:0]
		for d := ino.kids; d != 0; d = t.names.at(d).next {
			if t.names.at(d).ino != 0 {
				kids = append(kids, d)
				ino.whiteouts = ino.whiteouts || t.inodes.at(t.names.at(d).ino).kind == entry.Whiteout
			}
		}
		slices.SortFunc(kids, func(a, b uint32) int {
			return strings.Compare(t.names.at(a).name, t.names.at(b).name)
		})
		head := &ino.kids
		for _, d := range kids {
			*head = d
			head = &t.names.at(d).next
		}
		*head = 0
	}
}

// encodeDev packs a device number as the kernel does (new_encode_dev).
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | (major&0xfff)<<8 | (minor&^0xff)<<12
}

func decodeDev(d uint32) (major, minor uint32) {
	return d >> 8 & 0xfff, d&0xff | d>>12&0xfff00
}

// pages is a list that grows without copying what it has.
type pages[T any] struct {
	p [][]T
	n uint32
}

const pageLen = 1024

func (l *pages[T]) add(v T) uint32 {
	if l.n%pageLen == 0 {
		l.p = append(l.p, make([]T, pageLen))
	}
	l.p[l.n/pageLen][l.n%pageLen] = v
	l.n++
	return l.n - 1
}

func (l *pages[T]) at(i uint32) *T { return &l.p[i/pageLen][i%pageLen] }

func (l *pages[T]) len() uint32 { return l.n }
