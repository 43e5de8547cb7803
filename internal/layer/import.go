package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

// A stream may grow by this much, and beyond it no more than ratio-fold: gzip
// cannot do more than 1032-fold, so only streams made to fill a disk are
// stopped.
const (
	freeGrowth = 4 << 30
	maxRatio   = 1100
)

// Import takes a layer from elsewhere, plain or compressed with gzip, zstd,
// bzip2 or xz, into the folder dir, which is made when it is missing. The
// plain tar is kept as it is, and its digest is the diffID. below is the file
// system under the layer and gives directories that the tar only implies
// their metadata; nil is an empty one.
//
// Names are taken inside the layer: ".." and links stop at its root. A later
// entry replaces an earlier one. A hard link without its file, a 0/0
// character device (which overlayfs takes for a deletion) and anything over
// the bounds are errors; the attributes of overlayfs and the labels of the
// machine's security modules are not part of the layer. After an error the
// folder has none of Import's files. Import returns only when a Read of r that
// it began has ended, so r should end with ctx.
func Import(ctx context.Context, dir string, r io.Reader, below entry.FS) (Meta, error) {
	return importing{open: byLibrary, below: below}.tar(ctx, dir, r, newTable())
}

// ImportKnown is Import of a layer that has to have the diffID want, on an empty file system. It is sooner done where
// igzip is installed.
func ImportKnown(ctx context.Context, dir string, r io.Reader, want digest.Digest) (Meta, error) {
	m, err := importing{open: byProgram}.tar(ctx, dir, r, newTable())
	if err == nil && m.DiffID != want {
		removeTar(dir)
		err = fmt.Errorf("its content is %s and not %s, as was said", m.DiffID.Short(), want.Short())
	}
	return m, err
}

// ImportArchive is Import for an archive of files, as ADD takes them: names
// that begin with .wh. are files like any other. It returns too the paths of the
// directories that the archive has only as parents of something.
func ImportArchive(ctx context.Context, dir string, r io.Reader) (Meta, map[string]bool, error) {
	t := newTable()
	m, err := importing{open: byLibrary, plain: true}.tar(ctx, dir, r, t)
	if err != nil {
		return m, nil, err
	}
	implied := map[string]bool{}
	t.implied(rootIno, ".", implied)
	return m, implied, nil
}

// importing says how a tar is taken.
type importing struct {
	open  opener
	below entry.FS
	plain bool // names that begin with .wh. are files like any other
}

func (i importing) tar(ctx context.Context, dir string, r io.Reader, t *table) (m Meta, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	out, err := newSink(filepath.Join(dir, TarName))
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			removeTar(dir)
		}
	}()
	sparse := &lazyExtents{dir: dir}
	defer func() { err = errors.Join(err, sparse.close()) }()
	if err := i.copy(ctx, out, r, t, sparse); err != nil {
		out.abort()
		return m, err
	}
	size := out.n
	diffID, err := out.finish()
	if err != nil {
		return m, err
	}
	if err := t.inherit(i.below); err != nil {
		return m, err
	}
	if err := t.embedTail(dir, size, sparse); err != nil {
		return m, err
	}
	m = Meta{DiffID: diffID, TarSize: size, Plain: i.plain}
	return finishTar(dir, t, m, sparse.x)
}

// copy decompresses r into out and reads it into t on the way.
func (i importing) copy(ctx context.Context, out *sink, r io.Reader, t *table, sparse *lazyExtents) (err error) {
	in := &counter{r: r}
	dec, err := i.open(ctx, in)
	if err != nil {
		return &BrokenError{err}
	}
	defer dec.Close()
	ahead := newReadAhead(&bounded{r: dec, in: in})
	defer ahead.close()
	tee := &tee{stopped: ctx.Err, r: ahead, out: out}
	defer func() {
		if ctx.Err() != nil && err != nil {
			err = context.Cause(ctx)
		}
	}()
	s := &scanner{t: t, tr: tar.NewReader(tee), pos: func() int64 { return out.n }, plain: i.plain, sparse: sparse.get}
	if err := s.scan(ctx); err != nil {
		return err
	}
	// What follows the end of the archive is part of the diffID.
	buf := make([]byte, 64<<10)
	for {
		if _, err := tee.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return &BrokenError{err}
		}
	}
}

// tee reads r and writes what it read to out. It ends when stopped says so,
// in the middle of a large file too.
type tee struct {
	stopped func() error
	r       io.Reader
	out     *sink
}

func (t *tee) Read(p []byte) (int, error) {
	if err := t.stopped(); err != nil {
		return 0, err
	}
	n, err := t.r.Read(p)
	if _, werr := t.out.Write(p[:n]); werr != nil {
		return n, werr
	}
	return n, err
}

