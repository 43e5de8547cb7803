package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// The attributes of overlayfs: trusted ones as root, user ones for overlays
// mounted with userxattr in a user namespace.
const (
	prefixTrusted = "trusted.overlay."
	prefixUser    = "user.overlay."
	opaqueTrusted = prefixTrusted + "opaque"
)

// treeView reads an upper directory of overlayfs.
type treeView struct {
	root   *fsroot.Root
	fs     entry.FS
	prefix string
	side   side
	extra  map[string][]entry.Entry // of the side file, by directory

	mu     sync.Mutex
	inodes map[uint64]uint64
}

// OpenTree opens a layer in tree form: an upper directory of overlayfs, and
// the side file beside it if there is one. Deletions and opaque directories
// are understood as overlayfs writes them. An entry whose content or place
// overlayfs would look up elsewhere (metacopy, redirect) is an error wherever
// it is met; it is never followed.
//
// Which attributes count depends on who made the tree: the side file says so,
// else it is taken to be made by a process like this one.
func OpenTree(tree string) (*View, error) {
	root, err := fsroot.Open(tree)
	if err != nil {
		return nil, err
	}
	s, err := readSide(tree)
	if err != nil {
		root.Close()
		return nil, err
	}
	v := &treeView{root: root, fs: root.FS(), side: s, inodes: map[uint64]uint64{}}
	v.prefix = prefixTrusted
	if s.userxattr(inUserNamespace) {
		v.prefix = prefixUser
	}
	v.extra = s.byDir()
	return &View{v}, nil
}

// inUserNamespace reports whether trusted attributes are out of reach.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return os.Geteuid() != 0
	}
	f := strings.Fields(string(b))
	return os.Geteuid() != 0 || len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
}

// Close implements view.
func (v *treeView) Close() error { return v.root.Close() }

// RootImplied implements view.
func (v *treeView) RootImplied() bool { return v.side.RootImplied }

// Lstat implements entry.FS.
func (v *treeView) Lstat(p string) (entry.Entry, error) {
	e, err := v.fs.Lstat(p)
	if err == nil {
		return v.convert(e)
	}
	for _, x := range v.extra[entry.Parent(p)] {
		if x.Path == p {
			return x, nil
		}
	}
	return e, err
}

// ReadDir implements entry.FS.
func (v *treeView) ReadDir(p string) ([]entry.Entry, error) {
	list, err := v.fs.ReadDir(p)
	if err != nil {
		return nil, err
	}
	for i, e := range list {
		if list[i], err = v.convert(e); err != nil {
			return nil, err
		}
	}
	if extra := v.extra[p]; len(extra) > 0 {
		list = append(list, extra...)
		sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	}
	return list, nil
}

// Open implements entry.FS. The result is an *os.File.
func (v *treeView) Open(p string) (io.ReadCloser, error) {
	r, err := v.fs.Open(p)
	if err != nil {
		return nil, err
	}
	f, ok := r.(*os.File)
	if !ok {
		return r, nil
	}
	i, err := fsroot.Stat(f)
	if err == nil {
		i.Path = p
		_, err = v.convert(i.Entry)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Loader is view's: what steers overlayfs was an error when it was listed.
func (v *treeView) Loader() entry.Loader { return entry.LoaderOf(v.fs) }

// steering are the attributes by which a file in an upper directory stands
// for another one, or for none.
var steering = [...]string{"metacopy", "redirect", "whiteout"}

// ErrSteering is for a tree that cannot be read as it lies.
var ErrSteering = errors.New("the tree was written with overlay features that layers do not have")

// convert makes a layer's entry of what lies in the tree.
func (v *treeView) convert(e entry.Entry) (entry.Entry, error) {
	if isWhiteoutDevice(&e) {
		return entry.Entry{Path: e.Path, Kind: entry.Whiteout}, nil
	}
	for _, s := range steering {
		if _, ok := e.Xattrs[v.prefix+s]; ok {
			return e, pathError("read", e.Path, fmt.Errorf("attribute %s%s: %w", v.prefix, s, ErrSteering))
		}
	}
	if e.Kind == entry.Dir {
		switch e.Xattrs[v.prefix+"opaque"] {
		case "y":
			e.Opaque = true
		case "x":
			return e, pathError("read", e.Path, fmt.Errorf("attribute %sopaque: %w", v.prefix, ErrSteering))
		}
	}
	e.Xattrs = keptXattrs(e.Xattrs)
	if o, ok := v.side.Owners[e.Path]; ok {
		e.UID, e.GID = o.UID, o.GID
	}
	if more, ok := v.side.Xattrs[e.Path]; ok {
		e.Xattrs = more
	}
	if e.Inode != 0 {
		e.Inode = v.number(e.Inode)
	}
	return e, nil
}

// number gives inodes small numbers, in the order in which they are met, so
// that Merge can tell layers apart in the same number.
func (v *treeView) number(ino uint64) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.inodes[ino]
	if !ok {
		n = uint64(len(v.inodes)) + 1
		v.inodes[ino] = n
	}
	return n
}
