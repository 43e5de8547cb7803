package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// install puts a cache with one file into the store of u.
func (u cacheUser) install(content string) bool {
	u.t.Helper()
	ok, err := u.s.InstallCache(NewCache{Name: digest.Of([]byte("a cache")), About: []byte("about"), Fill: func(dir string) ([]byte, error) {
		return []byte("note"), errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o600))
	}})
	if err != nil {
		u.t.Fatal(err)
	}
	return ok
}

func (u cacheUser) content(c *CacheMount) string {
	u.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Dir, "f"))
	if err != nil {
		u.t.Fatal(err)
	}
	return string(b)
}

func (u cacheUser) list() []CacheInfo {
	u.t.Helper()
	list, err := u.s.CacheMounts()
	if err != nil {
		u.t.Fatal(err)
	}
	return list
}

func TestWhatIsInstalledIsFoundFirstAndDisturbsNobody(t *testing.T) {
	u := cacheUser{t, open(t)}
	if !u.install("one") {
		t.Fatal("the first was not installed")
	}
	a := u.take(Shared, false)
	if got := u.content(a); got != "one" {
		t.Errorf("a step finds %q", got)
	}
	if u.install("two") {
		t.Error("one that a step has was replaced")
	}
	if got := u.content(a); got != "one" {
		t.Errorf("the step that had it has %q", got)
	}
	u.give(a)
	if !u.install("two") {
		t.Error("one that nobody has was not replaced")
	}
	b := u.take(Locked, false)
	if got := u.content(b); got != "two" {
		t.Errorf("then a step finds %q", got)
	}
	u.give(b)
	sound(t, u.s)
}

func TestTheListTellsWhatEachCacheIsAndWhetherItIsInUse(t *testing.T) {
	u := cacheUser{t, open(t)}
	before := time.Now().Add(-time.Second)
	a, b := u.take(Private, false), u.take(Private, false)
	u.give(b)
	list := u.list()
	if len(list) != 2 || list[0].Number != 0 || !list[0].InUse || list[1].Number != 1 || list[1].InUse || list[0].Retired {
		t.Fatalf("the list: %+v", list)
	}
	if list[0].Name != digest.Of([]byte("a cache")) || list[0].Used.Before(before) {
		t.Errorf("the list: %+v", list[0])
	}
	if again := u.list(); !again[0].InUse {
		t.Error("listing let go of the lock of a step")
	}
	c := u.take(Private, true)
	retired := 0
	for _, x := range u.list() {
		if x.Retired {
			retired++
		}
	}
	if retired != 2 {
		t.Errorf("%d of two that were replaced are told to be", retired)
	}
	u.give(a, c)
}

func TestANoteStaysWithItsCacheAndIsNoUse(t *testing.T) {
	u := cacheUser{t, open(t)}
	u.install("x")
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	name := digest.Of([]byte("a cache"))
	check(t, os.Chtimes(u.s.cachePath(name, 0), old, old))
	check(t, u.s.SetCacheNote(name, []byte("another")))
	c := u.list()[0]
	if !bytes.Equal(c.Note, []byte("another")) || !bytes.Equal(c.About, []byte("about")) || !c.Used.Equal(old) {
		t.Errorf("%+v", c)
	}
}

func TestHoldingWaitsForWhoHasItAloneAndSharesWithTheOthers(t *testing.T) {
	u := cacheUser{t, open(t)}
	name := digest.Of([]byte("a cache"))
	if _, err := u.s.HoldCache(t.Context(), name, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("without a cache: %v", err)
	}
	a := u.take(Locked, false)
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := u.s.HoldCache(ctx, name, func() { cancel(over) }); !errors.Is(err, over) {
		t.Errorf("while a step has it alone: %v", err)
	}
	u.give(a)
	b := u.take(Shared, false)
	held, err := u.s.HoldCache(t.Context(), name, nil)
	check(t, err)
	if !u.isBusy(Locked) {
		t.Error("a step has it alone while it is held")
	}
	u.give(b, held)
}

func TestPruningCachesTakesWhatIsWantedAndNotInUse(t *testing.T) {
	u := cacheUser{t, open(t)}
	use, err := u.s.Use(t.Context())
	check(t, err)
	a := u.take(Private, false)
	b := u.take(Private, false)
	u.give(b)
	removed, busy, err := u.s.PruneCaches(func(CacheInfo) bool { return true })
	if err != nil || len(removed) != 1 || removed[0].Number != 1 || busy != 1 {
		t.Errorf("removed %+v, %d busy, %v", removed, busy, err)
	}
	c := u.take(Private, true) // a is out of sight now, and in use
	u.give(c)
	if removed, busy, err = u.s.PruneCaches(func(c CacheInfo) bool { return c.Retired }); err != nil || len(removed) != 0 || busy != 1 {
		t.Errorf("of those out of sight, beside a build: %+v, %d busy, %v", removed, busy, err)
	}
	u.give(a)
	check(t, use.Close())
	if removed, _, err = u.s.PruneCaches(func(CacheInfo) bool { return true }); err != nil || len(removed) != 2 {
		t.Errorf("with nobody there: %+v, %v", removed, err)
	}
	if left := u.list(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// A list, an import and a pruning lock a cache for a moment. A step that comes
// then is not given another one.
func TestAMomentsLockSendsNoStepElsewhere(t *testing.T) {
	u := cacheUser{t, open(t)}
	u.install("x")
	lock, err := u.s.tryCache(cacheName(digest.Of([]byte("a cache")), 0), flock.Exclusive)
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		time.Sleep(maintenance / 5)
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	})
	c := u.take(Shared, false)
	wg.Wait()
	if len(u.list()) != 1 {
		t.Error("it has another one")
	}
	u.give(c)
}
