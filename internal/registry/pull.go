package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/whittle-build/whittle/internal/abreast"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/trace"
)

// Sink takes the layers of a pull. Both are called from several goroutines.
type Sink struct {
	// Have, if set, reports layers that need not come.
	Have func(diffID digest.Digest) bool
	// Layer stores layer i. r is the compressed blob; it reaches io.EOF only
	// when the blob is whole and right, so what was read to its end may be
	// kept. That the layer has its DiffID is Layer's to check.
	Layer func(ctx context.Context, i int, l Layer, r io.Reader) error
}

// Pull brings in the layers of r, several at once. A layer that the image has
// twice comes once.
func (c *Client) Pull(ctx context.Context, r *Remote, sink Sink) error {
	var todo []int
	seen := map[digest.Digest]bool{}
	for i, l := range r.Layers {
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		if sink.Have != nil && sink.Have(l.DiffID) {
			c.event(Event{Action: Have, Blob: l.Descriptor, Done: l.Size})
			continue
		}
		todo = append(todo, i)
	}
	return abreast.Each(ctx, todo, c.jobs(), func(ctx context.Context, i int) error {
		l := r.Layers[i]
		return c.fetch(ctx, r.Ref, l.Descriptor, "layer "+l.Digest.Short()+": ", func(in io.Reader) error { return sink.Layer(ctx, i, l, in) })
	})
}

// Fetch brings in one layer's blob from the repository of ref. take gets it as
// Sink.Layer does; where a mirror gives less than all of it, it gets another from the
// start.
func (c *Client) Fetch(ctx context.Context, ref Ref, d manifest.Descriptor, take func(io.Reader) error) error {
	return c.fetch(ctx, ref, d, "", take)
}

func (c *Client) fetch(ctx context.Context, ref Ref, d manifest.Descriptor, what string, take func(io.Reader) error) error {
	return c.pulling(ctx, ref, func(ctx context.Context, s *session, at Ref) error {
		err := s.fetch(ctx, d, at == ref, take)
		if err != nil && what != "" {
			err = fmt.Errorf("%s%w", what, err)
		}
		return explain(at, err, s.auth.way())
	})
}

// fetch brings in a blob. Bytes that are not what its digest says are asked for once more, if
// they came from where there is no other place to ask (last), or may be those that were kept.
func (s *session) fetch(ctx context.Context, d manifest.Descriptor, last bool, take func(io.Reader) error) error {
	span := trace.Begin(trace.Lane(ctx, "layer "+d.Digest.Short()), "pull and unpack")
	span.Set("bytes", d.Size)
	defer span.End()
	b := s.blob(ctx, d)
	err := b.give(take)
	if b.spoiled && (last || b.used) {
		s.c.event(Event{Action: Retrying, Blob: d, Err: err})
		err = s.blob(ctx, d).give(take)
	}
	if err != nil {
		return err
	}
	s.c.event(Event{Action: Pulled, Blob: d, Done: d.Size})
	return nil
}

// give hands the blob to take. When that fails, the rest is read too: what the bytes are
// decides whether they were wrong or it is take's own failure.
func (b *blobReader) give(take func(io.Reader) error) error {
	defer b.Close()
	v := b.d.Verify(b)
	err := take(v)
	var here syscall.Errno // of this machine's files: nothing that the bytes could be to blame for
	if err != nil && (b.ctx.Err() != nil || b.failed == nil && errors.As(err, &here)) {
		return err
	}
	wrong := v.Drain()
	if wrong == nil || b.failed != nil {
		return cmp.Or(err, wrong)
	}
	b.spoiled = true
	if b.used {
		return fmt.Errorf("what was kept of it here, or what registry %s sent, is not what its digest says: %w", b.s.ref.Domain, wrong)
	}
	return fmt.Errorf("what registry %s sent is not what its digest says: %w", b.s.ref.Domain, wrong)
}
