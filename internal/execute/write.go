package execute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/solve"
)

// Reading ahead: so many files at once, each of at most so many bytes. Larger
// files are streamed by the writer itself. Together they bound the memory of a
// copy, whatever its size.
const (
	readers     = 4
	window      = 64
	smallestBig = 256 << 10
)

// write makes a layer of items, whose content is in the file systems of rs,
// and commits it.
func (l *Local) write(ctx context.Context, job solve.Job, items []copying.Item, rs []copying.Request) (made solve.Made, err error) {
	tmp, err := l.Store.Temp("copy")
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	w, err := l.newWriter(job, tmp)
	if err != nil {
		return made, err
	}
	if err := addAll(ctx, w, items, rs); err != nil {
		w.Abort()
		return made, l.refused(ctx, job, err)
	}
	meta, err := w.Finish()
	if err != nil {
		return made, err
	}
	id := meta.DiffID
	if id.IsZero() {
		id = bornTree(job)
	}
	return l.commit(tmp, id, meta)
}

// item is one entry of a layer to be written, with where its content is.
type item struct {
	*copying.Item
	from entry.FS // nil for what has no content
}

func itemOf(it *copying.Item, rs []copying.Request) item {
	if it.Source == "" || it.Entry.Kind != entry.File {
		return item{it, nil}
	}
	return item{it, rs[it.From].From}
}

// ahead says whether the content is worth reading before its turn. That of
// hard links is needed for the first name only.
func (it item) ahead() bool {
	return it.from != nil && it.Entry.Size < smallestBig && it.Entry.Inode == 0
}

// loaded is the content of one item, there when done is closed.
type loaded struct {
	item
	data []byte
	err  error
	done chan struct{}
}

// addAll writes items in order while readers read the small files ahead, at
// most window of them.
func addAll(ctx context.Context, w writer, items []copying.Item, rs []copying.Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	order, jobs := make(chan *loaded, window), make(chan *loaded)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { feed(ctx, items, rs, order, jobs) })
	for range readers {
		wg.Go(func() {
			for ld := range jobs {
				ld.data, ld.err = ld.readSmall()
				close(ld.done)
			}
		})
	}
	for i := range items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		it := itemOf(&items[i], rs)
		add := it.add
		if it.ahead() {
			add = func(w writer) error { return addLoaded(ctx, w, order) }
		}
		if err := add(w); err != nil {
			return err
		}
	}
	return nil
}

// feed hands out the files to read, in order.
func feed(ctx context.Context, items []copying.Item, rs []copying.Request, order, jobs chan<- *loaded) {
	defer close(jobs)
	for i := range items {
		it := itemOf(&items[i], rs)
		if !it.ahead() {
			continue
		}
		ld := &loaded{item: it, done: make(chan struct{})}
		for _, ch := range []chan<- *loaded{order, jobs} {
			select {
			case ch <- ld:
			case <-ctx.Done():
				return
			}
		}
	}
}

// addLoaded writes the next of the files that are read ahead.
func addLoaded(ctx context.Context, w writer, order <-chan *loaded) error {
	var ld *loaded
	select {
	case ld = <-order:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-ld.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ld.err != nil {
		return ld.err
	}
	return w.Add(ld.Entry, bytes.NewReader(ld.data))
}

func (it item) readSmall() ([]byte, error) {
	f, err := it.from.Open(it.Source)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, it.Entry.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: %w", it.Source, shorter(err))
	}
	return data, verify(it.from, it.Source, f)
}

// shorter says in words what an unexpected end of a file means here.
func shorter(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file became shorter while it was read")
	}
	return err
}

// add writes an item whose content is not read ahead.
func (it item) add(w writer) error {
	if it.from == nil {
		return w.Add(it.Entry, nil) // a file without a source is empty
	}
	if it.Entry.Inode != 0 {
		return it.addLinked(w)
	}
	f, err := it.from.Open(it.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.Add(it.Entry, f); err != nil {
		return err
	}
	return verify(it.from, it.Source, f)
}

// addLinked writes one name of a hard link; the writer reads the content of
// the first only.
func (it item) addLinked(w writer) (err error) {
	l := lazy{item: it}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := w.Add(it.Entry, &l); err != nil || l.f == nil {
		return err
	}
	return verify(it.from, it.Source, l.f)
}

// lazy is a content that is opened when it is read.
type lazy struct {
	item
	f io.ReadCloser
}

func (l *lazy) Read(p []byte) (n int, err error) {
	if l.f == nil {
		if l.f, err = l.from.Open(l.Source); err != nil {
			return 0, err
		}
	}
	return l.f.Read(p)
}

func (l *lazy) close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
