package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestALockIsWaitedForUntilItIsGivenBack(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	held, other := open(t, name), open(t, name)
	if err := Wait(t.Context(), held, Exclusive, nil); err != nil {
		t.Fatal(err)
	}
	if locked, err := Try(other, Shared); locked || err != nil {
		t.Fatalf("a lock that is held exclusively: got it: %v, %v", locked, err)
	}
	told := 0
	if err := Wait(t.Context(), other, Exclusive, func() {
		told++
		if err := Unlock(held); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if told != 1 {
		t.Errorf("told %d times that it waits, want once", told)
	}
}

func TestSharedLocksAreHeldByMany(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	for range 3 {
		if locked, err := Try(open(t, name), Shared); !locked || err != nil {
			t.Fatal(locked, err)
		}
	}
	if locked, err := Try(open(t, name), Exclusive); locked || err != nil {
		t.Errorf("with readers: got it: %v, %v", locked, err)
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := Wait(t.Context(), open(t, name), Exclusive, nil); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := Wait(ctx, open(t, name), Exclusive, func() { cancel(enough) }); !errors.Is(err, enough) {
		t.Errorf("got %v, want the cause of the end", err)
	}
}

func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
