package layer

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/whittle-build/whittle/internal/entry"
)

// A device is a file that holds content of the index's files.
type device struct {
	tag  string // at most 64 bytes; for a tar the hex digits of its diffID
	size int64
}

// An imager writes a table as an EROFS image.
type imager struct {
	t       *table
	devices []device
	order   []uint32 // inodes by their place
	plain   []uint32 // directories and links whose data lies in blocks of its own
	inodes  uint64
	end     int64 // of the inodes
	blocks  int64 // of the image
	where   map[uint32]int64
	extra   *extents

	w    *bufio.Writer
	hash hash.Hash
	off  int64
	buf  []byte
	none [blockSize]byte // zeros
	list []direntry
}

// writeIndex writes the image of t to a new file. The files' content lies on
// the devices, in order; extra, which may be nil, holds content that no
// device has.
func writeIndex(name string, t *table, devices []device, extra *extents) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t.sortNames()
	m := &imager{t: t, devices: devices, extra: extra, where: map[uint32]int64{}, hash: sha256.New()}
	if err := m.place(); err != nil {
		return fmt.Errorf("index %s: %w", name, err)
	}
	m.w = bufio.NewWriterSize(io.MultiWriter(f, m.hash), 256<<10)
	if err := m.write(); err != nil {
		return fmt.Errorf("index %s: %w", name, err)
	}
	_, err = f.WriteAt(m.hash.Sum(nil)[:uuidSize], uuidOffset)
	return err
}

// place gives every inode its place: parents before children, a directory's
// files together.
func (m *imager) place() error {
	m.end = superOffset + superSize + int64(len(m.devices))*slotSize
	if err := m.placeInode(rootIno); err != nil {
		return err
	}
	m.blocks = alignUp(m.end, blockSize) / blockSize
	for _, i := range m.plain {
		m.where[i] = m.blocks
		m.blocks += alignUp(m.dataSize(i), blockSize) / blockSize
	}
	if m.extra != nil {
		m.extra.base = m.blocks
		m.blocks += m.extra.blocks
	}
	// Readers of the superblock take a page at once.
	m.blocks = alignUp(m.blocks, pageBlocks)
	if m.blocks >= noBlock {
		return fmt.Errorf("%d blocks: %w", m.blocks, ErrBound)
	}
	return nil
}

func (m *imager) placeInode(i uint32) error {
	ino := m.t.inodes.at(i)
	if ino.nid != 0 {
		return nil
	}
	head := inodeSize + xattrSize(m.t.xattrsOf(ino))
	data := m.dataSize(i)
	off := alignUp(m.end, nidSize)
	if off%blockSize+inodeSize > blockSize {
		off = alignUp(off, blockSize)
	}
	switch ino.kind {
	case entry.Dir, entry.Symlink:
		// Data in the inode must not cross a block.
		if (off+head)%blockSize+data > blockSize {
			off = alignUp(off, blockSize)
		}
		if (off+head)%blockSize+data > blockSize {
			m.plain = append(m.plain, i)
			m.where[i] = 0
			data = 0
		}
	case entry.File:
		head = alignUp(head, chunkSize)
	}
	if off/nidSize > 1<<32-1 {
		return fmt.Errorf("index of %d bytes: %w", off, ErrBound)
	}
	ino.nid = uint32(off / nidSize)
	m.end = off + head + data
	m.order = append(m.order, i)
	m.inodes++
	for d := ino.kids; d != 0 && ino.kind == entry.Dir; {
		n := m.t.names.at(d)
		if err := m.placeInode(n.ino); err != nil {
			return err
		}
		d = n.next
	}
	return nil
}

// dataSize is what an inode has besides its head: entries, a link's text, or
// chunk indexes.
func (m *imager) dataSize(i uint32) int64 {
	ino := m.t.inodes.at(i)
	switch ino.kind {
	case entry.Dir:
		m.list = m.t.list(i, m.list[:0])
		return dirSize(m.list)
	case entry.Symlink:
		return int64(len(m.t.linkOf(ino)))
	case entry.File:
		if ino.size == 0 {
			return 0
		}
		if ino.dev == 0 {
			return int64(len(m.extra.chunks[ino.data])) * chunkSize
		}
		return chunkSize
	}
	return 0
}

func (m *imager) write() error {
	if err := m.put(m.super()); err != nil {
		return err
	}
	for _, i := range m.order {
		if err := m.zeros(int64(m.t.inodes.at(i).nid)*nidSize - m.off); err != nil {
			return err
		}
		if err := m.put(m.encode(i)); err != nil {
			return err
		}
	}
	for _, i := range m.plain {
		if err := m.zeros(m.where[i]*blockSize - m.off); err != nil {
			return err
		}
		if err := m.put(m.appendData(m.buf[:0], i)); err != nil {
			return err
		}
	}
	if m.extra != nil {
		if err := m.zeros(m.extra.base*blockSize - m.off); err != nil {
			return err
		}
		n, err := m.extra.copyTo(m.w)
		if err != nil {
			return err
		}
		m.off += n
	}
	if err := m.zeros(m.blocks*blockSize - m.off); err != nil {
		return err
	}
	return m.w.Flush()
}

