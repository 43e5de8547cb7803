package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// A TreeBuilder writes a layer in tree form: for layers that a step will see
// through the tree provider. Its calls come from one goroutine; small files
// are written by others, while the next content is read.
type TreeBuilder struct {
	to    string
	root  *fsroot.Root
	p     *planter
	pool  *plantPool
	dirs  map[string]entry.Entry
	names map[string]bool // of everything that is no directory
	links map[uint64]string
	meta  Meta
	ended bool
}

// NewTree begins a tree in the folder to, which is made or empty. The side
// file and layer.json go beside it. Finish or Abort must follow.
func NewTree(to string, o UnpackOptions) (*TreeBuilder, error) {
	root, err := emptyRoot(to)
	if err != nil {
		return nil, err
	}
	b := &TreeBuilder{
		to: to, root: root, p: newPlanter(o),
		dirs: map[string]entry.Entry{}, names: map[string]bool{}, links: map[uint64]string{},
	}
	b.pool = newPlantPool(b.p, root)
	b.p.side.s.RootImplied = true
	b.dirs["."] = entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755}
	return b, nil
}

// Add writes one entry, with the rules of Builder.Add. An error may be that
// of an earlier entry. Content that is an *os.File may be copied within the
// kernel.
func (b *TreeBuilder) Add(e entry.Entry, content io.Reader) error {
	err := b.add(&e, content)
	if err != nil {
		return fmt.Errorf("layer: %s: %w", e.Path, err)
	}
	return b.pool.failed()
}

func (b *TreeBuilder) add(e *entry.Entry, content io.Reader) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	e.Mtime.Nsec = 0
	e.Xattrs = keptXattrs(e.Xattrs)
	if e.Kind == entry.Socket {
		return nil
	}
	if e.Path == "." {
		b.p.side.s.RootImplied = false
		b.dirs["."] = *e
		return nil
	}
	if err := b.makeWay(e); err != nil {
		return err
	}
	switch {
	case e.Kind == entry.Dir:
		return b.directory(e)
	case e.Kind == entry.File && e.Inode != 0:
		return b.linked(e, content)
	case e.Kind == entry.File && e.Size <= maxPooled:
		return b.small(e, content)
	}
	b.names[e.Path] = true
	return b.p.plant(b.root, e.Path, e, func(f *os.File) error { return copyIn(f, content, e.Size) })
}

// makeWay makes what is missing above an entry, and removes what is in its
// place. After it nothing has the entry's name, or e is a directory that is
// there.
func (b *TreeBuilder) makeWay(e *entry.Entry) error {
	if err := b.parents(entry.Parent(e.Path)); err != nil {
		return err
	}
	_, isDir := b.dirs[e.Path]
	if b.names[e.Path] || isDir && e.Kind != entry.Dir {
		return b.remove(e.Path)
	}
	return nil
}

// parents makes the directories above an entry that were not added.
func (b *TreeBuilder) parents(p string) error {
	if _, ok := b.dirs[p]; ok {
		return nil
	}
	b.meta.Implied = true
	e := entry.Entry{Path: p, Kind: entry.Dir, Mode: 0o755}
	if err := b.makeWay(&e); err != nil {
		return err
	}
	return b.directory(&e)
}

func (b *TreeBuilder) directory(e *entry.Entry) error {
	if _, ok := b.dirs[e.Path]; !ok {
		if err := b.p.plant(b.root, e.Path, e, nil); err != nil {
			return err
		}
	}
	b.dirs[e.Path] = *e
	return nil
}

// small reads the content and leaves the rest to the pool.
func (b *TreeBuilder) small(e *entry.Entry, content io.Reader) error {
	buf := make([]byte, e.Size)
	if _, err := io.ReadFull(onlyNonEmpty(content, e.Size), buf); err != nil {
		return fmt.Errorf("content: %w", noEOF(err))
	}
	b.names[e.Path] = true
	b.pool.put(*e, buf)
	return nil
}

// onlyNonEmpty spares callers a reader for an empty file.
func onlyNonEmpty(r io.Reader, size int64) io.Reader {
	if size == 0 {
		return bytes.NewReader(nil)
	}
	return r
}

