package copying

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/entry"
)

// Items are what an instruction writes, in layer order. They do not change, and
// may be gone through any number of times.
//
// What lies in a copied folder that is new is not kept here but looked up each
// time: there may be millions of files, and From has them already.
type Items struct {
	Len  int   // number of items
	Size int64 // bytes of all files

	list  []Item
	names linkCounts
}

// Listed makes Items of a list of them.
func Listed(list []Item) *Items {
	all := &Items{list: list}
	for i := range list {
		it := &list[i]
		all.names.add(it.links, 1)
		all.Len++
		all.Size += it.Entry.Size
		if g := it.below; g != nil {
			all.Len += g.entries
			all.Size += g.size
			for links, n := range g.names {
				all.names.add(links, n)
			}
		}
	}
	return all
}

// linkCounts say how many names of each file with several are there. Nil has none.
type linkCounts map[linkGroup]int

func (c *linkCounts) add(links linkGroup, n int) {
	if links.inode == 0 {
		return
	}
	if *c == nil {
		*c = linkCounts{}
	}
	(*c)[links] += n
}

// Each calls fn with each of the items, which is fn's only until it returns. An
// error is fn's, which ends it, or of looking up what is in a folder.
func (all *Items) Each(fn func(*Item) error) error {
	inodes := map[linkGroup]uint64{}
	one := func(it *Item) error {
		if all.names[it.links] > 1 {
			if inodes[it.links] == 0 {
				inodes[it.links] = uint64(len(inodes) + 1)
			}
			it.Entry.Inode = inodes[it.links]
		}
		return fn(it)
	}
	for _, it := range all.list {
		if err := one(&it); err != nil {
			return err
		}
		if it.below != nil {
			if err := it.below.each(it.below.from, it.Entry.Path, one); err != nil {
				return err
			}
		}
	}
	return nil
}

// A linkGroup names the files that are hard links of each other: those of one
// inode that were copied by one source.
type linkGroup struct {
	batch int
	inode uint64
}

// A graft is what lies in a copied folder where nothing was: all of it is
// written, as it is in the source.
type graft struct {
	c       copier
	f       *filter
	from    branch
	entries int
	size    int64
	names   linkCounts
}

// graft looks through a folder for what cannot be copied.
func (c *copier) graft(f *filter, from branch) (*graft, error) {
	g := &graft{c: *c, f: f, from: from}
	return g, g.survey()
}

// survey counts what there is. Folders are listed side by side; of several things
// that cannot be copied the first in order is the error.
func (g *graft) survey() error {
	s := survey{g: g}
	if g.f.p == nil { // patterns are matched by one at a time
		s.helpers = make(chan struct{}, runtime.GOMAXPROCS(0)-1)
	}
	err := s.dir(g.from)
	s.all.Wait()
	if err == nil && !s.failed.Load() {
		return nil
	}
	*g = graft{c: g.c, f: g.f, from: g.from}
	s = survey{g: g}
	return s.dir(g.from)
}

type survey struct {
	g       *graft
	helpers chan struct{} // nil: there are none
	all     sync.WaitGroup
	failed  atomic.Bool // of a helper

	mu sync.Mutex // for what g has
}

func (s *survey) dir(from branch) error {
	var here graft
	err := s.g.f.each(from, func(k kid) error {
		e := &k.entry
		if err := check(*e, e.Base()); err != nil {
			return err
		}
		here.entries++
		switch e.Kind {
		case entry.Dir:
			return s.below(k.branch)
		case entry.File:
			here.size += e.Size
			here.names.add(linkGroup{s.g.c.batch, e.Inode}, 1)
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.g.entries += here.entries
	s.g.size += here.size
	for links, n := range here.names {
		s.g.names.add(links, n)
	}
	return err
}

// below is dir for a folder in it, which a helper takes if one is free.
func (s *survey) below(from branch) error {
	select {
	case s.helpers <- struct{}{}:
		s.all.Go(func() {
			if s.dir(from) != nil {
				s.failed.Store(true)
			}
			<-s.helpers
		})
		return nil
	default:
		return s.dir(from)
	}
}

// each calls fn for what lands in dir, parents first.
func (g *graft) each(from branch, dir string, fn func(*Item) error) error {
	it := new(Item) // one for all: it is fn's only until it returns
	return g.f.each(from, func(k kid) error {
		make := g.c.item
		if k.way {
			make = g.c.newWay
		}
		*it = make(k.entry, entry.Entry{Path: entry.Join(dir, k.entry.Base())})
		if err := fn(it); err != nil || !k.entry.IsDir() {
			return err
		}
		return g.each(k.branch, it.Entry.Path, fn)
	})
}

// open puts nodes in the place of what a directory has as a graft.
func (n *node) open() error {
	g := n.below
	if g == nil {
		return nil
	}
	n.below = nil
	made := n.item.Entry.Mtime
	err := g.c.contents(g.f, g.from, n)
	n.item.Entry.Mtime = made
	return err
}
