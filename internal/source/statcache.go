package source

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// The stat cache keeps what was read of a context's files: for each path the
// size, mtime, ctime, inode and mode with which the file was read, and the
// digest of its content. A file with the same five has the same content,
// because every change of the content sets ctime, which no program can set
// itself.
//
// Two cases are left. A second change within the clock's grain of the first,
// after the file was read: so a record is made only of files whose ctime lies
// further back than the grain when reading begins (git calls the others racy).
// And a mounted image, whose times are not those of changes: of files in one
// below the context no record is made (frozenClock).
//
// The file is
//
//	magic
//	for each directory that has records:
//	    length path, length block
//	    block: for each file, sorted by name: see record
//	CRC-32C of all of it, four bytes
//
// with lengths and numbers as varints. Anything unexpected makes it an empty
// cache. It is replaced by renaming, never changed, so that processes which
// save at once lose at most each other's records.
const cacheMagic = "whittle stat cache 1\n"

// statCache is a loaded file: directory → its block.
type statCache map[string][]byte

// maxCache bounds what is read back: some 15 million files.
const maxCache = 1 << 30

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// trusted returns isTrusted when a change of n after start cannot leave its
// times as they are.
func trusted(n *node, start time.Time) uint32 {
	// Linux stamps files with the clock of its last tick, at most 10 ms ago.
	// Where ctime is a multiple of that, the file system may keep only whole
	// seconds, or two.
	grain := 50 * time.Millisecond
	if n.cnsec%uint32(10*time.Millisecond) == 0 {
		grain = 2 * time.Second
	}
	if time.Unix(n.csec, int64(n.cnsec)).Add(grain).Before(start) {
		return isTrusted
	}
	return 0
}

func loadStatCache(name string) statCache {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxCache {
		return nil
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil
	}
	return parseStatCache(b)
}

func parseStatCache(b []byte) statCache {
	body, ok := bytes.CutPrefix(b, []byte(cacheMagic))
	if !ok || len(body) < 4 {
		return nil
	}
	sum := binary.LittleEndian.Uint32(body[len(body)-4:])
	if crc32.Checksum(b[:len(b)-4], castagnoli()) != sum {
		return nil
	}
	r := reader{b: body[:len(body)-4]}
	c := statCache{}
	for len(r.b) > 0 && !r.bad {
		dir := string(r.bytes())
		c[dir] = r.bytes()
	}
	if r.bad {
		return nil
	}
	return c
}

// record is one file of a block.
type record struct {
	name []byte
	node // its name is not set
}

// reader takes a block apart. After the first thing that does not fit, bad is
// set and all is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 {
	v := r.uint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) bytes() []byte { return r.take(r.uint()) }

// record reads one file; false at the end and at damage.
func (r *reader) record() (record, bool) {
	if len(r.b) == 0 {
		return record{}, false
	}
	rec := record{name: r.bytes()}
	rec.size = int64(r.uint())
	rec.ino = r.uint()
	rec.mode = uint32(r.uint())
	rec.msec, rec.mnsec = r.int(), uint32(r.uint())
	rec.csec, rec.cnsec = r.int(), uint32(r.uint())
	copy(rec.digest[:], r.take(uint64(len(digest.Digest{}))))
	for range min(r.uint(), uint64(len(r.b))) {
		k, v := r.bytes(), r.bytes()
		if rec.extra == nil {
			rec.extra = &extra{xattrs: map[string]string{}}
		}
		rec.extra.xattrs[string(k)] = string(v)
	}
	return rec, !r.bad
}

