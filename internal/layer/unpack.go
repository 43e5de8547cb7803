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
	u := &unpacker{src: v.view.(*tarView), root: root, p: newPlanter(o), links: map[uint64]*planted{}}
	u.p.side.s.RootImplied = v.RootImplied()
	if err := u.run(ctx); err != nil {
		return fmt.Errorf("unpack %s: %w", dir, err)
	}
	return u.p.side.s.write(to)
}

// emptyRoot makes a folder, or takes one without content.
func emptyRoot(to string) (*fsroot.Root, error) {
	err := os.Mkdir(to, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	root, err := fsroot.Open(to)
	if err != nil {
		return nil, err
	}
	names, err := root.ReadDir(".")
	if err == nil && len(names) > 0 {
		err = &os.PathError{Op: "unpack", Path: to, Err: syscall.ENOTEMPTY}
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

type unpacker struct {
	src  *tarView
	root *fsroot.Root
	p    *planter

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

// run fills directories, as many at once as there are processors.
func (u *unpacker) run(ctx context.Context) error {
	top, err := u.src.Lstat(".")
	if err != nil {
		return err
	}
	u.cond = sync.NewCond(&u.mu)
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
	nid, err := u.src.img.find(e.Path)
	if err != nil {
		return err
	}
	err = u.src.img.each(nid, func(name string, kid uint32) error {
		k, err := u.src.img.entry(kid, entry.Join(e.Path, name))
		if err != nil {
			return err
		}
		if err := u.one(dir, name, &k, kid); err != nil {
			return fmt.Errorf("%s: %w", k.Path, err)
		}
		if k.Kind != entry.Dir {
			return nil
		}
		u.mu.Lock()
		u.queue = append(u.queue, k)
		u.mu.Unlock()
		u.cond.Signal()
		return nil
	})
	if err != nil {
		return err
	}
	return u.p.finish(dir, ".", e)
}

func (u *unpacker) one(dir *fsroot.Root, name string, e *entry.Entry, nid uint32) error {
	if e.Inode == 0 {
		return u.plant(dir, name, e, nid)
	}
	u.linkMu.Lock()
	first, ok := u.links[e.Inode]
	if !ok {
		first = &planted{path: e.Path, done: make(chan struct{})}
		u.links[e.Inode] = first
	}
	u.linkMu.Unlock()
	if !ok {
		first.err = u.plant(dir, name, e, nid)
		close(first.done)
		return first.err
	}
	<-first.done
	if first.err != nil {
		return first.err
	}
	err := u.root.Link(first.path, e.Path)
	if errors.Is(err, syscall.EMLINK) {
		// More names than this file system gives one file.
		return u.plant(dir, name, e, nid)
	}
	return err
}

func (u *unpacker) plant(dir *fsroot.Root, name string, e *entry.Entry, nid uint32) error {
	return u.p.plant(dir, name, e, func(f *os.File) error {
		c, err := u.src.content(nid)
		if err != nil {
			return err
		}
		return copyIn(f, c, e.Size)
	})
}
