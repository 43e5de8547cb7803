package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
)

// Seal writes a layer in tree form (see OpenTree) as a tar with its index
// into the folder dir. The tar is sorted, so it depends on nothing but the
// tree's content. Hard links are those within the tree. Sockets are left out,
// and so are the attributes of overlayfs.
func Seal(ctx context.Context, tree, dir string) (m Meta, err error) {
	b, err := Create(dir)
	if err != nil {
		return m, err
	}
	b.Direct() // steps read the tree
	return seal(ctx, tree, b)
}

// Describe returns what Seal would, and writes nothing: the digest of the tar is
// known before anybody needs the tar.
func Describe(ctx context.Context, tree string) (Meta, error) {
	return seal(ctx, tree, newBuilder("", sinkInto(nil)))
}

func seal(ctx context.Context, tree string, b *Builder) (m Meta, err error) {
	defer func() {
		if err != nil {
			b.Abort()
		}
	}()
	v, err := OpenTree(tree)
	if err != nil {
		return m, err
	}
	defer v.Close()
	if err := sealAll(ctx, b, v); err != nil {
		return m, fmt.Errorf("seal %s: %w", tree, err)
	}
	return b.Finish()
}

// sealAll adds the whole view. One goroutine walks, some read small files,
// and this one writes in the order of the walk.
func sealAll(ctx context.Context, b *Builder, v *View) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &sealer{v: v, order: make(chan *sealing, 256), reads: make(chan *sealing, 256)}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.walk(ctx) })
	for range runtime.GOMAXPROCS(0) {
		wg.Go(s.read)
	}
	// After an error the walk ends, and what it still sends is thrown away.
	var err error
	for i := range s.order {
		<-i.ready
		if err == nil {
			err = s.add(b, i)
		}
		if err != nil {
			cancel(err)
		}
	}
	if err != nil {
		return err
	}
	return s.err
}

type sealer struct {
	v     *View
	order chan *sealing
	reads chan *sealing
	err   error // of the walk; to be read when order is closed
}

// sealing is one entry on its way, complete when ready is closed.
type sealing struct {
	e     entry.Entry
	ready chan struct{}
	text  []byte
	err   error
}

func (s *sealer) walk(ctx context.Context) {
	defer close(s.order)
	defer close(s.reads)
	seen := map[uint64]bool{}
	s.err = entry.Walk(s.v, ".", func(e entry.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.Path == "." && s.v.RootImplied() {
			return nil
		}
		i := &sealing{e: e, ready: make(chan struct{})}
		s.order <- i
		if e.Kind != entry.File || e.Size == 0 || e.Size > maxPooled || e.Inode != 0 && seen[e.Inode] {
			close(i.ready)
		} else {
			s.reads <- i
		}
		seen[e.Inode] = true
		return nil
	})
}

func (s *sealer) read() {
	for i := range s.reads {
		i.text, i.err = s.content(i.e)
		close(i.ready)
	}
}

func (s *sealer) content(e entry.Entry) ([]byte, error) {
	r, err := s.v.Open(e.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, e.Size)
	_, err = io.ReadFull(r, b)
	return b, noEOF(err)
}

func (s *sealer) add(b *Builder, i *sealing) error {
	if i.err != nil {
		return i.err
	}
	if i.text != nil {
		return b.Add(i.e, bytes.NewReader(i.text))
	}
	if i.e.Kind != entry.File || i.e.Size == 0 {
		return b.Add(i.e, nil)
	}
	l := &lazyOpen{fsys: s.v, path: i.e.Path}
	defer l.Close()
	return b.Add(i.e, l)
}

// lazyOpen opens a file when it is read first: hard links are not.
type lazyOpen struct {
	fsys entry.FS
	path string
	r    io.ReadCloser
}

func (l *lazyOpen) Read(p []byte) (int, error) {
	if l.r == nil {
		r, err := l.fsys.Open(l.path)
		if err != nil {
			return 0, err
		}
		l.r = r
	}
	return l.r.Read(p)
}

func (l *lazyOpen) Close() error {
	if l.r == nil {
		return nil
	}
	return l.r.Close()
}

// TreeMeta counts what a tree has, as the Meta of a layer that has no tar.
func TreeMeta(tree string) (Meta, error) {
	v, err := OpenTree(tree)
	if err != nil {
		return Meta{}, err
	}
	defer v.Close()
	m := Meta{Form: FormTree}
	seen := map[uint64]bool{}
	err = entry.Walk(v, ".", func(e entry.Entry) error {
		if e.Path == "." {
			return nil
		}
		if strings.HasPrefix(e.Base(), whPrefix) {
			return fmt.Errorf("/%s: %w", e.Path, ErrWhiteoutName)
		}
		if len(e.Path) > maxPath {
			return fmt.Errorf("/%s…: a path of %d bytes, %w", e.Path[:64], len(e.Path), ErrLongPath)
		}
		m.Entries++
		if e.Kind == entry.File && !seen[e.Inode] {
			m.Size += e.Size
		}
		if e.Inode != 0 {
			seen[e.Inode] = true
		}
		return nil
	})
	return m, err
}
