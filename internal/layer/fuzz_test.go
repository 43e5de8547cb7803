package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// Whatever the bytes: no panic, nothing outside of the folder, nothing left
// after an error, and a layer that was taken is whole and reads.
func FuzzImport(f *testing.F) {
	f.Add(makeTar(f, folder("a/"), regular("a/b"), hardlink("c", "a/b"), symlink("l", "a")))
	f.Add(makeTar(f, regular(".wh.a"), regular("b/.wh..wh..opq"), symlink("x", "../.."), regular("x/y")))
	long := regular("a")
	long.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y", "SCHILY.xattr.security.capability": "\x01\x00"}
	f.Add(makeTar(f, long, tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}))
	for _, alg := range []string{Gzip, Zstd} {
		var b bytes.Buffer
		if err := Compress(&b, bytes.NewReader(makeTar(f, regular("z"))), alg, 0); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(sparseTar())
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "layer")
		_, err := Import(context.Background(), dir, bytes.NewReader(b), nil)
		if beside, _ := os.ReadDir(top); len(beside) != 1 {
			t.Fatalf("files beside the layer: %v", beside)
		}
		if err != nil {
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Fatalf("%v left %v", err, left)
			}
			return
		}
		if err := Verify(dir); err != nil {
			t.Fatal(err)
		}
		checkImported(t, dir)
	})
}

// checkImported reads all of a layer that was taken, and makes it anew from
// what is read.
func checkImported(t *testing.T, dir string) {
	t.Helper()
	v := openTar(t, dir)
	again := filepath.Join(t.TempDir(), "again")
	b, err := Create(again)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(0)
	err = entry.Walk(v, ".", func(e entry.Entry) error {
		if e.Path != entry.Clean(e.Path) {
			t.Fatalf("path %q", e.Path)
		}
		if size += e.Size; size > 64<<20 {
			return io.EOF // a sparse file of the fuzzer's
		}
		r := io.ReadCloser(io.NopCloser(bytes.NewReader(nil)))
		if e.Kind == entry.File {
			if r, err = v.Open(e.Path); err != nil {
				return err
			}
		}
		return b.Add(e, r)
	})
	if err == io.EOF {
		b.Abort()
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	diff(t, "made anew", seconds(dump(t, openTar(t, again))), seconds(dump(t, v)))
}

// An index is written by us, but a disk may damage it: every reader gives an
// error or something, and does not panic or loop.
func FuzzDamagedIndex(f *testing.F) {
	dir, _ := build(f, append(sample(), manyFiles(60)...))
	good, err := os.ReadFile(filepath.Join(dir, IndexName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(superOffset+14), []byte{0xff, 0xff})
	f.Add(uint32(superOffset+superSize+slotSize+8), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint32(4096), bytes.Repeat([]byte{0x80}, 500))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(good)
		copy(b[int(at)%len(b):], patch)
		img, err := openImage(b)
		if err != nil {
			return
		}
		budget := 10000
		exercise(&img, img.root, ".", &budget)
	})
}

// exercise calls everything that reads an image, to a bounded depth: damage
// can make a directory its own child.
func exercise(m *image, nid uint32, p string, budget *int) {
	if *budget--; *budget < 0 || len(p) > 400 {
		return
	}
	e, err := m.entry(nid, p)
	if err != nil {
		return
	}
	if i, err := m.inode(nid); err == nil && e.Kind == entry.File && i.size < 1<<30 {
		m.pieces(i)
	}
	m.find(p + "/a")
	m.each(nid, func(name string, kid uint32) error {
		exercise(m, kid, entry.Join(p, name), budget)
		return nil
	})
}

// The order in which entries come, and how their content is cut into reads,
// changes nothing but the order in the tar.
func TestTarsAreDeterministic(t *testing.T) {
	_, first := build(t, sample())
	for range 3 {
		_, m := build(t, sample())
		if m != first {
			t.Fatalf("%+v, before %+v", m, first)
		}
	}
	dir := filepath.Join(t.TempDir(), "l")
	b, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range sample() {
		i.Size = int64(len(i.text))
		if err := b.Add(i.Entry, &oneByte{bytes.NewReader([]byte(i.text))}); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := b.Finish(); err != nil || m != first {
		t.Errorf("%+v (%v), want %+v", m, err, first)
	}
}

type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// The bytes of a tar are a promise: a change of these digests changes the
// identity of every image that people build again.
func TestTheTarFormatIsPinned(t *testing.T) {
	dir, m := build(t, sample())
	b, err := os.ReadFile(filepath.Join(dir, TarName))
	if err != nil {
		t.Fatal(err)
	}
	if got := sha256.Sum256(b); got != m.DiffID {
		t.Errorf("the tar's digest is %x, recorded as %s", got, m.DiffID)
	}
	const want = "sha256:7ab0ece28f436f6a3832d9f3e13ee0302ff88f835340ba2174cb66974d6d5549"
	if m.DiffID.String() != want {
		t.Errorf("diffID %s, want %s", m.DiffID, want)
	}
}
