package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func TestCommittingALayerTwiceKeepsTheFirst(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "first")
	commit(t, s, "layer", "again")
	if b, _ := os.ReadFile(s.LayerDir(id) + "/layer.tar"); string(b) != "first" {
		t.Errorf("the layer holds %q", b)
	}
	sound(t, s)
}

func TestCommitReplacesALayerThatIsNotWhole(t *testing.T) {
	s := open(t)
	for i := range 20 {
		id := commit(t, s, fmt.Sprint(i), "first")
		check(t, os.Truncate(s.LayerDir(id)+"/layer.tar", 1))
		if s.HasLayer(id) {
			t.Error("a cut layer counts as there")
		}
		commitAgain(t, s, id)
		if b, _ := os.ReadFile(s.LayerDir(id) + "/layer.tar"); string(b) != "again" {
			t.Errorf("the layer holds %q", b)
		}
	}
	_, _, err := s.Sweep()
	check(t, err)
	sound(t, s)
}

// commitAgain commits a layer from eight goroutines at once. Once one of them
// has it, nobody may take it away.
func commitAgain(t *testing.T, s *Store, id digest.Digest) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			tmp, err := s.Temp("test")
			if err == nil {
				err = os.WriteFile(tmp.Path+"/layer.tar", []byte("again"), 0o600)
			}
			if err == nil {
				err = s.CommitLayer(tmp, id)
			}
			if err != nil {
				t.Error(err)
			}
			if !s.HasLayer(id) {
				t.Error("a committed layer was taken away again")
			}
		})
	}
	wg.Wait()
}

func TestCommitOverADamagedLayerWaitsForWhoMendsIt(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "first")
	tar := s.LayerDir(id) + "/layer.tar"
	check(t, os.Truncate(tar, 1))
	l, err := s.lockPart(id, "")
	check(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		commit(t, s, "layer", "third")
	}()
	select {
	case <-done:
		t.Error("two mend one layer at once")
	case <-time.After(30 * time.Millisecond):
	}
	check(t, os.WriteFile(tar, []byte("2nd.."), 0o600))
	check(t, l.Close())
	<-done
	if b, _ := os.ReadFile(tar); string(b) != "2nd.." {
		t.Errorf("what was mended was replaced by %q", b)
	}
}

func TestTempIsGoneAfterRemoveAndCannotBeUsedTwice(t *testing.T) {
	s := open(t)
	tmp, err := s.Temp("test")
	check(t, err)
	if n, _, _ := s.Sweep(); n != 0 {
		t.Error("swept a folder whose owner lives")
	}
	check(t, tmp.Remove())
	check(t, tmp.Remove())
	if err := s.CommitLayer(tmp, named("x")); err == nil {
		t.Error("a removed folder became a layer")
	}
	for _, bad := range []string{"", "a/b", "..", "a\x00"} {
		if _, err := s.Temp(bad); err == nil {
			t.Errorf("prefix %q was accepted", bad)
		}
	}
	sound(t, s)
}

func TestAddToLayerFillsOnceAmong32(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content")
	var filled atomic.Int32
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			err := s.AddToLayer(id, "index", func(path string) error {
				filled.Add(1)
				return os.WriteFile(path, []byte("index"), 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if b, _ := os.ReadFile(s.LayerDir(id) + "/index"); string(b) != "index" {
				t.Errorf("the part holds %q", b)
			}
		})
	}
	wg.Wait()
	if n := filled.Load(); n != 1 {
		t.Errorf("filled %d times", n)
	}
	sound(t, s)
}