// remove takes away what has the name p, after all that is under way.
func (b *TreeBuilder) remove(p string) error {
	if err := b.pool.wait(); err != nil {
		return err
	}
	under := func(name string) bool { return name == p || strings.HasPrefix(name, p+"/") }
	for n := range b.dirs {
		if under(n) {
			delete(b.dirs, n)
		}
	}
	for n := range b.names {
		if under(n) {
			delete(b.names, n)
		}
	}
	for ino, first := range b.links {
		if under(first) {
			delete(b.links, ino)
		}
	}
	b.p.side.forget(under)
	return b.root.RemoveAll(p)
}

// linked writes the first name of a hard link group, or a further one.
func (b *TreeBuilder) linked(e *entry.Entry, content io.Reader) error {
	b.names[e.Path] = true
	if first, ok := b.links[e.Inode]; ok {
		if b.p.foreign(e) {
			b.p.side.owner(e)
		}
		err := b.root.Link(first, e.Path)
		if !errors.Is(err, syscall.EMLINK) {
			return err
		}
		// As many names as this file system gives one file: the next group.
	}
	b.links[e.Inode] = e.Path
	return b.p.plant(b.root, e.Path, e, func(f *os.File) error { return copyIn(f, content, e.Size) })
}

// AddLink adds the regular file e as another name of src, an open file of a
// tree that no step can write to any more. Where that cannot be (another file
// system, too many names, other metadata than e's, attributes of overlayfs),
// its content is copied instead; linked says which.
func (b *TreeBuilder) AddLink(e entry.Entry, src *os.File) (linked bool, err error) {
	if e.Kind == entry.File && sameMetadata(&e, src) {
		linked, err = b.link(&e, src)
	}
	if linked || err != nil {
		return linked, err
	}
	return false, b.Add(e, io.NewSectionReader(src, 0, e.Size))
}

func (b *TreeBuilder) link(e *entry.Entry, src *os.File) (bool, error) {
	if err := checkEntry(e); err != nil {
		return false, fmt.Errorf("layer: %s: %w", e.Path, err)
	}
	if err := b.makeWay(e); err != nil {
		return false, fmt.Errorf("layer: %s: %w", e.Path, err)
	}
	if err := b.root.LinkFile(src, e.Path); err != nil {
		return false, nil // Add finds out whether it is more than links
	}
	b.names[e.Path] = true
	return true, nil
}

// sameMetadata says whether a link to src is what e asks for.
func sameMetadata(e *entry.Entry, src *os.File) bool {
	i, err := fsroot.Stat(src)
	if err != nil || i.Kind != entry.File || i.Size != e.Size || i.Mode != e.Mode ||
		i.UID != e.UID || i.GID != e.GID || i.Mtime.Sec != e.Mtime.Sec || len(i.Xattrs) != len(e.Xattrs) {
		return false
	}
	for n, v := range i.Xattrs {
		if w, ok := e.Xattrs[n]; !ok || w != v || isOverlayXattr(n) {
			return false
		}
	}
	return true
}

// Finish sets the directories' metadata and writes the side file and
// layer.json.
func (b *TreeBuilder) Finish() (Meta, error) {
	defer b.root.Close()
	if err := b.end(); err != nil {
		return Meta{}, err
	}
	for _, e := range b.dirs {
		if err := b.p.finish(b.root, e.Path, &e); err != nil {
			return Meta{}, err
		}
	}
	if err := b.p.side.s.write(b.to); err != nil {
		return Meta{}, err
	}
	m, err := TreeMeta(b.to)
	if err != nil {
		return m, err
	}
	m.Implied = b.meta.Implied
	return m, WriteMeta(filepath.Dir(filepath.Clean(b.to)), m)
}

// end stops the pool, once.
func (b *TreeBuilder) end() error {
	if b.ended {
		return nil
	}
	b.ended = true
	return b.pool.close()
}

// Abort gives up and removes the tree.
func (b *TreeBuilder) Abort() {
	b.end()
	b.root.RemoveAll(".")
	b.root.Close()
	os.Remove(b.to)
	os.Remove(sidePath(b.to))
}
