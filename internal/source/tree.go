package source

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/pattern"
)

// node is what is known of one file. There may be millions: about 110 bytes
// and its name.
type node struct {
	name   string
	size   int64
	ino    uint64
	msec   int64
	csec   int64
	mnsec  uint32
	cnsec  uint32
	mode   uint32 // st_mode
	flags  uint32
	digest digest.Digest
	extra  *extra
}

const (
	hasXattrs uint32 = 1 << iota // extra.xattrs are known (of regular files)
	hasDigest
	isTrusted // the digest may go to the stat cache
	isCounted
	mayWait // it need not be read at once
)

// extra is what few files have.
type extra struct {
	link   string
	rdev   uint64
	inode  uint64 // entry.Entry.Inode
	xattrs map[string]string

	// Directories only.
	kids     []*node // sorted by name
	listed   bool    // kids are complete
	info     pattern.Info
	excluded bool // matched by the ignore patterns; there for what is below it
	visible  bool // of an excluded directory: something below is not excluded
	settled  bool // visible is known
}

func newNode(name string, st *unix.Stat_t) *node {
	n := &node{name: name}
	n.set(st)
	return n
}

// set takes over the metadata of st.
func (n *node) set(st *unix.Stat_t) {
	n.size = st.Size
	n.ino = st.Ino
	n.msec, n.mnsec = int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	n.csec, n.cnsec = int64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	n.mode = st.Mode
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.more()
	case unix.S_IFCHR, unix.S_IFBLK:
		n.more().rdev = uint64(st.Rdev)
	}
}

// same reports whether st is of the same, unchanged file.
func (n *node) same(st *unix.Stat_t) bool {
	return n.size == st.Size && n.ino == st.Ino && n.mode == st.Mode &&
		n.msec == int64(st.Mtim.Sec) && n.mnsec == uint32(st.Mtim.Nsec) &&
		n.csec == int64(st.Ctim.Sec) && n.cnsec == uint32(st.Ctim.Nsec)
}

// grown reports whether st may be of the same file with more at its end.
func (n *node) grown(st *unix.Stat_t) bool { return n.asLong(st) && st.Size > n.size }

// asLong reports whether st may be of the same file with nothing less.
func (n *node) asLong(st *unix.Stat_t) bool {
	return n.isRegular() && n.ino == st.Ino && n.mode == st.Mode && st.Size >= n.size
}

func (n *node) more() *extra {
	if n.extra == nil {
		n.extra = &extra{}
	}
	return n.extra
}

func (n *node) isDir() bool     { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isRegular() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }

// hidden reports a directory that is excluded with all that is below.
func (n *node) hidden() bool { return n.isDir() && n.extra.excluded && !n.extra.visible }

// known reports whether n can be shown without another look at the disk.
func (n *node) known() bool {
	if n.isDir() {
		return !n.extra.excluded || n.extra.settled
	}
	return !n.isRegular() || n.flags&(hasXattrs|hasDigest) != 0
}

func (n *node) kid(name string) *node {
	i, ok := n.search(name)
	if !ok {
		return nil
	}
	return n.extra.kids[i]
}

// search returns where among n's children name is, or belongs.
func (n *node) search(name string) (i int, ok bool) {
	return slices.BinarySearchFunc(n.extra.kids, name, byName)
}

func byName(n *node, name string) int { return strings.Compare(n.name, name) }

// add puts k among n's children, which do not have one of its name.
func (n *node) add(k *node) {
	i, _ := n.search(k.name)
	n.extra.kids = slices.Insert(n.extra.kids, i, k)
}

// entry describes n, which is at path.
func (n *node) entry(path string) entry.Entry {
	e := entry.Entry{
		Path:  path,
		Mode:  n.mode & 0o7777,
		Mtime: entry.Time{Sec: n.msec, Nsec: n.mnsec},
	}
	if x := n.extra; x != nil {
		e.Xattrs = x.xattrs
		e.Inode = x.inode
		e.Link = x.link
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = entry.File, n.size
	case unix.S_IFDIR:
		e.Kind = entry.Dir
	case unix.S_IFLNK:
		e.Kind = entry.Symlink
	case unix.S_IFIFO:
		e.Kind = entry.Fifo
	case unix.S_IFSOCK:
		e.Kind = entry.Socket
	case unix.S_IFCHR:
		e.Kind = entry.Char
		e.Major, e.Minor = unix.Major(n.extra.rdev), unix.Minor(n.extra.rdev)
	case unix.S_IFBLK:
		e.Kind = entry.Block
		e.Major, e.Minor = unix.Major(n.extra.rdev), unix.Minor(n.extra.rdev)
	}
	return e
}

