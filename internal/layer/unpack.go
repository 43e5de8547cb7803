package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// Unpack writes the tar form of the layer folder dir, read with the given
// index (see OpenTar), as a tree that overlayfs takes as a layer, into the
// folder to, which is made or empty. What a tree cannot hold goes to the side
// file beside it. It uses all processors. After an error the caller removes
// the folder.
func Unpack(ctx context.Context, dir, index, to string, o UnpackOptions) error {
	v, err := OpenTar(dir, index)
	if err != nil {
		return err
	}
	defer v.Close()
	root, err := emptyRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacker(root, newPlanter(o))
	u.list = v.view.(*tarView).list
	u.p.side.s.RootImplied = v.RootImplied()
	top, err := v.Lstat(".")
	if err == nil {
		err = u.run(ctx, top)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", dir, err)
	}
	return u.p.side.s.write(to)
}

// emptyRoot makes a folder, or takes one without content. It is this process's
// own, whatever the folder above would hand down: on some disks all that is
// made has the group of the disk.
func emptyRoot(to string) (*fsroot.Root, error) {
	err := os.Mkdir(to, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	root, err := fsroot.Open(to)
	if err != nil {
		return nil, err
	}
	err = errors.Join(root.Chown(".", uint32(os.Geteuid()), uint32(os.Getegid())), root.Chmod(".", 0o700))
	var names []string
	if err == nil {
		names, err = root.ReadDir(".")
	}
	if err == nil && len(names) > 0 {
		err = &os.PathError{Op: "unpack", Path: to, Err: syscall.ENOTEMPTY}
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// A lister calls fn for all that is in a directory, each with what writes its
// content into a new file. Files with one Inode are names of one file.
type lister func(dir string, fn func(e *entry.Entry, fill func(*os.File) error) error) error

// list is a lister.
func (v *tarView) list(dir string, fn func(*entry.Entry, func(*os.File) error) error) error {
	nid, err := v.img.find(dir)
	if err != nil {
		return err
	}
	return v.img.each(nid, func(name string, kid uint32) error {
		e, err := v.img.entry(kid, entry.Join(dir, name))
		if err != nil {
			return err
		}
		return fn(&e, func(f *os.File) error {
			c, err := v.content(kid)
			if err != nil {
				return err
			}
			return copyIn(f, c, e.Size)
		})
	})
}

// An unpacker writes a tree, with all processors.
type unpacker struct {
	list lister
	root *fsroot.Root
	p    *planter
	over bool // the tree has files: what is written replaces them, or deletes them

	mu    sync.Mutex
	cond  *sync.Cond
	queue []entry.Entry // directories that exist and wait to be filled
	busy  int
	err   error

	linkMu sync.Mutex
	links  map[uint64]*planted
}

// planted is the first name of a hard link group, there when done is closed.
type planted struct {
	path string
	done chan struct{}
	err  error
}

func newUnpacker(root *fsroot.Root, p *planter) *unpacker {
	u := &unpacker{root: root, p: p, links: map[uint64]*planted{}}
	u.cond = sync.NewCond(&u.mu)
	return u
}

// run fills directories, as many at once as there are processors, beginning
// with top.
func (u *unpacker) run(ctx context.Context, top entry.Entry) error {
	u.queue = append(u.queue, top)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() { u.work(ctx) })
	}
	wg.Wait()
	return u.err
}

func (u *unpacker) work(ctx context.Context) {
	for {
		dir, ok := u.take()
		if !ok {
			return
		}
		err := context.Cause(ctx)
		if err == nil {
			err = u.fill(&dir)
		}
		u.mu.Lock()
		u.busy--
		if err != nil && u.err == nil {
			u.err = err
		}
		u.mu.Unlock()
		u.cond.Broadcast()
	}
}

// take waits for a directory; there is none when nobody works and none waits,
// or after an error.
func (u *unpacker) take() (dir entry.Entry, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.queue) == 0 && u.busy > 0 && u.err == nil {
		u.cond.Wait()
	}
	if len(u.queue) == 0 || u.err != nil {
		return dir, false
	}
	n := len(u.queue) - 1
	dir, u.queue = u.queue[n], u.queue[:n]
	u.busy++
	return dir, true
}

// fill makes everything in one directory, then gives it its metadata: only
// its own names change its time, and they are all there.
func (u *unpacker) fill(e *entry.Entry) error {
	dir, err := u.root.Sub(e.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = u.list(e.Path, func(k *entry.Entry, fill func(*os.File) error) error {
		if err := u.one(dir, k, fill); err != nil {
			return fmt.Errorf("%s: %w", k.Path, err)
		}
		if k.Kind != entry.Dir {
			return nil
		}
		u.mu.Lock()
		u.queue = append(u.queue, *k)
		u.mu.Unlock()
		u.cond.Signal()
		return nil
	})
	if err != nil {
		return err
	}
	return u.p.finish(dir, ".", e)
}

func (u *unpacker) one(dir *fsroot.Root, e *entry.Entry, fill func(*os.File) error) error {
	if u.over {
		if done, err := u.makeWay(dir, e); done || err != nil {
			return err
		}
	}
	name := e.Base()
	if e.Inode == 0 {
		return u.p.plant(dir, name, e, fill)
	}
	u.linkMu.Lock()
	first, ok := u.links[e.Inode]
	if !ok {
		first = &planted{path: e.Path, done: make(chan struct{})}
		u.links[e.Inode] = first
	}
	u.linkMu.Unlock()
	if !ok {
		first.err = u.p.plant(dir, name, e, fill)
		close(first.done)
		return first.err
	}
	<-first.done
	if first.err != nil {
		return first.err
	}
	if u.p.foreign(e) {
		u.p.side.owner(e)
	}
	err := u.root.Link(first.path, e.Path)
	if errors.Is(err, syscall.EMLINK) {
		// More names than this file system gives one file.
		return u.p.plant(dir, name, e, fill)
	}
	return err
}
