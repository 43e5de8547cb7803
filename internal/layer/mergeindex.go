package layer

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/whittle-build/whittle/internal/entry"
)

// A Part is the tar form of a layer: its folder, and the index to read it by
// (see OpenTar).
type Part struct {
	Dir   string
	Index string
}

// MergeIndexes writes one index of several layers, bottom first and complete
// from the bottom of their chain, to the new file out: what Merge shows, with
// nothing deleted left in it. It is mounted with the layers' tars as devices,
// in the same order, and takes the place of as many overlay layers.
func MergeIndexes(out string, parts []Part) (err error) {
	x := &indexMerger{t: newTable(), links: map[linkKey]uint32{}, sparse: &lazyExtents{dir: filepath.Dir(out)}}
	defer func() { err = errors.Join(err, x.sparse.close()) }()
	var layers []entry.FS
	var devices []device
	for _, p := range parts {
		v, err := OpenTar(p.Dir, p.Index)
		if err != nil {
			return err
		}
		defer v.Close()
		tv := v.view.(*tarView)
		if len(tv.img.devices) != 1 {
			return fmt.Errorf("index %s: has %d devices", indexPath(p.Dir, p.Index), len(tv.img.devices))
		}
		x.views = append(x.views, tv)
		layers = append(layers, v)
		devices = append(devices, tv.img.devices[0])
	}
	x.m = Merge(layers...).(*merged)
	if err := x.root(); err != nil {
		return err
	}
	if err := x.dir(".", rootIno); err != nil {
		return err
	}
	return writeIndex(out, x.t, devices, x.sparse.x)
}

type indexMerger struct {
	t      *table
	m      *merged
	views  []*tarView
	links  map[linkKey]uint32
	sparse *lazyExtents
}

type linkKey struct {
	layer int
	inode uint64
}

func (x *indexMerger) root() error {
	e, err := x.m.Lstat(".")
	if err != nil {
		return err
	}
	ino, err := x.t.inodeOf(&e)
	if err != nil {
		return err
	}
	ino.implied = true
	for _, v := range x.views {
		ino.implied = ino.implied && v.RootImplied()
	}
	x.t.update(rootIno, ino)
	return nil
}

func (x *indexMerger) dir(p string, i uint32) error {
	list, from, err := x.m.list(p)
	if err != nil {
		return err
	}
	for n := range list {
		if err := x.add(i, &list[n], from[n]); err != nil {
			return fmt.Errorf("%s: %w", list[n].Path, err)
		}
	}
	return nil
}

func (x *indexMerger) add(dir uint32, e *entry.Entry, layer int) error {
	key := linkKey{layer, e.Inode}
	if i, ok := x.links[key]; ok && e.Inode != 0 {
		return x.t.attach(dir, e.Base(), i)
	}
	ino, err := x.t.inodeOf(e)
	if err != nil {
		return err
	}
	if e.Kind == entry.File && e.Size > 0 {
		if err := x.place(&ino, e, layer); err != nil {
			return err
		}
	}
	i, err := x.t.put(dir, e.Base(), ino)
	if err != nil {
		return err
	}
	if e.Inode != 0 {
		x.links[key] = i
	}
	if e.Kind == entry.Dir {
		return x.dir(e.Path, i)
	}
	return nil
}

// place points a file at its layer's tar; what only its index has is copied.
func (x *indexMerger) place(ino *inode, e *entry.Entry, layer int) error {
	v := x.views[layer]
	nid, err := v.img.find(e.Path)
	if err != nil {
		return err
	}
	c, err := v.content(nid)
	if err != nil {
		return err
	}
	if f, off, ok := c.where(); ok && f == v.tar {
		ino.dev, ino.data = uint16(layer+1), off
		return nil
	}
	ext, err := x.sparse.get()
	if err != nil {
		return err
	}
	ino.dev = 0
	ino.data, err = ext.copyOf(c)
	return err
}
