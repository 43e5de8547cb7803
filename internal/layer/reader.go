package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// An image reads an index that lies in memory. Nothing in it is believed: a
// damaged index gives errImage, never a panic.
type image struct {
	b           []byte
	root        uint32
	devices     []device
	rootImplied bool
}

var (
	errImage = errors.New("index is damaged")
	errIsDir = errors.New("not a regular file")
)

const noDevice = 1 << 16

func openImage(b []byte) (image, error) {
	m := image{b: b}
	if len(b) < superOffset+superSize {
		return m, errImage
	}
	s := b[superOffset:]
	if le.Uint32(s) != erofsMagic || s[12] != blockBits || le.Uint32(s[80:]) != incompatFlag {
		return m, fmt.Errorf("not an index of this program: %w", errImage)
	}
	if string(b[labelOffset:labelOffset+len(label)]) != label {
		return m, fmt.Errorf("not an index of this program: %w", errImage)
	}
	if int64(le.Uint32(s[36:]))*blockSize != int64(len(b)) {
		return m, fmt.Errorf("%d bytes: %w", len(b), errImage)
	}
	m.root = uint32(le.Uint16(s[14:]))
	m.rootImplied = b[labelOffset+len(label)] == labelNone
	for n := range int(le.Uint16(s[86:])) {
		slot := m.at(superOffset+superSize+int64(n)*slotSize, slotSize)
		if slot == nil {
			return m, errImage
		}
		m.devices = append(m.devices, device{
			tag: string(bytes.TrimRight(slot[:64], "\x00")), size: int64(le.Uint32(slot[64:])) * blockSize,
		})
	}
	return m, nil
}

// at returns n bytes of the image, or nil.
func (m *image) at(off, n int64) []byte {
	if off < 0 || n < 0 || off > int64(len(m.b))-n {
		return nil
	}
	return m.b[off : off+n : off+n]
}

// stored is an inode as it lies in the image.
type stored struct {
	nid       uint32
	layout    uint16
	kind      entry.Kind
	perm      uint32
	size      int64
	value     uint32
	nlink     uint32
	head      []byte
	attrs     []byte // encoded
	tail      int64  // where what follows the attributes begins
	chunkBits uint16
}

func (m *image) inode(nid uint32) (stored, error) {
	off := int64(nid) * nidSize
	b := m.at(off, inodeSize)
	if b == nil {
		return stored{}, fmt.Errorf("inode %d: %w", nid, errImage)
	}
	i := stored{
		nid: nid, head: b, layout: le.Uint16(b) >> 1 & 7, perm: uint32(le.Uint16(b[4:]) & 0o7777),
		size: int64(le.Uint64(b[8:])), value: le.Uint32(b[16:]), nlink: le.Uint32(b[44:]),
	}
	kind, ok := kindOfMode(le.Uint16(b[4:]))
	if !ok || le.Uint16(b)&1 == 0 || i.size < 0 || i.size > maxTar {
		return stored{}, fmt.Errorf("inode %d: %w", nid, errImage)
	}
	i.kind = kind
	if kind == entry.Char && i.value == 0 {
		i.kind = entry.Whiteout
	}
	i.tail = off + inodeSize
	if n := int64(le.Uint16(b[2:])); n > 0 {
		size := xattrHeader + (n-1)*xattrEntry
		if i.attrs = m.at(i.tail, size); i.attrs == nil {
			return stored{}, fmt.Errorf("inode %d: %w", nid, errImage)
		}
		i.attrs = i.attrs[xattrHeader:]
		i.tail += size
	}
	if i.layout == layoutChunk {
		i.chunkBits = uint16(i.value) & 0x1f
		i.tail = alignUp(i.tail, chunkSize)
	}
	return i, nil
}

// data returns the data of a directory or link.
func (m *image) data(i stored) ([]byte, error) {
	off := i.tail
	if i.layout == layoutPlain {
		off = int64(i.value) * blockSize
	}
	if b := m.at(off, i.size); b != nil && i.layout != layoutChunk {
		return b, nil
	}
	return nil, fmt.Errorf("inode %d: %w", i.nid, errImage)
}

// pieces returns a regular file's chunks.
func (m *image) pieces(i stored) ([]piece, error) {
	if i.kind != entry.File {
		return nil, errIsDir
	}
	if i.size == 0 {
		return nil, nil
	}
	if i.layout != layoutChunk || i.value&chunkIndexes == 0 {
		return nil, fmt.Errorf("inode %d: %w", i.nid, errImage)
	}
	chunk := int64(blockSize) << i.chunkBits
	b := m.at(i.tail, (i.size+chunk-1)/chunk*chunkSize)
	if b == nil {
		return nil, fmt.Errorf("inode %d: %w", i.nid, errImage)
	}
	out := make([]piece, 0, len(b)/chunkSize)
	for ; len(b) > 0; b = b[chunkSize:] {
		p := piece{dev: uint32(le.Uint16(b[2:])), off: int64(le.Uint32(b[4:])) * blockSize}
		if le.Uint32(b[4:]) == noBlock {
			p.dev = noDevice
		}
		out = append(out, p)
	}
	return out, nil
}