// Seek passes over n bytes as Read would, with one copy less: archive/tar skips
// contents by it.
func (t *tee) Seek(n int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || n < 0 {
		return 0, errors.ErrUnsupported
	}
	for n > 0 {
		if err := t.stopped(); err != nil {
			return 0, err
		}
		some := min(n, sinkBuffer)
		if err := t.out.take(t.r, some); err != nil {
			return 0, err
		}
		n -= some
	}
	return t.out.n, nil
}

type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// bounded stops a stream that grows too much.
type bounded struct {
	r  io.Reader
	in *counter
	n  int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.n > maxTar {
		return n, fmt.Errorf("layer of more than %d bytes: %w", int64(maxTar), ErrBound)
	}
	if b.n > freeGrowth && b.n/maxRatio > b.in.n.Load() {
		return n, fmt.Errorf("%d bytes that grow to more than %d: %w", b.in.n.Load(), b.n, ErrBound)
	}
	return n, err
}

// lazyExtents makes its extents when a tar has sparse files.
type lazyExtents struct {
	dir string
	x   *extents
}

func (l *lazyExtents) get() (x *extents, err error) {
	if l.x == nil {
		l.x, err = newExtents(l.dir)
	}
	return l.x, err
}

func (l *lazyExtents) close() error {
	if l.x == nil {
		return nil
	}
	return l.x.close()
}

// embedTail moves a file into the index whose last block the tar in dir does
// not have in full: the kernel reads whole blocks. Only a tar that ends
// without padding has one.
func (t *table) embedTail(dir string, size int64, sparse *lazyExtents) error {
	for i := uint32(rootIno + 1); i < t.inodes.len(); i++ {
		ino := t.inodes.at(i)
		if ino.kind != entry.File || ino.dev != 1 || ino.size == 0 || alignUp(ino.data+ino.size, blockSize) <= size {
			continue
		}
		x, err := sparse.get()
		if err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(dir, TarName))
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := x.add(context.Background(), io.NewSectionReader(f, ino.data, ino.size), ino.size)
		if err != nil {
			return err
		}
		ino.dev, ino.data = 0, n
	}
	return nil
}

// inherit gives the directories that the layer only implies the metadata
// that they have in below. What is no directory there is hidden by the layer,
// and so is what lies under it.
func (t *table) inherit(below entry.FS) error {
	if below == nil {
		return nil
	}
	return t.inheritDir(rootIno, ".", below)
}

func (t *table) inheritDir(i uint32, p string, below entry.FS) error {
	ino := t.inodes.at(i)
	e, err := below.Lstat(p)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.Kind != entry.Dir || ino.opaque && p != "." {
		return nil
	}
	if ino.implied {
		n, err := t.inodeOf(&e)
		if err != nil {
			return err
		}
		n.implied, n.opaque = true, ino.opaque
		t.update(i, n)
	}
	for d := ino.kids; d != 0; {
		n := t.names.at(d)
		if n.ino != 0 && t.inodes.at(n.ino).kind == entry.Dir {
			if err := t.inheritDir(n.ino, entry.Join(p, n.name), below); err != nil {
				return err
			}
		}
		d = n.next
	}
	return nil
}

// Reindex writes another index of the tar in dir to out, a name in dir or a
// path with a slash. It differs from the layer's own in the directories that
// the tar only implies: they have the metadata that they have in below.
func Reindex(dir string, below entry.FS, out string) (err error) {
	m, err := ReadMeta(dir)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, TarName))
	if err != nil {
		return err
	}
	defer f.Close()
	sparse := &lazyExtents{dir: filepath.Dir(indexPath(dir, out))}
	defer func() { err = errors.Join(err, sparse.close()) }()
	t, err := rescan(f, m, sparse)
	if err != nil {
		return fmt.Errorf("layer %s: %w", dir, err)
	}
	if err := t.inherit(below); err != nil {
		return err
	}
	if err := t.embedTail(dir, m.TarSize, sparse); err != nil {
		return err
	}
	return writeIndex(indexPath(dir, out), t, []device{{m.DiffID.Hex(), m.TarSize}}, sparse.x)
}

// implied adds to paths what is implied of the directory i, which is p, and of
// those below it.
func (t *table) implied(i uint32, p string, paths map[string]bool) {
	ino := t.inodes.at(i)
	if ino.implied {
		paths[p] = true
	}
	for d := ino.kids; d != 0; {
		n := t.names.at(d)
		if n.ino != 0 && t.inodes.at(n.ino).kind == entry.Dir {
			t.implied(n.ino, entry.Join(p, n.name), paths)
		}
		d = n.next
	}
}

// rescan reads the headers of a tar that was taken before.
func rescan(f *os.File, m Meta, sparse *lazyExtents) (*table, error) {
	r := io.NewSectionReader(f, 0, m.TarSize)
	pos := func() int64 {
		n, _ := r.Seek(0, io.SeekCurrent)
		return n
	}
	s := &scanner{t: newTable(), tr: tar.NewReader(r), pos: pos, plain: m.Plain, sparse: sparse.get}
	return s.t, s.scan(context.Background())
}
