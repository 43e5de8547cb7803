package layer

import (
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// A table of a million files takes what memory there is: to write it is to make nearly none of it garbage.
func TestAnIndexIsWrittenWithLittleGarbage(t *testing.T) {
	const files = 2000
	tab := newTable()
	for i := range files {
		if _, err := tab.put(rootIno, strconv.Itoa(i), inode{kind: entry.File, size: 5, dev: 1, data: int64(i) * 512}); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := writeIndex(filepath.Join(t.TempDir(), IndexName), tab, []device{{size: files * 512}}, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if made := after.Mallocs - before.Mallocs; made > files/2 {
		t.Errorf("%d allocations for %d files", made, files)
	}
}
