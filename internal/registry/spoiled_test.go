package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// shelf keeps parts of blobs, as the store does.
type shelf struct {
	mu    sync.Mutex
	parts map[string][]byte
}

type part struct {
	*shelf
	name string
	size int64
}

func (s *shelf) keep(d manifest.Descriptor) Kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &part{s, d.Digest.String(), int64(len(s.parts[d.Digest.String()]))}
}

func (p *part) Size() int64 { return p.size }

func (p *part) ReadAt(b []byte, off int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.NewReader(p.parts[p.name]).ReadAt(b, off)
}

func (p *part) WriteAt(b []byte, off int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.parts[p.name]
	p.parts[p.name] = append(old[:min(off, int64(len(old)))], b...)
	return len(b), nil
}

func (p *part) Close(over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if over {
		delete(p.parts, p.name)
	}
}

func TestAKeptPartOfNoUseMakesNoPullFail(t *testing.T) {
	p := paint(t, "amd64", worthKeeping+1000)
	good := p.layers[0]
	spoiled := bytes.Clone(good[:1_000_000])
	spoiled[500] ^= 1
	refuse := func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }
	for name, tt := range map[string]struct {
		kept   []byte
		ranged func(http.ResponseWriter) // what is answered to a request for a part
	}{
		"ranges are refused":             {good[:1_000_000], refuse},
		"another part":                   {good[:1_000_000], func(w http.ResponseWriter) { other(w, "bytes 5-9/10") }},
		"a part that is not said":        {good[:1_000_000], func(w http.ResponseWriter) { other(w, "") }},
		"it is spoiled":                  {spoiled, nil},
		"it is spoiled, and refused":     {spoiled, refuse},
		"all of it is there, and wrong":  {make([]byte, len(good)), nil},
		"more than all of it, and wrong": {make([]byte, len(good)+5), nil},
	} {
		for how, take := range map[string]func(io.Reader) ([]byte, error){"as it is": io.ReadAll, "unpacked": picky(good)} {
			t.Run(name+", "+how, func(t *testing.T) {
				f, ref := pushed(t, p)
				f.inject(func(w http.ResponseWriter, r *http.Request) bool {
					if !isLayer(r, p) || r.Header.Get("Range") == "" {
						return false
					}
					if tt.ranged == nil {
						ranged(w, r, good, len(good))
					} else {
						tt.ranged(w)
					}
					return true
				})
				s := &shelf{parts: map[string][]byte{describe(good).Digest.String(): bytes.Clone(tt.kept)}}
				c := client()
				c.Keep = s.keep
				var got []byte
				err := c.Fetch(t.Context(), ref, describe(good), func(r io.Reader) (err error) {
					got, err = take(r)
					return err
				})
				if err != nil || !bytes.Equal(got, good) {
					t.Errorf("%d bytes of %d, %v", len(got), len(good), err)
				}
				if len(s.parts) > 0 {
					t.Error("a part is still kept")
				}
			})
		}
	}
}

// other answers with a part that was not asked for.
func other(w http.ResponseWriter, what string) {
	w.Header().Set("Content-Range", what)
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write([]byte("other"))
}

// picky reads good only, and stops at the first block that is another, as an archive's reader does.
func picky(good []byte) func(io.Reader) ([]byte, error) {
	return func(r io.Reader) ([]byte, error) {
		var got []byte
		for b := make([]byte, 32<<10); ; {
			n, err := r.Read(b)
			if !bytes.HasPrefix(good[len(got):], b[:n]) {
				return nil, errors.New("archive/tar: invalid tar header")
			}
			got = append(got, b[:n]...)
			if err == io.EOF {
				return got, nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
}

func TestSpoiledBytesAreTheRegistrysFaultAndAskedForOnceMore(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	good := p.layers[0]
	bad := bytes.Clone(good)
	bad[10] ^= 1
	for name, tt := range map[string]struct {
		times int32
		err   string
		asked int32
	}{
		"once":     {1, "", 2},
		"for good": {1 << 30, "sent is not what its digest says: blob " + describe(good).Digest.String(), 2},
	} {
		t.Run(name, func(t *testing.T) {
			f, ref := pushed(t, p)
			var asked atomic.Int32
			f.inject(func(w http.ResponseWriter, r *http.Request) bool {
				if !isLayer(r, p) {
					return false
				}
				if asked.Add(1) > tt.times {
					return false
				}
				_, _ = w.Write(bad)
				return true
			})
			var got []byte
			err := client().Fetch(t.Context(), ref, describe(good), func(r io.Reader) (err error) {
				got, err = picky(good)(r)
				return err
			})
			switch {
			case tt.err == "" && (err != nil || !bytes.Equal(got, good)):
				t.Errorf("%d bytes, %v", len(got), err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "what registry "+f.host())):
				t.Errorf("%v, want %q", err, tt.err)
			}
			if n := asked.Load(); n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

func TestAMirrorThatSpoilsIsAskedOnce(t *testing.T) {
	p := paint(t, "amd64", 300_000)
	_, ref := pushed(t, p)
	mirror := serve(t)
	if _, err := client().Push(t.Context(), p.upload(mirror.ref(ref.Path, ref.Tag))); err != nil {
		t.Fatal(err)
	}
	mirror.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if isLayer(r, p) {
			_, _ = w.Write(make([]byte, 300_000))
		}
		return isLayer(r, p)
	})
	c := client()
	c.Hosts = Hosts{ref.Domain: {Mirrors: []Mirror{{Domain: mirror.host()}}}}
	var got []byte
	err := c.Fetch(t.Context(), ref, describe(p.layers[0]), func(r io.Reader) (err error) {
		got, err = picky(p.layers[0])(r)
		return err
	})
	if n := mirror.count("GET /v2/team/app/blobs/"); err != nil || !bytes.Equal(got, p.layers[0]) || n != 1 {
		t.Errorf("%d bytes, %v, the mirror was asked %d times", len(got), err, n)
	}
}

func TestTheFaultOfAConsumerIsItsOwn(t *testing.T) {
	p := paint(t, "amd64", 9_000_000)
	for name, tt := range map[string]struct {
		err  error
		most int64 // bytes that are read after it
	}{
		"what it says":         {errors.New("not for me"), 9_000_000},
		"a disk that is full":  {fmt.Errorf("store: %w", syscall.ENOSPC), 0},
		"a quota that is full": {fmt.Errorf("store: %w", syscall.EDQUOT), 0},
	} {
		f, ref := pushed(t, p)
		f.inject(nil)
		c := client()
		var seen atomic.Int64
		c.Keep = func(manifest.Descriptor) Kept { return &counting{n: &seen} }
		calls := 0
		err := c.Fetch(t.Context(), ref, describe(p.layers[0]), func(io.Reader) error { calls++; return tt.err })
		if !errors.Is(err, tt.err) || calls != 1 || seen.Load() != tt.most || f.count("GET /v2/team/app/blobs/") > 1 {
			t.Errorf("%s: %v after %d calls and %d bytes, want %v after one and %d", name, err, calls, seen.Load(), tt.err, tt.most)
		}
	}
}

// counting keeps nothing but the number of bytes that came.
type counting struct{ n *atomic.Int64 }

func (c *counting) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (c *counting) Size() int64                       { return 0 }
func (c *counting) Close(bool)                        {}

func (c *counting) WriteAt(p []byte, _ int64) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
