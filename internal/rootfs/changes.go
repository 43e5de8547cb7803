package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// A Sink takes the entries of a layer, as layer.Builder does.
type Sink interface {
	Add(e entry.Entry, content io.Reader) error
}

// A LeftoverError is for a file that a step left and that no layer can hold.
type LeftoverError struct {
	Path string
	Why  string
	Hint string
}

func (e *LeftoverError) Error() string { return fmt.Sprintf("/%s: %s", e.Path, e.Why) }

// A differ walks a root in the order of its listing and adds to a layer what is
// not as it was: names that are gone as whiteouts, a folder that was made anew as
// what differs in it. What was touched and is equal is left out: of a folder the
// time does not count. What is in the root is not trusted; nothing writes to it.
type differ struct {
	root  *fsroot.Root
	files entry.FS // root's
	was   *replay
	now   *recorder
	below entry.FS // what was put there
	lacks map[string]map[string]string
	to    Sink

	above   []entry.Entry // the folders over what is compared, without attributes where those are as before
	said    int           // so many of them are in the layer
	links   map[uint64]*group
	inexact bool // the root is not as the layer says: see group
	buried  []string
}

// A group is the names of one file that went to the layer. Those that did not
// make other files of it there.
type group struct{ said, all uint64 }

// run compares all. to has then what changed.
func (d *differ) run() error {
	i, err := d.root.Lstat(".")
	if err != nil {
		return err
	}
	if err := d.now.put(0, ".", &i); err != nil {
		return err
	}
	was := d.was.at
	if err := d.was.next(); err != nil {
		return err
	}
	e, same, err := d.attributes(&i, &was)
	if err != nil {
		return err
	}
	if !same {
		if err := d.to.Add(e, nil); err != nil {
			return err
		}
	}
	if err := d.folder(".", 1, true); err != nil {
		return err
	}
	for _, g := range d.links {
		d.inexact = d.inexact || g.said != g.all
	}
	return d.bury()
}

