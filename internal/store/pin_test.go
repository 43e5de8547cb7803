package store

import (
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

func TestWhatIsPinnedIsSeenByOtherProcessesUntilTheUseEnds(t *testing.T) {
	dir := t.TempDir() + "/store"
	mine, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.Of([]byte("image"))
	want := func(when string, want bool) {
		t.Helper()
		err := other.Unpinned(func(pinned func(digest.Digest) bool) error {
			if pinned(d) != want {
				t.Errorf("%s: pinned is %t, want %t", when, !want, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := mine.Pin(d); err != nil {
		t.Fatal(err)
	}
	want("without a use", false)
	use, err := mine.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := mine.Pin(d); err != nil {
		t.Fatal(err)
	}
	want("in use", true)
	if err := use.Close(); err != nil {
		t.Fatal(err)
	}
	want("after the use", false)
}
