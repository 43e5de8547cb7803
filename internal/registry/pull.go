package registry

import (
	"context"
	"fmt"
	"io"

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
	return c.pulling(ctx, ref, func(s *session, at Ref) error {
		err := s.fetch(ctx, d, take)
		if err != nil && what != "" {
			err = fmt.Errorf("%s%w", what, err)
		}
		return explain(at, err, s.auth.way())
	})
}

func (s *session) fetch(ctx context.Context, d manifest.Descriptor, take func(io.Reader) error) error {
	span := trace.Begin(trace.Lane(ctx, "layer "+d.Digest.Short()), "pull and unpack")
	span.Set("bytes", d.Size)
	defer span.End()
	b := s.blob(ctx, d)
	defer b.Close()
	v := d.Verify(b)
	if err := take(v); err != nil {
		return err
	}
	if err := v.Drain(); err != nil {
		return err
	}
	s.c.event(Event{Action: Pulled, Blob: d, Done: d.Size})
	return nil
}
