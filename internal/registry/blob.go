package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

const (
	// enough is how many bytes make a broken transfer count as one that got on:
	// its tries begin anew.
	enough = 4 << 20
	// tick is how often progress is told.
	tick = 100 * time.Millisecond
)

// blobReader reads one blob, and goes on where it was when the connection
// breaks. What it gives is not yet checked: Verify does that, over all
// connections together.
type blobReader struct {
	s   *session
	ctx context.Context
	d   manifest.Descriptor

	body   io.ReadCloser
	off    int64 // bytes given
	tries  int   // connections that broke since enough came
	refill int64 // offset at which tries begin anew
	next   time.Time

	kept    Kept  // nil is none
	have    int64 // bytes of it from before
	used    bool  // some of them were given
	spoiled bool  // all of it came, and is not what it should be

	whole  bool  // this registry gives no ranges
	failed error // why Read ended, if that is not the blob's end
}

func (s *session) blob(ctx context.Context, d manifest.Descriptor) *blobReader {
	b := &blobReader{s: s, ctx: ctx, d: d}
	if s.c.Keep != nil && d.Size >= worthKeeping {
		if b.kept = s.c.Keep(d); b.kept != nil {
			b.have = min(b.kept.Size(), d.Size)
		}
	}
	return b
}

// before gives what came before this transfer.
func (b *blobReader) before(p []byte) (int, error) {
	n, err := b.kept.ReadAt(p[:min(int64(len(p)), b.have-b.off)], b.off)
	if b.off += int64(n); n == 0 {
		b.have = b.off // the rest comes anew
	}
	b.used = b.used || n > 0
	b.tell(Pulling)
	if n > 0 || err == io.EOF {
		err = nil
	}
	return n, err
}

// keep notes what came, at the place where it goes. What cannot be noted is not.
func (b *blobReader) keep(p []byte) {
	if b.kept == nil || len(p) == 0 {
		return
	}
	if _, err := b.kept.WriteAt(p, b.off-int64(len(p))); err != nil {
		b.kept.Close(true)
		b.kept = nil
	}
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	n, err := b.read(p)
	if err != nil && err != io.EOF {
		b.failed = err
	}
	return n, err
}

func (b *blobReader) read(p []byte) (int, error) {
	for {
		if b.off < b.have && b.kept != nil {
			if n, err := b.before(p); n > 0 && err == nil {
				return n, nil
			}
		}
		if b.body == nil && b.off > 0 && b.off >= b.d.Size {
			return 0, io.EOF
		}
		if b.body == nil {
			if err := b.connect(); err != nil {
				return 0, err
			}
		}
		n, err := b.body.Read(p)
		b.off += int64(n)
		b.keep(p[:n])
		b.tell(Pulling)
		if err == nil || n > 0 {
			return n, nil // an error comes again with the next Read
		}
		if err == io.EOF && b.off >= b.d.Size {
			return 0, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err := b.broken(err); err != nil {
			return 0, err
		}
	}
}

// broken drops the connection and decides whether another is worth it.
func (b *blobReader) broken(err error) error {
	b.drop()
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if b.off >= b.refill {
		b.tries, b.refill = 0, b.off+enough
	}
	if b.tries++; b.tries >= maxTries {
		return fmt.Errorf("blob %s: broke off at byte %d of %d, %d times: %w", b.d.Digest.Short(), b.off, b.d.Size, b.tries, err)
	}
	b.s.c.event(Event{Action: Retrying, Blob: b.d, Done: b.off, Err: err})
	return b.s.tries().Pause(b.ctx, b.tries, askedWait(err))
}

// connect asks for what is still missing.
func (b *blobReader) connect() error {
	return b.s.retry(b.ctx, func() (err error) {
		b.body, err = b.get(b.ctx)
		return err
	})
}

// get asks for the rest of the blob, and where that is refused for all of it.
func (b *blobReader) get(ctx context.Context) (io.ReadCloser, error) {
	body, err := b.ask(ctx)
	if b.off > 0 && !b.whole && isRangeRefused(err) {
		b.whole = true
		return b.ask(ctx)
	}
	return body, err
}

func (b *blobReader) ask(ctx context.Context) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.s.url("blobs/"+b.d.Digest.String()), nil)
	if err != nil {
		return nil, err
	}
	want := []int{http.StatusOK}
	if b.off > 0 && !b.whole {
		// With its end, because some registries do not know open ranges.
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.off, b.d.Size-1))
		want = append(want, http.StatusPartialContent)
	}
	resp, err := b.s.do(req, want...)
	if isMissing(err) && isForeign(b.d.MediaType) {
		return nil, fatalf("the registry does not keep this layer (%s): only the urls in the image's manifest give it, and those are not asked", b.d.MediaType)
	}
	if err != nil {
		return nil, lacking(err)
	}
	if err := b.place(resp); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}

// errOtherRange is an answer with other bytes than those that were asked for.
var errOtherRange = errors.New("other bytes than those that were asked for")

// isRangeRefused says whether a registry may have a blob of which it does not give a part.
func isRangeRefused(err error) bool {
	var status *transport.Error
	return errors.Is(err, errOtherRange) || errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// lacking tells a blob that is not there from an image that is not.
func lacking(err error) error {
	if !isMissing(err) {
		return err
	}
	return fatalf("the image is incomplete: the registry has its manifest but not this blob")
}

func isMissing(err error) bool {
	var status *transport.Error
	return errors.As(err, &status) && status.StatusCode == http.StatusNotFound
}

// isForeign says whether a layer is of those that their makers let nobody else give.
func isForeign(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// place makes sure that the answer's body goes on at b.off.
func (b *blobReader) place(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		if from := fmt.Sprintf("bytes %d-", b.off); !strings.HasPrefix(resp.Header.Get("Content-Range"), from) {
			return errOtherRange
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.d.Size {
		return fatalf("blob %s: the registry has %d bytes of it, its descriptor says %d", b.d.Digest.Short(), resp.ContentLength, b.d.Size)
	}
	// A server without ranges begins again.
	_, err := io.CopyN(io.Discard, resp.Body, b.off)
	return err
}

// tell reports progress, at most once in a tick.
func (b *blobReader) tell(a Action) {
	if now := time.Now(); now.After(b.next) {
		b.next = now.Add(tick)
		b.s.c.event(Event{Action: a, Blob: b.d, Done: b.off})
	}
}

func (b *blobReader) drop() {
	if b.body == nil {
		return
	}
	// What the connection has to say at its end is of no interest any more.
	_ = b.body.Close()
	b.body = nil
}

// Close implements io.Closer. Of a blob that came as a whole nothing is kept: it is right by
// now, or wrong, and then it has to come anew.
func (b *blobReader) Close() error {
	b.drop()
	if b.kept != nil {
		b.kept.Close(b.off >= b.d.Size || b.spoiled)
		b.kept = nil
	}
	return nil
}