// valid is fs.ValidPath for names that need not be UTF-8.
func valid(name string) bool {
	if name == "." {
		return true
	}
	for el := range strings.SplitSeq(name, "/") {
		if el == "" || el == "." || el == ".." {
			return false
		}
	}
	return !strings.Contains(name, "\x00")
}

// find walks memory only. sure is false when the disk must be asked.
func (c *Context) find(name string) (n *node, sure bool) {
	i := strings.LastIndexByte(name, '/')
	if p := c.last.Load(); i > 0 && p != nil && p.path == name[:i] && valid(name[i+1:]) {
		return p.kid(name[i+1:])
	}
	if !valid(name) {
		return nil, true
	}
	if name == "." {
		return c.tree, true
	}
	n = c.tree
	for at := 0; at <= i; {
		end := at + strings.IndexByte(name[at:], '/')
		k, sure := n.sureKid(name[at:end])
		if k == nil {
			return nil, sure
		}
		n, at = k, end+1
	}
	if i > 0 && n.isDir() {
		c.last.Store(&place{path: name[:i], node: n})
	}
	return n.sureKid(name[i+1:])
}

// sureKid finds a name in n. sure is false when the disk must be asked.
func (n *node) sureKid(name string) (k *node, sure bool) {
	if !n.isDir() {
		return nil, true
	}
	if k = n.kid(name); k == nil {
		return nil, n.extra.listed
	}
	return k, k.known()
}

// place is a directory and where it is.
type place struct {
	path string
	node *node
	next atomic.Int64 // which of its kids is thought to be asked for next: most ask for all in their order
}

// kid is sureKid of the place's directory.
func (p *place) kid(name string) (k *node, sure bool) {
	kids := p.node.extra.kids
	at := p.next.Load()
	if at >= int64(len(kids)) || kids[at].name != name {
		i, ok := p.node.search(name)
		if !ok {
			return nil, p.node.extra.listed
		}
		at = int64(i)
	}
	p.next.Store(at + 1)
	return kids[at], kids[at].known()
}

// get returns the node at path, from memory or else from the disk.
func (c *Context) get(op, path string) (*node, error) {
	c.mu.RLock()
	n, sure := c.find(path)
	gone := n == nil || n.hidden()
	c.mu.RUnlock()
	if !sure {
		c.mu.Lock()
		defer c.mu.Unlock()
		var err error
		if n, err = c.load(path); err != nil {
			return nil, err
		}
		gone = n == nil || n.hidden()
	}
	if gone {
		return nil, entry.NotExist(op, show(path))
	}
	return n, nil
}

// Lstat implements entry.FS.
func (c *Context) Lstat(path string) (entry.Entry, error) {
	n, err := c.get("lstat", path)
	if err != nil {
		return entry.Entry{}, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return n.entry(path), nil
}

// ReadDir implements entry.FS.
func (c *Context) ReadDir(path string) ([]entry.Entry, error) { return c.AppendDir(nil, path) }

// AppendDir implements entry.Appender.
func (c *Context) AppendDir(list []entry.Entry, path string) ([]entry.Entry, error) {
	n, err := c.get("readdir", path)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, &fs.PathError{Op: "readdir", Path: show(path), Err: unix.ENOTDIR}
	}
	c.mu.RLock()
	if !n.ready() {
		c.mu.RUnlock()
		if err := c.prepare(n, path); err != nil {
			return nil, err
		}
		c.mu.RLock()
	}
	defer c.mu.RUnlock()
	list = slices.Grow(list, len(n.extra.kids))
	paths := newJoiner(path, n.extra.kids)
	for _, k := range n.extra.kids {
		if !k.hidden() {
			list = append(list, k.entry(paths.join(k.name)))
		}
	}
	return list, nil
}

