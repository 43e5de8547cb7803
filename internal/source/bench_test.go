package source

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// bigTree makes 50 000 files of 4 KB in 500 directories.
func bigTree(b *testing.B) string {
	dir := b.TempDir()
	data := make([]byte, 4096)
	for d := range 500 {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d/e%02d", d/20, d%20))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 100 {
			copy(data, fmt.Sprint(d, f))
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%03d.txt", f)), data, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	return dir
}

// BenchmarkScan is the part of a build that looks at a context of 50 000
// files: first with an empty stat cache, then with a full one.
func BenchmarkScan(b *testing.B) {
	dir := bigTree(b)
	cache := filepath.Join(b.TempDir(), "cache")
	later := func() time.Time { return time.Now().Add(time.Hour) }
	scan := func(b *testing.B, o Options) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := OpenFolder(dir, o)
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Scan(b.Context(), []Part{{Path: "."}}); err != nil {
				b.Fatal(err)
			}
			if c.Files() != 50000 {
				b.Fatalf("%d files", c.Files())
			}
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("cold", func(b *testing.B) { scan(b, Options{Now: later}) })
	b.Run("nothing-changed", func(b *testing.B) { scan(b, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: later}) })
	b.Run("memory", func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			c := open(b, dir, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: later})
			if err := c.Scan(b.Context(), []Part{{Path: "."}}); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/50000, "B/file")
			c.Close()
		}
	})
	b.Run("nothing-changed-ignore", func(b *testing.B) {
		scan(b, Options{CacheFile: cache, PutCache: replaceFile(cache), Now: later, Ignore: []string{"**/*.o", "*.log", ".git", "node_modules/**", "!a/b"}})
	})
}
