package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
)

// A Builder writes a layer in tar form: the tar and its index, in one pass
// and without reading the tar again. Its calls come from one goroutine.
type Builder struct {
	dir   string // "" is none: what would be written is only hashed
	out   *sink
	t     *table
	block [blockSize]byte // scratch, as is head
	head  bytes.Buffer
	links map[uint64]first
	done  bool
}

// first is where a hard link group's content lies.
type first struct {
	path string
	ino  uint32
}

// Create begins a layer in the folder dir, which is made when it is missing
// and must not hold a tar yet.
func Create(dir string) (*Builder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out, err := newSink(filepath.Join(dir, TarName))
	if err != nil {
		return nil, err
	}
	return newBuilder(dir, out), nil
}

func newBuilder(dir string, out *sink) *Builder {
	return &Builder{dir: dir, out: out, t: newTable(), links: map[uint64]first{}}
}

// Direct says, before the first Add, that nothing will read the layer soon: a
// large one is then written past the page cache.
func (b *Builder) Direct() { b.out.direct = true }

// Add writes one entry. The tar has the entries in the order of the calls:
// whoever wants sorted tars adds sorted. Parents come first; one that is
// never added is implied (Meta.Implied). A path added again replaces what it
// was. Times lose what is below a second, as in the tars of other builders.
//
// For a regular file content has exactly e.Size bytes; it is not read for the
// second and later names of one e.Inode, which become hard links. Sockets,
// which a tar cannot hold, are left out.
func (b *Builder) Add(e entry.Entry, content io.Reader) error {
	err := b.add(&e, content)
	if err != nil {
		return fmt.Errorf("layer: %s: %w", e.Path, err)
	}
	return nil
}

func (b *Builder) add(e *entry.Entry, content io.Reader) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	e.Mtime.Nsec = 0
	switch e.Kind {
	case entry.Socket:
		return nil
	case entry.Whiteout:
		return b.whiteout(e)
	case entry.File:
		return b.file(e, content)
	}
	if err := b.header(e, ""); err != nil {
		return err
	}
	if _, err := b.put(e, 0); err != nil {
		return err
	}
	if e.Opaque {
		return b.marker(entry.Join(e.Path, whOpaque))
	}
	return nil
}

// checkEntry refuses what no layer can hold, and what would mean something
// else to those who read its tar.
func checkEntry(e *entry.Entry) error {
	if e.Path != entry.Clean(e.Path) || strings.IndexByte(e.Path, 0) >= 0 {
		return errors.New("not a path of a layer")
	}
	if len(e.Path) > maxPath {
		return fmt.Errorf("path of %d bytes: %w", len(e.Path), ErrBound)
	}
	if e.Path == "." && e.Kind != entry.Dir {
		return fmt.Errorf("the root directory cannot be a %s", e.Kind)
	}
	if strings.HasPrefix(e.Base(), whPrefix) {
		return ErrWhiteoutName
	}
	if isWhiteoutDevice(e) {
		return errWhiteoutDevice
	}
	if e.Kind == entry.File && (e.Size < 0 || e.Size > maxTar) {
		return fmt.Errorf("file of %d bytes: %w", e.Size, ErrBound)
	}
	if e.Kind == entry.Symlink {
		return checkLink(e.Link)
	}
	return nil
}

func checkLink(text string) error {
	if text == "" || len(text) > maxLinkText || strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("link target of %d bytes: no file system holds it", len(text))
	}
	return nil
}

var errWhiteoutDevice = errors.New("character device 0/0 would delete a file of the layers below")

func isWhiteoutDevice(e *entry.Entry) bool {
	return e.Kind == entry.Char && e.Major == 0 && e.Minor == 0
}

func (b *Builder) file(e *entry.Entry, content io.Reader) error {
	if f, ok := b.links[e.Inode]; ok && e.Inode != 0 {
		// The first name may have been replaced since.
		if i, err := b.t.target(f.path); err == nil && i == f.ino {
			return b.hardlink(e, f)
		}
	}
	if err := b.header(e, ""); err != nil {
		return err
	}
	at := b.out.n
	if e.Size > 0 {
		if err := b.out.take(content, e.Size); err != nil {
			return err
		}
		b.out.align()
	}
	i, err := b.put(e, at)
	if err == nil && e.Inode != 0 {
		b.links[e.Inode] = first{e.Path, i}
	}
	return err
}

func (b *Builder) hardlink(e *entry.Entry, f first) error {
	if err := b.header(e, f.path); err != nil {
		return err
	}
	dir, base, err := b.t.parent(e.Path, true)
	if err != nil {
		return err
	}
	return b.t.attach(dir, base, f.ino)
}

