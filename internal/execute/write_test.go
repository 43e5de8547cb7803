package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/source"
)

// written is a writer that remembers.
type written struct {
	got   []string
	fail  string // path at which it fails
	after func(path string)
}

var errFull = errors.New("no room")

func (w *written) Add(e entry.Entry, content io.Reader) error {
	if e.Path == w.fail {
		return errFull
	}
	text := ""
	if e.Kind == entry.File && e.Size > 0 {
		b := make([]byte, e.Size)
		if _, err := io.ReadFull(content, b); err != nil {
			return err
		}
		text = string(b[:min(len(b), 20)])
	}
	w.got = append(w.got, e.Path+"="+text)
	if w.after != nil {
		w.after(e.Path)
	}
	return nil
}

func (w *written) Finish() (layer.Meta, error) { return layer.Meta{}, nil }
func (w *written) Abort()                      {}

// sourceFS counts what is open and fails where it is told to.
type sourceFS struct {
	entry.FS
	mu      sync.Mutex
	slow    map[string]chan struct{} // opens wait for these
	bad     map[string]error
	content func(path string) io.Reader // nil: "text of PATH"
	open    atomic.Int32
	opened  atomic.Int32
	most    int32
}

type sourceFile struct {
	io.Reader
	fs *sourceFS
}

func (f sourceFile) Close() error { f.fs.open.Add(-1); return nil }

func (s *sourceFS) Open(path string) (io.ReadCloser, error) {
	if ch := s.slow[path]; ch != nil {
		<-ch
	}
	if err := s.bad[path]; err != nil {
		return nil, err
	}
	s.opened.Add(1)
	n := s.open.Add(1)
	s.mu.Lock()
	s.most = max(s.most, n)
	s.mu.Unlock()
	if s.content != nil {
		return sourceFile{s.content(path), s}, nil
	}
	return sourceFile{strings.NewReader("text of " + path), s}, nil
}

func manyItems(n int) (items []copying.Item, want []string) {
	for i := range n {
		p := fmt.Sprintf("f%06d", i)
		it := copying.Item{Entry: entry.Entry{Path: p, Size: int64(len("text of " + p))}, Source: p}
		text := "text of " + p
		switch i % 7 {
		case 3:
			it = copying.Item{Entry: entry.Entry{Path: p, Kind: entry.Dir}, Source: p}
			text = ""
		case 5:
			it = copying.Item{Entry: entry.Entry{Path: p, Size: 0}}
			text = ""
		}
		items = append(items, it)
		want = append(want, p+"="+text[:min(len(text), 20)])
	}
	return items, want
}

func TestWhatIsReadAheadIsWrittenInOrder(t *testing.T) {
	items, want := manyItems(2000)
	first := make(chan struct{})
	s := &sourceFS{slow: map[string]chan struct{}{items[0].Source: first}}
	w := &written{}
	go func() {
		// Others are read while the first is slow, but no more than the window.
		for s.opened.Load() < readers-1 {
			runtime.Gosched()
		}
		close(first)
	}()
	if err := addAll(t.Context(), w, copying.Listed(items), []copying.Request{{From: s}}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.got, want) {
		t.Error("written in another order, or with other content")
	}
	if s.open.Load() != 0 || s.most > readers {
		t.Errorf("%d files are open, %d were at once", s.open.Load(), s.most)
	}
}

func TestReadingAheadStopsAtItsWindow(t *testing.T) {
	items, _ := manyItems(3000)
	s := &sourceFS{}
	var ahead int32
	w := &written{after: func(path string) {
		if path == "f000000" {
			time.Sleep(50 * time.Millisecond) // as far as it will go
			ahead = s.opened.Load()
		}
	}}
	if err := addAll(t.Context(), w, copying.Listed(items), []copying.Request{{From: s}}); err != nil {
		t.Fatal(err)
	}
	if ahead > batches*batchFiles {
		t.Errorf("%d files were read ahead", ahead)
	}
}

