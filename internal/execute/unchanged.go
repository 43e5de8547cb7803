package execute

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// leaveOut takes out of a step's upper directory what is in the file system
// below just so: what overlayfs copied up for a chown to the same owner, and
// directories in which files came and went. Of a directory the time does not
// count, as with the reference builder, whose layers never say either what the
// root directory is: here one that was changed is said.
func leaveOut(upper string, below entry.FS) (err error) {
	view, err := layer.OpenTree(upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	root, err := fsroot.Open(upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	l := leaver{root: root, upper: view, below: below}
	e, err := view.Lstat(".")
	if err != nil {
		return err
	}
	was, err := below.Lstat(".")
	if err != nil {
		return err
	}
	if _, err := l.dir(e); err != nil {
		return err
	}
	if e.Opaque || !sameAttributes(e, was) {
		return nil
	}
	return layer.ImplyRoot(upper)
}

type leaver struct {
	root         *fsroot.Root
	upper, below entry.FS
}

// dir leaves out what is in a directory that both have, and reports whether
// nothing is left in it.
func (l *leaver) dir(dir entry.Entry) (empty bool, err error) {
	list, err := l.upper.ReadDir(dir.Path)
	if err != nil {
		return false, err
	}
	left := len(list)
	for _, e := range list {
		same, err := l.same(e)
		if err != nil {
			return false, err
		}
		if !same {
			continue
		}
		if err := l.root.Remove(e.Path); err != nil {
			return false, err
		}
		left--
	}
	if left < len(list) {
		return left == 0, l.root.Utimes(dir.Path, dir.Mtime)
	}
	return left == 0, nil
}

// same reports whether an entry of the upper says nothing, after it has left
// out what is in it.
func (l *leaver) same(e entry.Entry) (bool, error) {
	if e.Kind == entry.Whiteout || e.Opaque {
		return false, nil
	}
	was, err := l.below.Lstat(e.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || was.Kind != e.Kind {
		return false, err
	}
	if e.Kind == entry.Dir {
		empty, err := l.dir(e)
		return empty && sameAttributes(e, was), err
	}
	if !sameAttributes(e, was) || e.Mtime != was.Mtime || e.Size != was.Size || e.Link != was.Link || e.Major != was.Major || e.Minor != was.Minor {
		return false, nil
	}
	if e.Kind != entry.File || e.Size == 0 {
		return true, nil
	}
	return l.sameContent(e.Path)
}

func (l *leaver) sameContent(path string) (same bool, err error) {
	a, err := l.upper.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := l.below.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return sameBytes(a, b)
}

func sameBytes(a, b io.Reader) (bool, error) {
	const piece = 64 << 10
	x, y := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(a, x)
		m, other := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		for _, err := range []error{err, other} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if err != nil || other != nil {
			return true, nil
		}
	}
}

func sameAttributes(a, b entry.Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && maps.Equal(a.Xattrs, b.Xattrs)
}

// unlike returns the items of a COPY that are not below just so, and the
// directories on the way to them.
func unlike(items []copying.Item, rs []copying.Request) ([]copying.Item, error) {
	missing, needed := map[string]bool{}, map[string]bool{}
	same := make([]bool, len(items))
	for i := range items {
		e := items[i].Entry
		if missing[entry.Parent(e.Path)] {
			missing[e.Path] = true
		} else if was, err := rs[items[i].From].To.Lstat(e.Path); errors.Is(err, fs.ErrNotExist) {
			missing[e.Path] = true
		} else if err != nil {
			return nil, err
		} else if same[i], err = sameItem(&items[i], was, rs); err != nil {
			return nil, err
		}
		for dir := e.Path; !same[i] && dir != "." && !needed[entry.Parent(dir)]; dir = entry.Parent(dir) {
			needed[entry.Parent(dir)] = true
		}
	}
	kept := items[:0]
	for i, it := range items {
		if !same[i] || needed[it.Entry.Path] {
			kept = append(kept, it)
		}
	}
	return kept, nil
}

// sameItem compares an item with what is in its place. A layer's times have
// whole seconds.
func sameItem(it *copying.Item, was entry.Entry, rs []copying.Request) (same bool, err error) {
	e := it.Entry
	if e.Kind != was.Kind || !sameAttributes(e, was) {
		return false, nil
	}
	if e.Kind == entry.Dir {
		return true, nil
	}
	if e.Mtime.Sec != was.Mtime.Sec || e.Size != was.Size || e.Link != was.Link || e.Major != was.Major || e.Minor != was.Minor {
		return false, nil
	}
	if e.Kind != entry.File || e.Size == 0 {
		return true, nil
	}
	r := rs[it.From]
	a, err := r.From.Open(it.Source)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := r.To.Open(e.Path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return sameBytes(a, b)
}