func (b *Builder) whiteout(e *entry.Entry) error {
	dir, base, err := b.t.parent(e.Path, true)
	if err != nil {
		return err
	}
	if err := b.t.whiteout(dir, base); err != nil {
		return err
	}
	return b.marker(entry.Join(entry.Parent(e.Path), whPrefix+base))
}

// marker writes an empty file that stands for a deletion.
func (b *Builder) marker(p string) error {
	return b.header(&entry.Entry{Path: p, Kind: entry.File}, "")
}

// put records the entry in the index's table.
func (b *Builder) put(e *entry.Entry, at int64) (uint32, error) {
	ino, err := b.t.inodeOf(e)
	if err != nil {
		return 0, err
	}
	ino.data, ino.dev = at, 1
	if e.Path == "." {
		b.t.update(rootIno, ino)
		return rootIno, nil
	}
	dir, base, err := b.t.parent(e.Path, true)
	if err != nil {
		return 0, err
	}
	return b.t.put(dir, base, ino)
}

var typeflags = [...]byte{
	entry.File: tar.TypeReg, entry.Dir: tar.TypeDir, entry.Symlink: tar.TypeSymlink,
	entry.Char: tar.TypeChar, entry.Block: tar.TypeBlock, entry.Fifo: tar.TypeFifo,
}

const paxXattr = "SCHILY.xattr."

// header writes an entry's header: plain USTAR where that holds it, else with
// a PAX header before it. link is the first name of a hard link.
func (b *Builder) header(e *entry.Entry, link string) error {
	h := tar.Header{
		Typeflag: typeflags[e.Kind],
		Name:     e.Path,
		Linkname: e.Link,
		Size:     e.Size,
		Mode:     int64(e.Mode & 0o7777),
		Uid:      int(e.UID),
		Gid:      int(e.GID),
		ModTime:  time.Unix(e.Mtime.Sec, 0),
		Devmajor: int64(e.Major),
		Devminor: int64(e.Minor),
	}
	if e.Kind == entry.Dir {
		h.Name += "/"
	}
	if e.Kind == entry.Symlink {
		h.Mode = linkMode
	}
	if e.Kind != entry.File {
		h.Size = 0
	}
	if link != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, link, 0
	}
	for n, v := range keptXattrs(e.Xattrs) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+n] = v
	}
	if plainHeader(&b.block, &h) {
		_, err := b.out.Write(b.block[:])
		return err
	}
	b.head.Reset()
	if err := tar.NewWriter(&b.head).WriteHeader(&h); err != nil {
		return err
	}
	_, err := b.out.Write(b.head.Bytes())
	return err
}

// Finish ends the tar, writes the index and layer.json, and describes the
// layer. After an error the folder is worthless; Abort cleans it.
func (b *Builder) Finish() (Meta, error) {
	var end [2 * blockSize]byte
	b.out.Write(end[:])
	size := b.out.n
	b.done = true
	diffID, err := b.out.finish()
	if err != nil {
		return Meta{}, fmt.Errorf("layer %s: %w", b.dir, err)
	}
	m := Meta{DiffID: diffID, TarSize: size}
	if b.dir == "" {
		b.t.complete(&m)
		return m, nil
	}
	return finishTar(b.dir, b.t, m, nil)
}

// finishTar writes what stands beside a tar, and completes m.
func finishTar(dir string, t *table, m Meta, extra *extents) (Meta, error) {
	t.complete(&m)
	err := writeIndex(filepath.Join(dir, IndexName), t, []device{{m.DiffID.Hex(), m.TarSize}}, extra)
	if err != nil {
		return Meta{}, err
	}
	return m, WriteMeta(dir, m)
}

// complete says of a tar what the layer has.
func (t *table) complete(m *Meta) {
	m.Form = FormTar
	m.OpaqueRoot = t.inodes.at(rootIno).opaque
	for d := uint32(1); d < t.names.len(); d++ {
		if t.names.at(d).ino != 0 {
			m.Entries++
		}
	}
	for i := uint32(rootIno + 1); i < t.inodes.len(); i++ {
		ino := t.inodes.at(i)
		if ino.nlink == 0 {
			continue
		}
		m.Implied = m.Implied || ino.implied
		if ino.kind == entry.File {
			m.Size += ino.size
		}
	}
}

// Abort gives up and removes what was written. After Finish it removes the
// finished layer's files.
func (b *Builder) Abort() {
	if !b.done {
		b.done = true
		b.out.abort()
	}
	if b.dir != "" {
		removeTar(b.dir)
	}
}

// removeTar removes the files of the tar form, best effort.
func removeTar(dir string) {
	for _, n := range []string{TarName, IndexName, MetaName} {
		os.Remove(filepath.Join(dir, n))
	}
}
