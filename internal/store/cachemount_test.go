package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// cacheUser takes cache mounts of one name.
type cacheUser struct {
	t *testing.T
	s *Store
}

// take takes one that is free, or that soon is.
func (u cacheUser) take(how Sharing, fresh bool) *CacheMount {
	u.t.Helper()
	c := u.try(how, fresh, 30*time.Second)
	if c == nil {
		u.t.Fatal("all are busy")
	}
	return c
}

// isBusy says whether it has to be waited for.
func (u cacheUser) isBusy(how Sharing) bool {
	u.t.Helper()
	c := u.try(how, false, 50*time.Millisecond)
	if c != nil {
		u.give(c)
	}
	return c == nil
}

func (u cacheUser) try(how Sharing, fresh bool, patience time.Duration) *CacheMount {
	u.t.Helper()
	ctx, cancel := context.WithTimeoutCause(u.t.Context(), patience, errBusy)
	defer cancel()
	name := digest.Of([]byte("a cache"))
	if fresh {
		if err := u.s.RetireCaches(name); err != nil {
			u.t.Fatal(err)
		}
	}
	c, err := u.s.CacheMount(ctx, CacheRequest{Name: name, Sharing: how, Fill: func(dir string) error {
		return os.Mkdir(dir, 0o755)
	}})
	if errors.Is(err, errBusy) {
		return nil
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return c
}

var errBusy = errors.New("busy")

func (u cacheUser) give(list ...*CacheMount) {
	u.t.Helper()
	for _, c := range list {
		if err := c.Close(); err != nil {
			u.t.Fatal(err)
		}
	}
}

func TestASharedCacheIsOneForAllWhoShareIt(t *testing.T) {
	u := cacheUser{t, open(t)}
	a, b := u.take(Shared, false), u.take(Shared, false)
	if a.Dir != b.Dir {
		t.Errorf("two who share have %s and %s", a.Dir, b.Dir)
	}
	if c := u.take(Private, false); c.Dir == a.Dir {
		t.Error("one who wants it alone got the shared one")
	} else {
		u.give(c)
	}
	u.give(u.take(Locked, false)) // the private one is free again
	u.give(a, b)
}

func TestAPrivateCacheIsAnotherOneWhileItIsInUse(t *testing.T) {
	u := cacheUser{t, open(t)}
	a, b := u.take(Private, false), u.take(Private, false)
	if a.Dir == b.Dir {
		t.Fatal("two have the same at once")
	}
	u.give(a, b)
	c := u.take(Private, false)
	if c.Dir != a.Dir {
		t.Errorf("later it is %s, want the first, %s", c.Dir, a.Dir)
	}
	u.give(c)
}

// A process that is being started has all descriptors until it executes its program.
func TestACacheIsFreeWhenItIsGivenBackWhoeverIsBeingStarted(t *testing.T) {
	u := cacheUser{t, open(t)}
	a := u.take(Private, false)
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{a.Lock()}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	dir := a.Dir
	u.give(a)
	if b := u.take(Shared, false); b.Dir != dir {
		t.Errorf("another cache, %s, and not %s", b.Dir, dir)
	}
}

func TestALockedCacheIsWaitedFor(t *testing.T) {
	u := cacheUser{t, open(t)}
	a := u.take(Locked, false)
	if !u.isBusy(Locked) {
		t.Fatal("the second has it while the first has it")
	}
	waits := make(chan struct{})
	var wg sync.WaitGroup
	var b *CacheMount
	wg.Go(func() {
		var err error
		b, err = u.s.CacheMount(t.Context(), CacheRequest{Name: digest.Of([]byte("a cache")), Sharing: Locked,
			Fill: func(string) error { return errors.New("made anew") }, Waiting: func() { close(waits) }})
		if err != nil {
			t.Error(err)
		}
	})
	<-waits
	u.give(a)
	wg.Wait()
	if b == nil || b.Dir != a.Dir {
		t.Fatalf("who waited has %v, want %s", b, a.Dir)
	}
	u.give(b)
}

func TestAFreshCacheReplacesTheOneOfBefore(t *testing.T) {
	u := cacheUser{t, open(t)}
	old := u.take(Shared, false)
	if err := os.WriteFile(filepath.Join(old.Dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := os.Open(old.Dir) // as a step has it mounted
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	a := u.take(Shared, true)
	u.give(old, a)
	b := u.take(Shared, false)
	for _, c := range []*CacheMount{a, b} {
		if names, err := readNames(c.Dir); err != nil || len(names) != 0 {
			t.Errorf("it has %v, %v; want nothing", names, err)
		}
	}
	if names, err := kept.Readdirnames(-1); err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("who used the old one sees %v, %v", names, err)
	}
	u.give(b)
}

func TestACacheThatCannotBeFilledIsNotThere(t *testing.T) {
	s := open(t)
	broken := errors.New("broken")
	r := CacheRequest{Name: digest.Of([]byte("x")), Fill: func(dir string) error {
		return errors.Join(os.Mkdir(dir, 0o755), broken)
	}}
	if _, err := s.CacheMount(t.Context(), r); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	names, err := s.Folders("cache")
	if err != nil || len(names) != 0 {
		t.Errorf("folders %v, %v", names, err)
	}
}

func TestPruneCanTakeCacheMountsAndNothingElse(t *testing.T) {
	u := cacheUser{t, open(t)}
	u.give(u.take(Shared, false))
	if err := u.s.PutCacheFile("content", "x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	freed, err := u.s.Prune(t.Context(), PruneOptions{All: true, CacheMounts: true})
	if err != nil || freed.Caches != 1 {
		t.Fatalf("freed %+v, %v; want one cache", freed, err)
	}
	if names, _ := u.s.Folders("cache"); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
	if _, err := os.Stat(u.s.CacheFile("content", "x")); err != nil {
		t.Error(err)
	}
}
