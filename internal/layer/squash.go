package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/whittle-build/whittle/internal/entry"
)

// Squash makes one layer, in tar form in the folder dir, that does to the file
// system below what the layers do, bottom first: what one of them made and a later one
// deleted is not in it, and nothing is deleted that is not below.
func Squash(ctx context.Context, dir string, layers []entry.FS, below entry.FS) (m Meta, err error) {
	b, err := Create(dir)
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			b.Abort()
		}
	}()
	q := squasher{until: ctx, out: b, layers: layers, below: below}
	all := make([]int, len(layers))
	for i := range all {
		all[i] = len(layers) - 1 - i
	}
	if err := q.root(all); err != nil {
		return m, err
	}
	return b.Finish()
}

type squasher struct {
	until  context.Context
	out    *Builder
	layers []entry.FS
	below  entry.FS
}

// stacked is what a path comes to: its topmost entry, and of a directory the
// layers that it is made of, top first.
type stacked struct {
	entry.Entry
	from []int
	ends bool // what is below does not show through it
}

func (q *squasher) root(all []int) error {
	s := stacked{}
	for _, i := range all {
		e, err := q.layers[i].Lstat(".")
		if err != nil {
			return err
		}
		if v, ok := q.layers[i].(rootImplied); len(s.Path) == 0 && !(ok && v.RootImplied()) {
			s.Entry = apart(e, i, len(q.layers))
		}
		s.from = append(s.from, i)
		if s.ends = e.Opaque; s.ends {
			break
		}
	}
	if s.Path != "" {
		s.Opaque = s.ends
		if err := q.out.Add(s.Entry, nil); err != nil {
			return err
		}
	}
	return q.dir(".", s.from, !s.ends)
}

// dir adds what the layers from, top first, have in a directory. shows says that
// the directory below shows through.
func (q *squasher) dir(p string, from []int, shows bool) error {
	lists := make([][]entry.Entry, len(from))
	for k, i := range from {
		var err error
		if lists[k], err = q.layers[i].ReadDir(p); err != nil {
			return err
		}
	}
	for {
		if q.until.Err() != nil {
			return context.Cause(q.until)
		}
		s, ok := q.next(lists, from)
		if !ok {
			return nil
		}
		if err := q.add(s, shows); err != nil {
			return err
		}
	}
}

// next takes the first name out of the lists.
func (q *squasher) next(lists [][]entry.Entry, from []int) (s stacked, ok bool) {
	name := ""
	for _, l := range lists {
		if len(l) > 0 && (name == "" || l[0].Path < name) {
			name = l[0].Path
		}
	}
	for k, l := range lists {
		if len(l) == 0 || l[0].Path != name {
			continue
		}
		e := l[0]
		lists[k] = l[1:]
		switch {
		case s.ends:
		case len(s.from) == 0:
			s.Entry, s.from = apart(e, from[k], len(q.layers)), []int{from[k]}
			s.ends = e.Kind != entry.Dir || e.Opaque
		case e.Kind != entry.Dir:
			s.ends = true
		default:
			s.from, s.ends = append(s.from, from[k]), e.Opaque
		}
	}
	return s, name != ""
}

// add writes one path, and all below it. shows says whether its directory below
// shows through.
func (q *squasher) add(s stacked, shows bool) (err error) {
	is := entry.Whiteout // nothing
	if shows {
		switch old, err := q.below.Lstat(s.Path); {
		case err == nil:
			is = old.Kind
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	switch s.Kind {
	case entry.Whiteout:
		if is == entry.Whiteout {
			return nil
		}
		return q.out.Add(s.Entry, nil)
	case entry.Dir:
		s.Opaque = s.ends && is == entry.Dir
		if err := q.out.Add(s.Entry, nil); err != nil {
			return err
		}
		return q.dir(s.Path, s.from, is == entry.Dir && !s.ends)
	case entry.File:
		in, err := q.layers[s.from[0]].Open(s.Path)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := q.out.Add(s.Entry, in); err != nil {
			return fmt.Errorf("%s: %w", s.Path, err)
		}
		return nil
	}
	return q.out.Add(s.Entry, nil)
}
