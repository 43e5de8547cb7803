package layer

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

// A scanner reads a tar from elsewhere into a table. What it refuses is
// listed at its methods; everything else ends up inside the layer, wherever
// its names point.
type scanner struct {
	t     *table
	tr    *tar.Reader
	pos   func() int64 // where the next byte of the tar comes from
	plain bool         // an archive of files: names beginning with .wh. are just names
	// sparse takes the content of files that the tar holds in pieces.
	sparse func() (*extents, error)
	count  int
}

// scan reads the whole tar.
func (s *scanner) scan(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := s.tr.Next()
		if err == io.EOF {
			return nil
		}
		// The names that archive/tar can be told to call insecure are made
		// harmless here.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return &BrokenError{fmt.Errorf("tar, after entry %d: %w", s.count, err)}
		}
		if s.count++; s.count > 2*maxEntries {
			return fmt.Errorf("tar of more than %d entries: %w", 2*maxEntries, ErrBound)
		}
		if err := s.add(ctx, h); err != nil {
			return fmt.Errorf("tar entry %q: %w", clip(h.Name), err)
		}
	}
}

// clip shortens a hostile name for a message.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:256] + "…"
}

func (s *scanner) add(ctx context.Context, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(h.Name) > 2*maxPath || strings.IndexByte(h.Name, 0) >= 0 {
		return fmt.Errorf("name of %d bytes: %w", len(h.Name), ErrBound)
	}
	p := entry.Clean(h.Name)
	if len(p) > maxPath {
		return fmt.Errorf("path of %d bytes: %w", len(p), ErrBound)
	}
	if !s.plain && strings.Contains(p, whPrefix) {
		if done, err := s.marker(ctx, h, p); done || err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeLink {
		return s.link(h, p)
	}
	ino, err := s.inode(ctx, h)
	if err != nil {
		return err
	}
	if p == "." {
		if ino.kind != entry.Dir {
			return fmt.Errorf("the root directory cannot be a %s", ino.kind)
		}
		s.t.update(rootIno, ino)
		return nil
	}
	dir, base, err := s.t.parent(p, true)
	if err != nil {
		return err
	}
	_, err = s.t.put(dir, base, ino)
	return err
}

// marker handles names that begin with .wh.: deletions, and what AUFS left.
// done is false for a name that is an ordinary one after all.
func (s *scanner) marker(ctx context.Context, h *tar.Header, p string) (done bool, err error) {
	for el := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(el, whAufs) && el != whOpaque {
			return true, s.aufs(ctx, h, p)
		}
	}
	if strings.Contains("/"+entry.Parent(p), "/"+whPrefix) {
		return true, fmt.Errorf("a name that begins with %s is no directory", whPrefix)
	}
	base := p[strings.LastIndexByte(p, '/')+1:]
	name, ok := strings.CutPrefix(base, whPrefix)
	if !ok {
		return false, nil
	}
	dir, _, err := s.t.parent(p, true)
	if err != nil {
		return true, err
	}
	if base == whOpaque {
		s.t.inodes.at(dir).opaque = true
		return true, nil
	}
	if name == "" || name == "." || name == ".." {
		return true, errors.New("deletes no name")
	}
	return true, s.t.whiteout(dir, name)
}

// aufs remembers the files that old layers hide as sources of hard links.
func (s *scanner) aufs(ctx context.Context, h *tar.Header, p string) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	ino, err := s.inode(ctx, h)
	if err != nil {
		return err
	}
	if s.t.aufs == nil {
		s.t.aufs = map[string]uint32{}
	}
	if s.t.inodes.len() > 2*maxEntries {
		return ErrBound
	}
	s.t.aufs[strings.Clone(p)] = s.t.inodes.add(ino)
	return nil
}

// link adds a name to a file of the same tar.
func (s *scanner) link(h *tar.Header, p string) error {
	i, err := s.t.target(entry.Clean(h.Linkname))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
		return fmt.Errorf("hard link to %q, which the tar does not have", clip(h.Linkname))
	}
	if err != nil {
		return err
	}
	if s.t.inodes.at(i).kind == entry.Dir || p == "." {
		return fmt.Errorf("hard link to directory %q", clip(h.Linkname))
	}
	dir, base, err := s.t.parent(p, true)
	if err != nil {
		return err
	}
	// The way to the new name may have replaced nothing that i needs: an
	// inode lives as long as the table.
	return s.t.attach(dir, base, i)
}

var tarKinds = map[byte]entry.Kind{
	tar.TypeReg: entry.File, '\x00': entry.File, tar.TypeCont: entry.File, tar.TypeGNUSparse: entry.File,
	tar.TypeDir: entry.Dir, tar.TypeSymlink: entry.Symlink, tar.TypeChar: entry.Char,
	tar.TypeBlock: entry.Block, tar.TypeFifo: entry.Fifo,
}

// inode makes an inode of a header. It refuses types that are no files,
// whiteout devices, and numbers that no file system has.
func (s *scanner) inode(ctx context.Context, h *tar.Header) (inode, error) {
	kind, ok := tarKinds[h.Typeflag]
	if !ok {
		return inode{}, fmt.Errorf("unknown type %q", h.Typeflag)
	}
	// The last number means "no change" to chown(2).
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return inode{}, fmt.Errorf("owner %d:%d", h.Uid, h.Gid)
	}
	e := entry.Entry{
		Kind: kind, Mode: uint32(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size,
		Mtime:  entry.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())},
		Xattrs: paxXattrs(h),
	}
	switch kind {
	case entry.Symlink:
		if err := checkLink(h.Linkname); err != nil {
			return inode{}, err
		}
		e.Link = strings.Clone(h.Linkname)
	case entry.Char, entry.Block:
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return inode{}, fmt.Errorf("device %d:%d", h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	if isWhiteoutDevice(&e) {
		return inode{}, errWhiteoutDevice
	}
	ino, err := s.t.inodeOf(&e)
	if err != nil || kind != entry.File {
		return ino, err
	}
	err = s.place(ctx, h, &ino)
	return ino, err
}

// place says where a file's content is.
func (s *scanner) place(ctx context.Context, h *tar.Header, ino *inode) error {
	if h.Size < 0 || h.Size > maxTar {
		return fmt.Errorf("file of %d bytes: %w", h.Size, ErrBound)
	}
	ino.dev, ino.data = 1, s.pos()
	if h.Size == 0 || !isSparse(h) {
		return nil
	}
	x, err := s.sparse()
	if err != nil {
		return err
	}
	ino.dev = 0
	ino.data, err = x.add(ctx, s.tr, h.Size)
	return err
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// paxXattrs returns the extended attributes that the layer may have.
func paxXattrs(h *tar.Header) map[string]string {
	var attrs map[string]string
	for k, v := range h.PAXRecords {
		n, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !keepXattr(n) || n == capability && !validCapability(v) {
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[n] = v
	}
	return attrs
}

// capability holds what a program may do whoever runs it.
const capability = "security.capability"

// validCapability reports whether the kernel would take v for capability: the
// magic with the revision, which says how long it is (linux/capability.h). What
// it would not take gives no rights, and some trees cannot have it.
func validCapability(v string) bool {
	if len(v) < 4 {
		return false
	}
	const effective = 1
	magic := binary.LittleEndian.Uint32([]byte(v[:4]))
	sizes := map[uint32]int{0x01000000: 12, 0x02000000: 20, 0x03000000: 24}
	return len(v) == sizes[magic&^effective]
}