// folder compares what is in a directory, whose names have that depth. Old says
// that it was a directory before.
func (d *differ) folder(dir string, depth uint32, old bool) error {
	f, err := openFolder(d.root, dir, depth)
	if err != nil {
		return err
	}
	defer f.close()
	names := f.names
	for len(names) > 0 || old && d.was.at.Depth == depth {
		here := old && d.was.at.Depth == depth
		switch {
		case here && (len(names) == 0 || d.was.at.Name < names[0]):
			err = d.gone(entry.Join(dir, d.was.at.Name), depth)
		case here && d.was.at.Name == names[0]:
			was := d.was.at
			if err = d.was.next(); err == nil {
				err = d.both(f, names[0], &was)
			}
			names = names[1:]
		default:
			err = d.made(f, names[0])
			names = names[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gone is a name that was there.
func (d *differ) gone(path string, depth uint32) error {
	if err := d.was.next(); err != nil {
		return err
	}
	if err := d.was.skip(depth); err != nil {
		return err
	}
	d.forget(path)
	return d.add(entry.Entry{Path: path, Kind: entry.Whiteout}, nil)
}

// made is a name that was not there.
func (d *differ) made(f *folder, name string) error {
	i, err := f.lstat(name)
	if err != nil {
		return err
	}
	return d.fresh(&i, name, f.depth, false)
}

// fresh adds a file that stands where nothing was, or something of another
// kind.
func (d *differ) fresh(i *fsroot.Info, name string, depth uint32, replaces bool) error {
	e := i.Entry
	if err := d.describe(&e); err != nil {
		return err
	}
	switch e.Kind {
	case entry.Socket:
		// No layer has it, and so the next step's root has not.
		d.buried = append(d.buried, e.Path)
		if replaces {
			return d.add(entry.Entry{Path: e.Path, Kind: entry.Whiteout}, nil)
		}
		return nil
	case entry.Dir:
		if err := d.now.put(depth, name, i); err != nil {
			return err
		}
		if err := d.add(e, nil); err != nil {
			return err
		}
		return d.within(e, depth, false, true)
	}
	if err := d.now.put(depth, name, i); err != nil {
		return err
	}
	return d.file(e, i)
}

// both is a name that was there and is.
func (d *differ) both(f *folder, name string, was *listed) error {
	i, err := f.lstat(name)
	if err != nil {
		return err
	}
	depth := f.depth
	if i.Kind != was.Kind {
		d.forget(i.Path)
		if err := d.was.skip(depth); err != nil {
			return err
		}
		return d.fresh(&i, name, depth, true)
	}
	if err := d.now.put(depth, name, &i); err != nil {
		return err
	}
	touched := stampOf(&i) != was.stamp
	if i.Kind != entry.Dir && !touched {
		return nil
	}
	e, same, err := d.attributes(&i, was)
	if err != nil {
		return err
	}
	if i.Kind == entry.Dir {
		if !same {
			if err := d.add(e, nil); err != nil {
				return err
			}
		}
		return d.within(e, depth, true, !same)
	}
	if same && i.Mtime == was.Mtime {
		if same, err = d.equal(e, &i); same || err != nil {
			return err
		}
	}
	return d.file(e, &i)
}

// within compares what is in a directory, which the layer has or not yet.
func (d *differ) within(e entry.Entry, depth uint32, old, said bool) error {
	d.above = append(d.above, e)
	if said {
		d.said = len(d.above)
	}
	err := d.folder(e.Path, depth+1, old)
	d.above = d.above[:len(d.above)-1]
	d.said = min(d.said, len(d.above))
	return err
}

// add adds an entry below those of the directories above it.
func (d *differ) add(e entry.Entry, content io.Reader) error {
	for ; d.said < len(d.above); d.said++ {
		e := d.above[d.said]
		if err := d.describe(&e); err != nil {
			return err
		}
		d.restore(&e)
		if err := d.to.Add(e, nil); err != nil {
			return err
		}
	}
	if strings.HasPrefix(e.Base(), ".wh.") {
		return &LeftoverError{e.Path, layer.ErrWhiteoutName.Error(), "remove or rename the file at the end of the RUN"}
	}
	if e.Kind == entry.Char && e.Major == 0 && e.Minor == 0 {
		return &LeftoverError{e.Path, "a character device 0/0 stands for a deleted file in a layer", "remove it at the end of the RUN"}
	}
	return d.to.Add(e, content)
}

// file adds a file that is no directory.
func (d *differ) file(e entry.Entry, i *fsroot.Info) error {
	if e.Kind == entry.File && e.Inode != 0 {
		g := d.links[e.Inode]
		if g == nil {
			g = &group{all: i.Nlink}
			d.links[e.Inode] = g
		}
		if g.said++; g.said > 1 {
			return d.add(e, nil) // the layer has the content
		}
	}
	if e.Kind != entry.File || e.Size == 0 {
		return d.add(e, nil)
	}
	r, err := d.files.Open(e.Path)
	if err != nil {
		return err
	}
	return errors.Join(d.add(e, r), r.Close())
}

// describe adds the attributes that the root holds.
func (d *differ) describe(e *entry.Entry) error {
	attrs, err := d.root.Getxattrs(e.Path)
	e.Xattrs = layer.KeptXattrs(attrs)
	return err
}

// attributes is a file as a layer has it, and whether its attributes are those
// that were put there; then they may be missing.
func (d *differ) attributes(i *fsroot.Info, was *listed) (e entry.Entry, same bool, err error) {
	e = i.Entry
	if stampOf(i) == was.stamp {
		return e, true, nil
	}
	if err := d.describe(&e); err != nil {
		return e, false, err
	}
	if was.Ino == i.Ino {
		d.restore(&e)
	} else {
		d.forget(e.Path)
	}
	old, err := d.below.Lstat(i.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, nil
	}
	return e, err == nil && entry.SameAttributes(e, old), err
}

// forget notes that a file which the root could not hold as it is was replaced:
// the next step gets a new root.
func (d *differ) forget(path string) {
	for p := range d.lacks {
		d.inexact = d.inexact || p == path || strings.HasPrefix(p, path+"/")
	}
}

// restore adds the attributes that the root could not hold.
func (d *differ) restore(e *entry.Entry) {
	for name, value := range d.lacks[e.Path] {
		if _, ok := e.Xattrs[name]; ok {
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = value
	}
}

// equal reports whether a file that was touched has what it had.
func (d *differ) equal(e entry.Entry, i *fsroot.Info) (bool, error) {
	old, err := d.below.Lstat(e.Path)
	if err != nil || old.Kind != e.Kind {
		return false, err
	}
	same, err := entry.SameFile(e, d.files, e.Path, old, d.below)
	if same && e.Kind == entry.File && (old.Inode != 0) != (i.Nlink > 1) {
		d.inexact = true // it has more names now, or fewer
	}
	return same, err
}

// bury removes from the root what no layer holds.
func (d *differ) bury() error {
	for _, p := range d.buried {
		dir, err := d.root.Lstat(entry.Parent(p))
		if err != nil {
			return err
		}
		if err := errors.Join(d.root.Remove(p), d.root.Utimes(dir.Path, dir.Mtime)); err != nil {
			return err
		}
	}
	return nil
}