func (m *imager) put(b []byte) error {
	m.buf = b
	m.off += int64(len(b))
	_, err := m.w.Write(b)
	return err
}

func (m *imager) zeros(n int64) error {
	m.off += n
	for n > 0 {
		k := min(n, blockSize)
		if _, err := m.w.Write(m.none[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// super returns what comes before the inodes.
func (m *imager) super() []byte {
	b := make([]byte, superOffset+superSize+len(m.devices)*slotSize)
	s := b[superOffset:]
	le.PutUint32(s[0:], erofsMagic)
	le.PutUint32(s[8:], compatMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], uint16(m.t.inodes.at(rootIno).nid))
	le.PutUint64(s[16:], m.inodes)
	le.PutUint32(s[36:], uint32(m.blocks))
	copy(b[labelOffset:], label)
	b[labelOffset+len(label)] = labelRoot
	if m.t.inodes.at(rootIno).implied {
		b[labelOffset+len(label)] = labelNone
	}
	le.PutUint32(s[80:], incompatFlag)
	le.PutUint16(s[86:], uint16(len(m.devices)))
	le.PutUint16(s[88:], (superOffset+superSize)/slotSize)
	for n, d := range m.devices {
		slot := b[superOffset+superSize+n*slotSize:]
		copy(slot[:64], d.tag)
		le.PutUint32(slot[64:], uint32(alignUp(d.size, blockSize)/blockSize))
	}
	return b
}

// encode returns inode i with its attributes and what lies behind them.
func (m *imager) encode(i uint32) []byte {
	ino := m.t.inodes.at(i)
	attrs := m.t.xattrsOf(ino)
	layout, value, size := m.layout(i)
	b := append(m.buf[:0], make([]byte, inodeSize)...)
	le.PutUint16(b[0:], 1|layout<<1)
	if attrs != "" {
		le.PutUint16(b[2:], uint16(len(attrs)/xattrEntry+1))
	}
	le.PutUint16(b[4:], modeBits[ino.kind]|ino.perm)
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], value)
	le.PutUint32(b[20:], ino.nid)
	le.PutUint32(b[24:], ino.uid)
	le.PutUint32(b[28:], ino.gid)
	le.PutUint64(b[32:], uint64(ino.sec))
	le.PutUint32(b[40:], ino.nsec)
	le.PutUint32(b[44:], m.links(i))
	if attrs != "" {
		b = append(b, make([]byte, xattrHeader)...)
		b = append(b, attrs...)
	}
	if layout == layoutInline {
		return m.appendData(b, i)
	}
	if layout == layoutChunk {
		return m.appendChunks(pad(b, chunkSize), ino)
	}
	return b
}

// layout returns an inode's layout, the value of its union and its size.
func (m *imager) layout(i uint32) (layout uint16, value uint32, size int64) {
	ino := m.t.inodes.at(i)
	switch ino.kind {
	case entry.File:
		if ino.size == 0 {
			return layoutPlain, 0, 0
		}
		if ino.dev == 0 {
			return layoutChunk, chunkIndexes | uint32(extentBits), ino.size
		}
		return layoutChunk, chunkIndexes | uint32(chunkBits(ino.size)), ino.size
	case entry.Dir, entry.Symlink:
		if at, ok := m.where[i]; ok {
			return layoutPlain, uint32(at), m.dataSize(i)
		}
		return layoutInline, 0, m.dataSize(i)
	}
	return layoutPlain, ino.rdev, 0
}

// links counts names: for a directory "." and the ".." of its directories.
func (m *imager) links(i uint32) uint32 {
	ino := m.t.inodes.at(i)
	if ino.kind != entry.Dir {
		return ino.nlink
	}
	n := uint32(2)
	for d := ino.kids; d != 0; {
		k := m.t.names.at(d)
		if m.t.inodes.at(k.ino).kind == entry.Dir {
			n++
		}
		d = k.next
	}
	return n
}

func (m *imager) appendData(b []byte, i uint32) []byte {
	ino := m.t.inodes.at(i)
	if ino.kind == entry.Symlink {
		return append(b, m.t.linkOf(ino)...)
	}
	m.list = m.t.list(i, m.list[:0])
	return appendDir(b, m.list)
}

func (m *imager) appendChunks(b []byte, ino *inode) []byte {
	if ino.dev != 0 {
		return appendChunk(b, ino.dev, uint32(ino.data/blockSize))
	}
	for _, c := range m.extra.chunks[ino.data] {
		if c != noBlock {
			c += uint32(m.extra.base)
		}
		b = appendChunk(b, 0, c)
	}
	return b
}

func appendChunk(b []byte, dev uint16, block uint32) []byte {
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, dev)
	return le.AppendUint32(b, block)
}