// appendRecord is record's inverse.
func appendRecord(b []byte, name string, n *node) []byte {
	b = appendBytes(b, name)
	b = binary.AppendUvarint(b, uint64(n.size))
	b = binary.AppendUvarint(b, n.ino)
	b = binary.AppendUvarint(b, uint64(n.mode))
	b = binary.AppendVarint(b, n.msec)
	b = binary.AppendUvarint(b, uint64(n.mnsec))
	b = binary.AppendVarint(b, n.csec)
	b = binary.AppendUvarint(b, uint64(n.cnsec))
	b = append(b, n.digest[:]...)
	if n.extra == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(n.extra.xattrs)))
	for _, k := range slices.Sorted(maps.Keys(n.extra.xattrs)) {
		b = appendBytes(appendBytes(b, k), n.extra.xattrs[k])
	}
	return b
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// recall fills in what the cache knows of kids, sorted, which are files of
// the directory dir.
func (c *Context) recall(dir string, kids []*node) {
	r := reader{b: c.cache[dir]}
	rec, ok := r.record()
	for _, k := range kids {
		for ok && string(rec.name) < k.name {
			rec, ok = r.record()
		}
		if !ok {
			return
		}
		if string(rec.name) != k.name || !k.isRegular() || k.flags&hasDigest != 0 || !k.unchangedSince(&rec.node) {
			continue
		}
		k.digest = rec.digest
		k.flags |= hasDigest | isTrusted
		if rec.extra != nil {
			k.setXattrs(rec.extra.xattrs)
		}
		k.flags |= hasXattrs
	}
}

// unchangedSince compares n with what it was when it was read.
func (n *node) unchangedSince(old *node) bool {
	return n.size == old.size && n.ino == old.ino && n.mode == old.mode &&
		n.msec == old.msec && n.mnsec == old.mnsec && n.csec == old.csec && n.cnsec == old.cnsec
}

// saveCache writes what is known of the context, and what was known of parts
// that this build did not look at.
func (c *Context) saveCache() (err error) {
	if c.cacheFile == "" || !c.dirty {
		return nil
	}
	if err := c.putCache(c.writeCache); err != nil {
		return err
	}
	c.dirty = false
	return nil
}

func (c *Context) writeCache(f io.Writer) error {
	sum := crc32.New(castagnoli())
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)
	w.WriteString(cacheMagic)
	if err := c.writeBlocks(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := f.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	crash.Point("source.statcache")
	return err
}

// writeBlocks writes the block of every directory.
func (c *Context) writeBlocks(w *bufio.Writer) error {
	b := &blockWriter{w: w, old: maps.Clone(c.cache)}
	err := b.tree(c.tree, ".")
	for _, dir := range slices.Sorted(maps.Keys(b.old)) {
		if err == nil && c.mayExist(dir) {
			err = b.write(dir, b.old[dir])
		}
	}
	return err
}

// A blockWriter writes blocks, which it makes one after the other in the same memory.
type blockWriter struct {
	w          *bufio.Writer
	old        statCache // blocks that have not been replaced
	block, num []byte
}

// tree writes the blocks of n and what is below it, and takes the blocks
// that it replaces out of old.
func (b *blockWriter) tree(n *node, path string) error {
	block := b.block[:0]
	r := reader{}
	if !n.extra.listed {
		r.b = b.old[path] // nothing is known of the names that were not asked for
	}
	delete(b.old, path)
	rec, more := r.record()
	for _, k := range n.extra.kids {
		for ; more && string(rec.name) < k.name; rec, more = r.record() {
			block = appendRecord(block, string(rec.name), &rec.node)
		}
		if more && string(rec.name) == k.name {
			rec, more = r.record()
		}
		if k.flags&isTrusted != 0 {
			block = appendRecord(block, k.name, k)
		}
	}
	for ; more; rec, more = r.record() {
		block = appendRecord(block, string(rec.name), &rec.node)
	}
	b.block = block
	if err := b.write(path, block); err != nil {
		return err
	}
	for _, k := range n.extra.kids {
		if !k.isDir() {
			continue
		}
		if err := b.tree(k, entry.Join(path, k.name)); err != nil {
			return err
		}
	}
	return nil
}

func (b *blockWriter) write(dir string, block []byte) error {
	if len(block) == 0 {
		return nil
	}
	b.num = binary.AppendUvarint(appendBytes(b.num[:0], dir), uint64(len(block)))
	b.w.Write(b.num)
	_, err := b.w.Write(block)
	return err
}

// mayExist reports whether the directory dir may still be there: it was not
// looked for, or it is there and excluded from this build.
func (c *Context) mayExist(dir string) bool {
	n, at := c.tree, "."
	for rest := dir; rest != ""; {
		var el string
		el, rest, _ = strings.Cut(rest, "/")
		if !n.isDir() {
			return false
		}
		k := n.kid(el)
		if k == nil {
			v, err := c.judge(c.match, at, el, n.extra)
			return !n.extra.listed || err == nil && v.excluded
		}
		n, at = k, entry.Join(at, el)
	}
	return n.isDir()
}