func TestAddToLayerThatFailsLeavesNothingAndMayBeRepeated(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content")
	broken := errors.New("broken")
	err := s.AddToLayer(id, "tree", func(path string) error {
		return errors.Join(os.MkdirAll(path+"/half", 0o700), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(s.LayerDir(id) + "/tree"); err == nil {
		t.Error("a half part is there")
	}
	check(t, s.AddToLayer(id, "tree", func(path string) error { return os.Mkdir(path, 0o700) }))
	if err := s.AddToLayer(id, "none", func(string) error { return nil }); err == nil {
		t.Error("fill made nothing, and that was accepted")
	}
	for _, bad := range []string{"", ".files", "a/b", "..", strings.Repeat("a", 300)} {
		if err := s.AddToLayer(id, bad, func(string) error { t.Error("filled"); return nil }); err == nil {
			t.Errorf("part %q was accepted", bad)
		}
	}
	if err := s.AddToLayer(named("nowhere"), "a", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no layer: %v", err)
	}
	sound(t, s)
}

// reboot returns a handle as a process has it after the machine went down.
func reboot(t *testing.T, s *Store) *Store {
	t.Helper()
	n := openIn(t, s.Dir())
	n.boot = func() string { return "the next boot" }
	return n
}

func TestPowerCutTakesOnlyWhatWasNotSynced(t *testing.T) {
	s := open(t)
	old := commit(t, s, "old", "durable")
	check(t, s.PutRecord(named("old key"), &Record{Layer: old}))
	check(t, s.Sync())
	id := commit(t, s, "new", "lost")
	check(t, s.PutRecord(named("new key"), &Record{Layer: id}))
	check(t, s.AddToLayer(old, "index", func(p string) error { return os.WriteFile(p, nil, 0o600) }))

	other := openIn(t, s.Dir())
	if _, err := other.Record(named("new key")); err != nil {
		t.Errorf("another process of the same boot: %v", err)
	}
	n := reboot(t, s)
	if _, err := n.Record(named("new key")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record of the last boot: %v", err)
	}
	if _, err := n.Record(named("old key")); err != nil {
		t.Errorf("a synced record: %v", err)
	}
	if _, err := os.Lstat(s.LayerDir(old) + "/index"); err == nil {
		t.Error("a part that may be damaged is still there")
	}
	// What was lost is made again, in the place of the old.
	commit(t, n, "new", "found")
	check(t, n.PutRecord(named("new key"), &Record{Layer: id}))
	if b, _ := os.ReadFile(s.LayerDir(id) + "/layer.tar"); string(b) != "found" {
		t.Errorf("the layer holds %q", b)
	}
	check(t, n.Sync())
	_, _, err := n.Sweep()
	check(t, err)
	third := reboot(t, n)
	third.boot = func() string { return "a third boot" }
	if _, err := third.Record(named("new key")); err != nil {
		t.Errorf("synced in the second boot: %v", err)
	}
	sound(t, third)
}

func TestSyncMakesWhatAKilledBuildLeftDurableOnceItIsUsed(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content") // and never synced by its maker
	user := openIn(t, s.Dir())
	if !user.HasLayer(id) {
		t.Fatal("not there in the same boot")
	}
	check(t, user.Sync())
	if !reboot(t, s).HasLayer(id) {
		t.Error("gone after the next boot, though a build that used it was synced")
	}
	if user.dirty || len(user.fresh) > 0 {
		t.Error("there is something left to sync")
	}
}

func TestSyncThatFailsLeavesTheMarksForTheNext(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content")
	dir := s.dir
	s.dir = "/nonexistent"
	if err := s.Sync(); err == nil {
		t.Error("a flush of a file system that is not there")
	}
	s.dir = dir
	if reboot(t, s).HasLayer(id) {
		t.Error("durable without a flush")
	}
	check(t, s.Sync())
	if !reboot(t, s).HasLayer(id) {
		t.Error("the next Sync did not make up for it")
	}
}

func TestSyncWithNothingWrittenDoesNothing(t *testing.T) {
	s := open(t)
	commit(t, s, "layer", "content")
	check(t, s.Sync())
	n := openIn(t, s.Dir())
	n.HasLayer(named("layer"))
	n.dir = "/nonexistent" // a flush would fail
	if err := n.Sync(); err != nil {
		t.Errorf("a handle that wrote nothing: %v", err)
	}
}

func TestAPartIsDroppedOnlyWhileItIsDamaged(t *testing.T) {
	s := open(t)
	id := commit(t, s, "layer", "content")
	part := s.LayerDir(id) + "/part"
	if err := s.DropPart(id, "part", func(string) bool { t.Error("asked of what is not there"); return true }); err != nil {
		t.Error(err)
	}
	if err := s.AddToLayer(id, "part", func(path string) error { return os.WriteFile(path, nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	if err := s.DropPart(id, "part", func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(part); err != nil {
		t.Errorf("a whole part: %v", err)
	}
	if err := s.DropPart(id, "part", func(path string) bool { return path == part }); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(part); err == nil {
		t.Error("a damaged part is there still")
	}
}