// ready reports whether the directory n can be listed from memory.
func (n *node) ready() bool {
	return n.extra.listed && !slices.ContainsFunc(n.extra.kids, func(k *node) bool { return !k.known() })
}

// prepare makes the directory n ready.
func (c *Context) prepare(n *node, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.list(n, path); err != nil {
		return err
	}
	for _, k := range n.extra.kids {
		if err := c.know(k, entry.Join(path, k.name)); err != nil {
			return err
		}
	}
	return nil
}

// Open implements entry.FS.
func (c *Context) Open(path string) (io.ReadCloser, error) { return c.OpenFile(path) }

// load finds path with the help of the disk. A nil node does not exist.
func (c *Context) load(name string) (*node, error) {
	if !valid(name) {
		return nil, nil
	}
	n, at := c.tree, "."
	if name == "." {
		return n, nil
	}
	for rest := name; rest != ""; {
		var el string
		el, rest, _ = strings.Cut(rest, "/")
		if !n.isDir() {
			return nil, nil
		}
		k, err := c.child(n, at, el)
		if k == nil || err != nil {
			return nil, err
		}
		n, at = k, entry.Join(at, el)
	}
	return n, c.know(n, name)
}

// child looks one name up in the directory n without listing it.
func (c *Context) child(n *node, at, name string) (*node, error) {
	if k := n.kid(name); k != nil || n.extra.listed {
		return k, nil
	}
	v, err := c.judge(c.match, at, name, n.extra)
	if err != nil || v.skip(false) && v.skip(true) {
		return nil, err
	}
	fd, err := openBeneath(c.root, at, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, goneOr("open", at, err)
	}
	defer unix.Close(fd)
	k, err := c.stat(fd, &node{name: name}, at, v)
	if k == nil || err != nil {
		return nil, err
	}
	n.add(k)
	c.recall(at, []*node{k})
	return k, nil
}

// stat fills in n, of which the name is known, in the directory fd at dir. It returns nil when it is
// not there or excluded.
func (c *Context) stat(fd int, n *node, dir string, v verdict) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, goneOr("lstat", entry.Join(dir, n.name), err)
	}
	n.set(&st)
	if v.skip(n.isDir()) {
		return nil, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.extra.info, n.extra.excluded = v.info, v.excluded
	case unix.S_IFREG:
		if st.Nlink > 1 {
			n.more().inode = c.links.id(&st)
		}
		if c.mayWait(&st) {
			n.flags |= mayWait
		}
	case unix.S_IFLNK:
		link, err := readlink(fd, n.name)
		if err != nil {
			return nil, goneOr("readlink", entry.Join(dir, n.name), err)
		}
		n.more().link = link
	}
	return n, nil
}

// goneOr turns a missing file into nil: it went away since it was listed.
func goneOr(op, path string, err error) error {
	if isGone(err) {
		return nil
	}
	return pathError(op, path, err)
}

// know reads what is not known of n: attributes of a file, and whether
// anything is left of an excluded directory.
func (c *Context) know(n *node, path string) error {
	if n.known() {
		return nil
	}
	if n.isDir() {
		return c.explore(n, path)
	}
	n.flags |= hasXattrs
	fd, err := openBeneath(c.root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil // reading its content will say why
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Ino == n.ino {
		n.setXattrs(readXattrs(fd))
	}
	return nil
}

func (n *node) setXattrs(x map[string]string) {
	if x != nil || n.extra != nil {
		n.more().xattrs = x
	}
	n.flags |= hasXattrs
}

// linkIDs numbers the files that have several names, across the file systems
// that a context may span.
type linkIDs struct {
	mu    sync.Mutex
	main  uint64 // device of the context's root: its inode numbers are kept
	other map[devIno]uint64
}

type devIno struct{ dev, ino uint64 }

func (l *linkIDs) id(st *unix.Stat_t) uint64 {
	const made = 1 << 63
	if uint64(st.Dev) == l.main && st.Ino != 0 && st.Ino < made {
		return st.Ino
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := devIno{uint64(st.Dev), st.Ino}
	if _, ok := l.other[k]; !ok {
		if l.other == nil {
			l.other = map[devIno]uint64{}
		}
		l.other[k] = made + uint64(len(l.other))
	}
	return l.other[k]
}
