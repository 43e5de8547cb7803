package layer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// sources makes n files of 4 KB in folders of a hundred.
func sources(b *testing.B, n int) string {
	b.Helper()
	dir := b.TempDir()
	text := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for i := range n {
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("dir%04d", i/100)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		copy(text, fmt.Sprint(i))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("dir%04d/file%06d", i/100, i)), text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

const benchFiles = 10000

func buildFrom(b *testing.B, src string) (dir string) {
	b.Helper()
	dir = filepath.Join(b.TempDir(), "layer")
	if _, err := Seal(b.Context(), src, dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

func BenchmarkSeal(b *testing.B) {
	src := sources(b, benchFiles)
	for b.Loop() {
		os.RemoveAll(buildFrom(b, src))
	}
}

func BenchmarkBuilder(b *testing.B) {
	root, err := fsroot.Open(sources(b, benchFiles))
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	fsys := root.FS()
	var all []entry.Entry
	err = entry.Walk(fsys, ".", func(e entry.Entry) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "layer")
		bu, err := Create(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range all {
			if err := bu.Add(e, &lazyOpen{fsys: fsys, path: e.Path}); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := bu.Finish(); err != nil {
			b.Fatal(err)
		}
		os.RemoveAll(dir)
	}
}

func BenchmarkUnpack(b *testing.B) {
	dir := buildFrom(b, sources(b, benchFiles))
	n := 0
	for b.Loop() {
		n++
		to := filepath.Join(b.TempDir(), fmt.Sprint(n))
		if err := Unpack(b.Context(), dir, "", to, UnpackOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(to)
		b.StartTimer()
	}
}

func BenchmarkTreeBuilder(b *testing.B) {
	dir := buildFrom(b, sources(b, benchFiles))
	v, err := OpenTar(dir, "")
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	n := 0
	for b.Loop() {
		n++
		to := filepath.Join(b.TempDir(), fmt.Sprint(n), "tree")
		os.Mkdir(filepath.Dir(to), 0o700)
		tb, err := NewTree(to, UnpackOptions{})
		if err != nil {
			b.Fatal(err)
		}
		err = entry.Walk(v, ".", func(e entry.Entry) error {
			return tb.Add(e, &lazyOpen{fsys: v, path: e.Path})
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tb.Finish(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(to)
		b.StartTimer()
	}
}

func BenchmarkImportGzip(b *testing.B) {
	dir := buildFrom(b, sources(b, benchFiles))
	f, err := os.Open(filepath.Join(dir, TarName))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var z bytes.Buffer
	if err := Compress(&z, f, Gzip, 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		to := filepath.Join(b.TempDir(), "layer")
		m, err := Import(b.Context(), to, bytes.NewReader(z.Bytes()), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(m.TarSize)
		os.RemoveAll(to)
	}
}

func BenchmarkReindexAndWalk(b *testing.B) {
	dir := buildFrom(b, sources(b, benchFiles))
	b.Run("reindex", func(b *testing.B) {
		for b.Loop() {
			if err := Reindex(dir, nil, "index-x"); err != nil {
				b.Fatal(err)
			}
			os.Remove(filepath.Join(dir, "index-x"))
		}
	})
	b.Run("walk", func(b *testing.B) {
		for b.Loop() {
			v, err := OpenTar(dir, "")
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			err = entry.Walk(Merge(v), ".", func(entry.Entry) error { n++; return nil })
			if err != nil || n < benchFiles {
				b.Fatal(n, err)
			}
			v.Close()
		}
	})
}
