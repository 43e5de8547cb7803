package layer

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// The parts of the EROFS on-disk format that indexes use. The format is
// described in the kernel's fs/erofs/erofs_fs.h; offsets within a structure
// are written out where they are used. An index has uncompressed extended
// inodes only, 512-byte blocks (a tar's alignment), all metadata of the
// image at nid*32, and as first extra device the tar.
const (
	erofsMagic   = 0xe0f5e1e2
	superOffset  = 1024
	superSize    = 128
	slotSize     = 128 // of the device table, which follows the superblock
	blockBits    = 9
	blockSize    = 1 << blockBits
	pageBlocks   = 8 // images are whole pages of 4096 bytes
	nidSize      = 32
	inodeSize    = 64
	direntSize   = 12
	chunkSize    = 8 // of one chunk index
	xattrHeader  = 12
	xattrEntry   = 4
	compatMtime  = 0x2
	incompatFlag = 0x4 | 0x8 // chunk-based files, device table

	layoutPlain  = 0
	layoutInline = 2
	layoutChunk  = 4

	chunkIndexes = 0x20 // chunk format: block numbers with device ids
	maxChunkBits = 31
	noBlock      = 0xffffffff
)

// uuidOffset is where the image keeps the first bytes of its own SHA-256,
// made with these bytes as zeros; so a damaged index is noticed.
const (
	uuidOffset  = superOffset + 48
	uuidSize    = 16
	labelOffset = superOffset + 64
	// label is the volume name; the byte after it is labelRoot when the tar
	// has an entry for the root directory.
	label     = "whittle index 1"
	labelRoot = 'r'
	labelNone = '-'
)

var le = binary.LittleEndian

var modeBits = [...]uint16{
	entry.File: 0o100000, entry.Dir: 0o040000, entry.Symlink: 0o120000, entry.Char: 0o020000,
	entry.Block: 0o060000, entry.Fifo: 0o010000, entry.Socket: 0o140000, entry.Whiteout: 0o020000,
}

var fileTypes = [...]byte{
	entry.File: 1, entry.Dir: 2, entry.Char: 3, entry.Block: 4,
	entry.Fifo: 5, entry.Socket: 6, entry.Symlink: 7, entry.Whiteout: 3,
}

func kindOfMode(mode uint16) (entry.Kind, bool) {
	for k, bits := range modeBits {
		if bits == mode&0o170000 {
			return entry.Kind(k), true
		}
	}
	return 0, false
}

// xattrPrefixes are the name prefixes that EROFS stores as a number. The two
// ACL names are whole names.
var xattrPrefixes = [...]struct {
	index  byte
	prefix string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
}

func cutXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

func xattrName(index byte, rest string) (string, bool) {
	for _, p := range xattrPrefixes {
		if p.index == index {
			return p.prefix + rest, true
		}
	}
	return "", false
}

// encodeXattrs returns the entries of an inode's attributes as they lie in
// the image, sorted by name.
func encodeXattrs(attrs map[string]string) (string, error) {
	var b []byte
	total := 0
	for _, n := range slices.Sorted(maps.Keys(attrs)) {
		v := attrs[n]
		index, rest, ok := cutXattr(n)
		if !ok || len(rest) > maxName {
			return "", fmt.Errorf("extended attribute %q: no such namespace", n)
		}
		if total += len(n) + len(v); total > maxXattrs || len(v) > maxXattrs-1 {
			return "", fmt.Errorf("extended attributes of more than %d bytes: %w", maxXattrs, ErrBound)
		}
		b = append(b, byte(len(rest)), index)
		b = le.AppendUint16(b, uint16(len(v)))
		b = append(b, rest...)
		b = append(b, v...)
		b = pad(b, xattrEntry)
	}
	return string(b), nil
}

func pad(b []byte, to int) []byte {
	for len(b)%to != 0 {
		b = append(b, 0)
	}
	return b
}

// marks are the attributes that overlayfs wants on a directory. Without an
// origin it takes a directory that only one layer has as it is, and lists the
// deletions in it as broken files; an empty origin means "may have some" (the
// kernel's ovl_path_check_origin_xattr).
func marks(opaque, whiteouts bool) map[string]string {
	m := map[string]string{}
	if opaque {
		m["opaque"] = "y"
	}
	if whiteouts {
		m["origin"] = ""
	}
	return m
}

// xattrsOf returns the encoded attributes of an inode with its marks.
func (t *table) xattrsOf(ino *inode) string {
	s := t.attrs[ino.attrs]
	if !ino.opaque && !ino.whiteouts {
		return s
	}
	m := map[string]string{}
	for n, v := range marks(ino.opaque, ino.whiteouts) {
		m[prefixTrusted+n] = v
	}
	enc, _ := encodeXattrs(m) // two short ones
	return s + enc
}

func xattrSize(encoded string) int64 {
	if encoded == "" {
		return 0
	}
	return int64(xattrHeader + len(encoded))
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// chunkBits is the smallest chunk, as a power of two of blocks, that holds a
// whole file, so that one index says where it is.
func chunkBits(size int64) uint16 {
	bits := uint16(0)
	for int64(blockSize)<<bits < size && bits < maxChunkBits {
		bits++
	}
	return bits
}

// A direntry is one entry of a directory as it is written.
type direntry struct {
	name string
	nid  uint32
	kind entry.Kind
}

// list returns a directory's entries in the order of the image: by name,
// with "." and ".." where their bytes put them.
func (t *table) list(i uint32, buf []direntry) []direntry {
	ino := t.inodes.at(i)
	dots := [...]direntry{
		{".", ino.nid, entry.Dir},
		{"..", t.inodes.at(ino.parent).nid, entry.Dir},
	}
	n := 0
	for d := ino.kids; d != 0; {
		k := t.names.at(d)
		for n < len(dots) && dots[n].name < k.name {
			buf = append(buf, dots[n])
			n++
		}
		kid := t.inodes.at(k.ino)
		buf = append(buf, direntry{k.name, kid.nid, kid.kind})
		d = k.next
	}
	return append(buf, dots[n:]...)
}

// fit returns how many of the entries fit into one block and how many bytes
// of it they take.
func fit(list []direntry) (n, used int) {
	for n < len(list) {
		next := used + direntSize + len(list[n].name)
		if next > blockSize {
			break
		}
		used = next
		n++
	}
	return n, used
}

// dirSize is the length of a directory's data.
func dirSize(list []direntry) int64 {
	var size int64
	for len(list) > 0 {
		n, used := fit(list)
		list = list[n:]
		if len(list) > 0 {
			used = blockSize
		}
		size += int64(used)
	}
	return size
}

// appendDir writes a directory's data.
func appendDir(b []byte, list []direntry) []byte {
	for len(list) > 0 {
		n, _ := fit(list)
		off := n * direntSize
		for _, d := range list[:n] {
			b = le.AppendUint64(b, uint64(d.nid))
			b = le.AppendUint16(b, uint16(off))
			b = append(b, fileTypes[d.kind], 0)
			off += len(d.name)
		}
		for _, d := range list[:n] {
			b = append(b, d.name...)
		}
		list = list[n:]
		if len(list) > 0 {
			b = append(b, make([]byte, blockSize-off)...)
		}
	}
	return b
}
