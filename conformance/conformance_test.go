package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A bench is everything that builds: the peer, and whittle with each of its
// providers.
type bench struct {
	peer     *builder
	whittles map[string]*builder
	layers   *layerCache
	accepted *differences
	began    time.Time
}

// providers are whittle's; the first one's images are compared with the peer's,
// the others' with the first's.
var providers = []string{"erofs", "tree"}

func newBench(t *testing.T, bases ...string) *bench {
	t.Helper()
	// On a disk: EROFS cannot be mounted from files on a tmpfs.
	dir, err := os.MkdirTemp(os.Getenv("TMPDIR"), "conformance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &bench{layers: &layerCache{known: map[string][]entry{}}, whittles: map[string]*builder{}}
	if b.accepted, err = readDifferences("differences.txt"); err != nil {
		t.Fatal(err)
	}
	b.peer = startPeer(t, dir)
	program := buildWhittle(t, dir)
	var all []*builder
	for _, p := range providers {
		b.whittles[p] = whittle(t, program, dir, p)
		all = append(all, b.whittles[p])
	}
	if err := loadBases(dir, b.peer, all, bases); err != nil {
		t.Fatal(err)
	}
	b.began = time.Now()
	return b
}

// TestCases builds testdata/cases with both and compares what is left.
func TestCases(t *testing.T) {
	archives, err := filepath.Glob("testdata/cases/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	b := newBench(t, "busybox:latest", "alpine:latest", "alpine:3.12", "debian:latest")
	all := t.Run("case", func(t *testing.T) {
		for _, archive := range archives {
			t.Run(strings.TrimSuffix(filepath.Base(archive), ".txtar"), func(t *testing.T) {
				t.Parallel()
				c, err := readCase(archive, t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				b.check(t, c)
			})
		}
	})
	if all && wholeRun() {
		b.accepted.unmet(t, "")
	}
}

// wholeRun says whether all tests run: only then is a line that nothing met a
// line too many.
func wholeRun() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.run=") || a == "-test.run" {
			return false
		}
	}
	return true
}

// check builds a case with everything and compares.
func (b *bench) check(t *testing.T, c *testCase) {
	file := c.peer
	if file == "" {
		file = c.file
	}
	peer, peerErr := b.make(b.peer, t, c, file)
	if peerErr != nil && (c.fails == "" || !strings.Contains(peerErr.Error(), c.fails)) {
		t.Fatalf("the peer fails: %v", peerErr)
	}
	var first *image
	for _, provider := range providers {
		got, err := b.make(b.whittles[provider], t, c, c.file)
		switch {
		case peerErr != nil && err != nil:
			if !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: both fail, and whittle does not say %q: %v", provider, c.fails, err)
			}
			continue
		case peerErr != nil || err != nil:
			if !b.accepted.accepts(c.name, "result") {
				t.Fatalf("%s: result\n\t   peer: %v\n\twhittle: %v", provider, said(peerErr), said(err))
			}
			continue
		}
		if first == nil {
			first = got
			b.expect(t, c.name, peer, got)
			continue
		}
		diffs, err := compare(first, got, b.began)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range diffs {
			if !b.accepted.accepts(c.name, "providers: "+d.what) {
				t.Errorf("providers differ: %s\n\t%s: %s\n\t%s: %s", d.what, providers[0], d.peer, provider, d.got)
			}
		}
	}
	if peerErr == nil && c.fails != "" {
		t.Errorf("the peer builds what should fail with %q", c.fails)
	}
}

func said(err error) string {
	if err == nil {
		return "builds it"
	}
	return err.Error()
}

// make builds a case, and what must be built before it.
func (b *bench) make(w *builder, t *testing.T, c *testCase, file string) (*image, error) {
	name := "conformance-" + c.name
	if c.first {
		if err := w.build(name+"-first", filepath.Join(c.context, "first.Dockerfile"), c.context); err != nil {
			return nil, err
		}
	}
	if err := w.build(name, file, c.context, c.args...); err != nil {
		return nil, err
	}
	return w.image(b.layers, name, t.TempDir())
}

// expect reports every difference that no line accepts.
func (b *bench) expect(t *testing.T, name string, peer, got *image) {
	t.Helper()
	diffs, err := compare(peer, got, b.began)
	if err != nil {
		t.Fatal(err)
	}
	const most = 40
	shown := 0
	for _, d := range diffs {
		if b.accepted.accepts(name, d.what) {
			continue
		}
		if shown++; shown <= most {
			t.Error(d)
		}
	}
	if shown > most {
		t.Errorf("… and %d more", shown-most)
	}
}