// find walks a physical path.
func (m *image) find(p string) (uint32, error) {
	nid := m.root
	if p == "." {
		return nid, nil
	}
	for p != "" {
		name, rest, _ := strings.Cut(p, "/")
		p = rest
		next, err := m.lookup(nid, name)
		if err != nil {
			return 0, err
		}
		nid = next
	}
	return nid, nil
}

// dir returns a directory's data, which is fs.ErrNotExist for anything that
// is none.
func (m *image) dir(nid uint32) ([]byte, error) {
	i, err := m.inode(nid)
	if err != nil {
		return nil, err
	}
	if i.kind != entry.Dir {
		return nil, fs.ErrNotExist
	}
	return m.data(i)
}

// A block is one block of a directory: entries, then names.
type block []byte

// count returns the number of entries, or 0 for a damaged block.
func (b block) count() int {
	if len(b) < direntSize {
		return 0
	}
	n := int(le.Uint16(b[8:]))
	if n%direntSize != 0 || n > len(b) {
		return 0
	}
	return n / direntSize
}

func (b block) nid(i int) uint32 { return uint32(le.Uint64(b[i*direntSize:])) }

func (b block) name(i, count int) []byte {
	from, to := int(le.Uint16(b[i*direntSize+8:])), len(b)
	if i+1 < count {
		to = int(le.Uint16(b[(i+1)*direntSize+8:]))
	}
	if from > to || to > len(b) {
		return nil
	}
	name := b[from:to]
	if i+1 < count {
		return name
	}
	if z := bytes.IndexByte(name, 0); z >= 0 {
		name = name[:z]
	}
	return name
}

func blockOf(data []byte, i int) block {
	from := i * blockSize
	return block(data[from:min(from+blockSize, len(data))])
}

// lookup finds a name by two binary searches: the block, then the entry.
func (m *image) lookup(dir uint32, name string) (uint32, error) {
	data, err := m.dir(dir)
	if err != nil {
		return 0, err
	}
	lo, hi := 0, (len(data)+blockSize-1)/blockSize
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		b := blockOf(data, mid)
		n := b.count()
		if n == 0 {
			return 0, fmt.Errorf("directory %d: %w", dir, errImage)
		}
		if string(b.name(0, n)) <= name {
			lo = mid
		} else {
			hi = mid
		}
	}
	b := blockOf(data, lo)
	n := b.count()
	for from, to := 0, n; from < to; {
		mid := (from + to) / 2
		got := string(b.name(mid, n))
		if got == name {
			return b.nid(mid), nil
		}
		if got < name {
			from = mid + 1
		} else {
			to = mid
		}
	}
	return 0, fs.ErrNotExist
}

// each calls fn for every name of a directory, in order.
func (m *image) each(dir uint32, fn func(name string, nid uint32) error) error {
	data, err := m.dir(dir)
	if err != nil {
		return err
	}
	for at := 0; at*blockSize < len(data); at++ {
		b := blockOf(data, at)
		n := b.count()
		if n == 0 {
			return fmt.Errorf("directory %d: %w", dir, errImage)
		}
		for i := range n {
			name := string(b.name(i, n))
			if name == "." || name == ".." {
				continue
			}
			if name == "" || strings.ContainsRune(name, '/') {
				return fmt.Errorf("directory %d: %w", dir, errImage)
			}
			if err := fn(name, b.nid(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry describes an inode under a path.
func (m *image) entry(nid uint32, p string) (entry.Entry, error) {
	i, err := m.inode(nid)
	if err != nil {
		return entry.Entry{}, err
	}
	e := entry.Entry{
		Path: p, Kind: i.kind, Mode: i.perm, UID: le.Uint32(i.head[24:]), GID: le.Uint32(i.head[28:]),
		Mtime: entry.Time{Sec: int64(le.Uint64(i.head[32:])), Nsec: le.Uint32(i.head[40:])},
	}
	switch i.kind {
	case entry.File:
		e.Size = i.size
		if i.nlink > 1 {
			e.Inode = uint64(nid)
		}
	case entry.Symlink:
		b, err := m.data(i)
		if err != nil {
			return e, err
		}
		e.Link = string(b)
	case entry.Char, entry.Block:
		e.Major, e.Minor = decodeDev(i.value)
	}
	e.Xattrs, e.Opaque, err = decodeXattrs(i.attrs)
	if err != nil {
		return e, fmt.Errorf("inode %d: %w", nid, err)
	}
	return e, nil
}

func decodeXattrs(b []byte) (attrs map[string]string, opaque bool, err error) {
	for len(b) > 0 {
		if len(b) < xattrEntry {
			return nil, false, errImage
		}
		nameLen, valueLen := int(b[0]), int(le.Uint16(b[2:]))
		end := xattrEntry + nameLen + valueLen
		if end > len(b) {
			return nil, false, errImage
		}
		name, ok := xattrName(b[1], string(b[xattrEntry:xattrEntry+nameLen]))
		if !ok {
			return nil, false, errImage
		}
		value := string(b[xattrEntry+nameLen : end])
		b = b[min(int(alignUp(int64(end), xattrEntry)), len(b)):]
		if name == opaqueTrusted {
			opaque = value == "y"
		}
		if isOverlayXattr(name) {
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[name] = value
	}
	return attrs, opaque, nil
}
