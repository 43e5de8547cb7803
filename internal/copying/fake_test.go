package copying

import (
	"io"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func readAll(t *testing.T, fsys entry.FS, p string) string {
	t.Helper()
	f, err := fsys.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
