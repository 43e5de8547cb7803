package source

import (
	"fmt"
	"runtime"
	"testing"
)

// What is left out takes no memory, and a folder with one file in it not that of many.
func TestAFolderTakesMemoryForWhatItHas(t *testing.T) {
	for _, c := range []struct {
		name     string
		folders  int
		files    int // in each
		patterns []string
		most     int // bytes a folder
	}{
		{"one by one, as all may show", 1000, 1, []string{"**", "!**/*.go"}, 1500},
		{"left out", 300, 60, []string{"**/*.log"}, 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{}
			for d := range c.folders {
				files[fmt.Sprintf("src/d%04d/main.go", d)] = "x"
				for f := range c.files - 1 {
					files[fmt.Sprintf("src/d%04d/something-%02d.log", d, f)] = ""
				}
			}
			dir := makeTree(t, t.TempDir(), files)
			files = nil
			heap := func() int {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return int(m.HeapAlloc)
			}
			before := heap()
			ctx := open(t, dir, Options{Ignore: c.patterns})
			scan(t, ctx, "src")
			took := (heap() - before) / c.folders
			t.Log(took, "bytes a folder")
			if ctx.Files() != c.folders {
				t.Errorf("%d files, want %d", ctx.Files(), c.folders)
			}
			if took > c.most {
				t.Errorf("%d bytes a folder, want no more than %d", took, c.most)
			}
		})
	}
}
