package execute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
	"github.com/whittle-build/whittle/internal/trace"
)

// Reading ahead: so many batches at once, each of at most so many files and
// bytes. Larger files are streamed by the writer itself. Together they bound
// the memory of a copy, whatever its size.
const (
	readers     = 4
	batches     = readers + 2
	batchFiles  = 64
	batchBytes  = 512 << 10
	smallestBig = 256 << 10
)

// write makes a layer of items, whose content is in the file systems of rs,
// and commits it.
func (l *Local) write(ctx context.Context, job solve.Job, items *copying.Items, rs []copying.Request) (made solve.Made, err error) {
	tmp, err := l.Store.Temp("copy")
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	meta, err := l.writeTo(ctx, job, tmp, items, rs)
	if err != nil {
		return made, l.refused(ctx, job, err)
	}
	return l.commitWritten(job, tmp, meta)
}

// writeTo makes the files of a layer of items in tmp.
func (l *Local) writeTo(ctx context.Context, job solve.Job, tmp *store.Temp, items *copying.Items, rs []copying.Request) (meta layer.Meta, err error) {
	w, err := l.newWriter(job, tmp)
	if err != nil {
		return meta, err
	}
	span := trace.Begin(ctx, "write")
	err = addAll(ctx, w, items, rs)
	span.End()
	if err != nil {
		w.Abort()
		return meta, err
	}
	span = trace.Begin(ctx, "finish")
	defer span.End()
	return w.Finish()
}

func (l *Local) commitWritten(job solve.Job, tmp *store.Temp, meta layer.Meta) (solve.Made, error) {
	id := meta.DiffID
	if id.IsZero() {
		id = store.TreeID(job.Key, job.Nonce)
	}
	return l.commit(tmp, id, meta)
}

// item is one entry of a layer to be written, with where its content is.
type item struct {
	copying.Item
	from entry.FS // nil for what has no content
}

func itemOf(it *copying.Item, rs []copying.Request) item {
	if it.Source == "" || it.Entry.Kind != entry.File {
		return item{*it, nil}
	}
	return item{*it, rs[it.From].From}
}

// ahead says whether the content is worth reading before its turn. That of
// hard links is needed for the first name only.
func (it *item) ahead() bool {
	return it.from != nil && it.Entry.Size < smallestBig && it.Entry.Inode == 0
}

// batch is items that go together: one message each way for many small files.
// Who writes them hands the batch back to be filled again.
type batch struct {
	items []item
	size  int64
	data  []byte // the content of one item that is read ahead after the other
	good  int    // so many of these were read before err
	err   error
	done  chan struct{} // receives when the batch is read
}

// addAll writes items in order while readers read the small files ahead, at
// most so many batches of them.
func addAll(ctx context.Context, w writer, items *copying.Items, rs []copying.Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	a := readAhead{
		ctx: ctx, items: items, rs: rs,
		free: make(chan *batch, batches), order: make(chan *batch, batches), jobs: make(chan *batch, batches),
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(a.feed)
	for range readers {
		wg.Go(a.readAll)
	}
	for b := range a.order {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := b.write(ctx, w); err != nil {
			return err
		}
		a.free <- b
	}
	return a.err
}

// readAhead is the reading ahead of one copy. Batches go from free to jobs and, in
// the order of the items, to order; from there back to free.
type readAhead struct {
	ctx               context.Context
	items             *copying.Items
	rs                []copying.Request
	free, order, jobs chan *batch
	err               error // why there are no more batches, when order is closed
}

// feed hands out the items, in order.
func (a *readAhead) feed() {
	defer close(a.order)
	defer close(a.jobs)
	for range batches {
		a.free <- &batch{done: make(chan struct{}, 1)}
	}
	var b *batch
	a.err = a.items.Each(func(it *copying.Item) error {
		if b == nil {
			select {
			case b = <-a.free:
			case <-a.ctx.Done():
				return context.Cause(a.ctx)
			}
			*b = batch{items: b.items[:0], data: b.data, done: b.done}
		}
		b.items = append(b.items, itemOf(it, a.rs))
		if one := &b.items[len(b.items)-1]; one.ahead() {
			b.size += one.Entry.Size
		}
		if b.full() {
			a.send(b)
			b = nil
		}
		return nil
	})
	if b != nil && a.err == nil {
		a.send(b)
	}
}

// send waits for nobody: there is room for all the batches that exist.
func (a *readAhead) send(b *batch) {
	a.order <- b
	a.jobs <- b
}

func (b *batch) full() bool {
	return len(b.items) == batchFiles || b.size > batchBytes-smallestBig
}

// write writes the items of a batch that is read.
func (b *batch) write(ctx context.Context, w writer) error {
	n, at := 0, int64(0)
	var content bytes.Reader
	for i := range b.items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		it := &b.items[i]
		if !it.ahead() {
			if err := it.add(w); err != nil {
				return err
			}
			continue
		}
		if n == b.good {
			return b.err
		}
		content.Reset(b.data[at:][:it.Entry.Size])
		if err := w.Add(it.Entry, &content); err != nil {
			return err
		}
		n, at = n+1, at+it.Entry.Size
	}
	return nil
}

// readAll reads batches until there are no more.
func (a *readAhead) readAll() {
	l := make(loaders, len(a.rs))
	defer l.close()
	for b := range a.jobs {
		b.read(l)
		b.done <- struct{}{}
	}
}

// loaders are what one goroutine reads the files of each request with.
type loaders []entry.Loader

func (l loaders) of(it *item) entry.Loader {
	if l[it.From] == nil {
		l[it.From] = entry.LoaderOf(it.from)
	}
	return l[it.From]
}

func (l loaders) close() {
	for _, one := range l {
		if one != nil {
			one.Close()
		}
	}
}

func (b *batch) read(l loaders) {
	b.data = slices.Grow(b.data[:0], int(b.size))
	for i := range b.items {
		it := &b.items[i]
		if !it.ahead() {
			continue
		}
		at := len(b.data)
		b.data = b.data[:at+int(it.Entry.Size)]
		if b.err = l.of(it).Load(it.Source, b.data[at:]); b.err != nil {
			return
		}
		b.good++
	}
}

// add writes an item whose content is not read ahead.
func (it *item) add(w writer) error {
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
func (it *item) addLinked(w writer) (err error) {
	l := lazy{item: *it}
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