func TestAnErrorInTheMiddleEndsTheWriting(t *testing.T) {
	broken := errors.New("broken disk")
	for name, c := range map[string]struct {
		fs   *sourceFS
		w    *written
		want string
	}{
		"of a file that is opened": {&sourceFS{bad: map[string]error{"f000501": broken}}, &written{}, "broken disk"},
		"of the writer":            {&sourceFS{}, &written{fail: "f000501"}, "no room"},
		"of a file that ends early": {&sourceFS{content: func(p string) io.Reader {
			if p == "f000501" {
				return strings.NewReader("short")
			}
			return strings.NewReader("text of " + p)
		}}, &written{}, "became shorter"},
	} {
		t.Run(name, func(t *testing.T) {
			// A bubble ends only when the last goroutine in it has: one that stays
			// behind blocked makes it panic.
			synctest.Test(t, func(t *testing.T) {
				items, want := manyItems(1000)
				err := addAll(t.Context(), c.w, copying.Listed(items), []copying.Request{{From: c.fs}})
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v", err)
				}
				if !slices.Equal(c.w.got, want[:501]) {
					t.Errorf("%d entries were written, want 501", len(c.w.got))
				}
				if n := c.fs.open.Load(); n != 0 {
					t.Errorf("%d files are open", n)
				}
			})
		})
	}
}

func TestWritingEndsWithItsContext(t *testing.T) {
	items, _ := manyItems(1000)
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	w := &written{after: func(path string) {
		if path == "f000300" {
			cancel(why)
		}
	}}
	err := addAll(ctx, w, copying.Listed(items), []copying.Request{{From: &sourceFS{}}})
	if !errors.Is(err, why) || len(w.got) != 301 {
		t.Errorf("error %v after %d entries", err, len(w.got))
	}
}

func TestALargeFileIsStreamed(t *testing.T) {
	size := int64(smallestBig * 4)
	items := []copying.Item{
		{Entry: entry.Entry{Path: "a", Size: size}, Source: "a"},
		{Entry: entry.Entry{Path: "b", Size: 3}, Source: "b"},
	}
	s := &sourceFS{content: func(p string) io.Reader {
		if p == "a" {
			return io.LimitReader(endless{}, size)
		}
		return strings.NewReader("bbb")
	}}
	w := &written{}
	if err := addAll(t.Context(), w, copying.Listed(items), []copying.Request{{From: s}}); err != nil {
		t.Fatal(err)
	}
	if len(w.got) != 2 || w.got[1] != "b=bbb" {
		t.Errorf("wrote %q", w.got)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// linkWriter reads the content of the first of hard links only, as layers do.
type linkWriter struct{ written }

func (w *linkWriter) Add(e entry.Entry, content io.Reader) error {
	if e.Inode != 0 && len(w.got) > 0 {
		w.got = append(w.got, e.Path+" is a link")
		return nil
	}
	return w.written.Add(e, content)
}

func TestHardLinksAreReadOnce(t *testing.T) {
	var items []copying.Item
	for i := range 100 {
		items = append(items, copying.Item{Entry: entry.Entry{Path: fmt.Sprint(i), Size: 4, Inode: 1}, Source: "x"})
	}
	s := &sourceFS{content: func(string) io.Reader { return strings.NewReader("text") }}
	w := &linkWriter{}
	if err := addAll(t.Context(), w, copying.Listed(items), []copying.Request{{From: s}}); err != nil {
		t.Fatal(err)
	}
	if s.opened.Load() != 1 || s.open.Load() != 0 || len(w.got) != 100 {
		t.Errorf("opened %d times, %d open, %d written", s.opened.Load(), s.open.Load(), len(w.got))
	}
}

// changing is a build context whose files change while they are read.
type changing struct {
	entry.FS
	name string
}

func (c changing) Open(string) (io.ReadCloser, error) { return os.Open(c.name) }

func (c changing) Verify(path string, f *os.File) error {
	return fmt.Errorf("%s: %w", path, source.ErrChanged)
}

// Loader makes one that has its files verified, as that of a context does.
func (c changing) Loader() entry.Loader { return verifying{c} }

type verifying struct{ changing }

func (v verifying) Load(path string, _ []byte) error { return v.Verify(path, nil) }
func (verifying) Close()                             {}

func TestWhatWasReadIsComparedWithWhatIsInTheKey(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 2*smallestBig), 0o600); err != nil {
		t.Fatal(err)
	}
	rs := []copying.Request{{From: until{t.Context(), changing{name: name}}}}
	for what, e := range map[string]entry.Entry{
		"a small file": {Path: "x", Size: 5}, "a large file": {Path: "x", Size: 2 * smallestBig}, "a hard link": {Path: "x", Size: 5, Inode: 1},
	} {
		err := addAll(t.Context(), &written{}, copying.Listed([]copying.Item{{Entry: e, Source: "x"}}), rs)
		if !errors.Is(err, source.ErrChanged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
