package layer

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// The tar of this layer is a hole of some GiB, so the test costs no disk.
func TestFilesOfManyGiBAreFoundInTheTar(t *testing.T) {
	const start, size, after = 1536, 9<<30 + 5, 12 << 30
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, TarName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	marks := map[string]int64{"begins": start, "middle": start + 5<<30, "ends": start + size - 4, "small": after}
	for text, at := range marks {
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Skipf("needs a file system with large files: %v", err)
		}
	}
	if err := f.Truncate(after + 512); err != nil {
		t.Fatal(err)
	}
	tab := newTable()
	for name, ino := range map[string]inode{
		"big": {kind: entry.File, size: size, dev: 1, data: start}, "small": {kind: entry.File, size: 5, dev: 1, data: after},
	} {
		if _, err := tab.put(rootIno, name, ino); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeIndex(filepath.Join(dir, IndexName), tab, []device{{size: after + 512}}, nil); err != nil {
		t.Fatal(err)
	}
	check := func(what string, fsys entry.FS) {
		t.Helper()
		r, err := fsys.Open("big")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for text, at := range marks {
			b := make([]byte, 4)
			if at == after {
				continue
			}
			if _, err := r.(io.ReaderAt).ReadAt(b, at-start); err != nil || string(b) != text[:4] {
				t.Errorf("%s: at %d is %q (%v), want %q", what, at, b, err, text[:4])
			}
		}
		if e, err := fsys.Lstat("big"); err != nil || e.Size != size {
			t.Errorf("%s: size %d (%v)", what, e.Size, err)
		}
		if got := read(t, fsys, "small"); got != `"small"` {
			t.Errorf("%s: small is %s", what, got)
		}
	}
	check("view", openTar(t, dir))
	if os.Geteuid() == 0 && !inUserNamespace() {
		check("kernel", openTree(t, mountTar(t, dir, "")))
	}
}

func TestOneIndexOfSeveralLayersKeepsLinksAndSparseFiles(t *testing.T) {
	needErofs(t)
	a, _ := importBytes(t, sparseTar())
	b, _ := build(t, sample())
	c, _ := build(t, []item{goneAt("bin/big"), {entry.Entry{Path: "new", Kind: entry.File, Inode: 7}, "n"}, {entry.Entry{Path: "new2", Kind: entry.File, Inode: 7}, "n"}})
	out := filepath.Join(t.TempDir(), "merged")
	parts := []Part{{Dir: a}, {Dir: b, Index: IndexName}, {Dir: c, Index: filepath.Join(c, IndexName)}}
	if err := MergeIndexes(out, parts); err != nil {
		t.Fatal(err)
	}
	options := []string{"source=" + out}
	for _, p := range parts {
		options = append(options, "device="+filepath.Join(p.Dir, TarName))
	}
	mnt := mount(t, "erofs", append(options, "ro")...)
	got := dump(t, openTree(t, mnt))
	diff(t, "one index", got, dump(t, Merge(openTar(t, a), openTar(t, b), openTar(t, c))))
	if n := bytes.Count([]byte(got), []byte("same as")); n != 2 {
		t.Errorf("%d hard links, want 2", n)
	}
}

// A table with many entries stays within the memory that is promised.
func TestMemoryOfALargeLayer(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	const n = 200000
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			tab := newTable()
			for i := range n {
				p := "dir" + string(rune('a'+i%20)) + "/" + string(rune('a'+i/20%20)) + "/some-file-name-" + itoa(i)
				dir, base, err := tab.parent(p, true)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := tab.put(dir, base, inode{kind: entry.File, size: 4096, dev: 1}); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	t.Logf("%d bytes allocated an entry, in all", res.AllocedBytesPerOp()/n)
	// Twice what is live at the end: maps grow by copying.
	if per := res.AllocedBytesPerOp() / n; per > 500 {
		t.Errorf("%d bytes an entry", per)
	}
}

func itoa(i int) string {
	b := make([]byte, 0, 8)
	for ; i > 0; i /= 10 {
		b = append(b, byte('0'+i%10))
	}
	return string(b)
}
