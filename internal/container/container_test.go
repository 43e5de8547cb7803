package container

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox"
)

func TestNameIsFreeAgainAfterRemoval(t *testing.T) {
	s, c := aSet(t)
	again := Container{Name: "box", Spec: Spec{Args: []string{"true"}}}
	if _, err := s.Create(again); err == nil || !strings.Contains(err.Error(), `container name "box" is taken by container `+c.ID[:12]) {
		t.Fatalf("two of one name: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("the refused one left something: %v, %v", list, err)
	}
	if err := s.Remove(t.Context(), c, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(again); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), c, false); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	if _, err := s.Find("box"); err != nil {
		t.Errorf("removing the old one took the new one's name: %v", err)
	}
}

func TestFindTakesNamesAndBeginningsOfIDs(t *testing.T) {
	s, c := aSet(t)
	for _, ref := range []string{"box", c.ID, c.ID[:12], c.ID[:1]} {
		if got, err := s.Find(ref); err != nil || got.ID != c.ID {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"", "none", "../box", c.ID + "0", "zz"} {
		if got, err := s.Find(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, %v", ref, got, err)
		}
	}
	for range 20 { // of 21 IDs two begin with the same of 16 digits
		if _, err := s.Create(Container{Spec: Spec{Args: []string{"true"}}}); err != nil {
			t.Fatal(err)
		}
	}
	ambiguous := false
	for _, digit := range "0123456789abcdef" {
		if _, err := s.Find(string(digit)); err != nil && strings.Contains(err.Error(), "containers begin so") {
			ambiguous = true
		}
	}
	if !ambiguous {
		t.Error("21 containers, and no digit is ambiguous")
	}
}

func TestLockOfTheRunIsSeenAndNotDisturbed(t *testing.T) {
	s, c := aSet(t)
	dir, err := s.folder(c)
	if err != nil {
		t.Fatal(err)
	}
	if locked(dir) {
		t.Fatal("a new container is locked")
	}
	lock, ok, err := takeRun(dir)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if !locked(dir) {
		t.Error("a running container is not locked")
	}
	if _, ok, err := takeRun(dir); ok || err != nil {
		t.Errorf("taken twice: %v, %v", ok, err)
	}
	if got, err := s.Find("box"); err != nil || !got.Running {
		t.Errorf("found as %+v, %v", got, err)
	}
	if err := s.Remove(t.Context(), c, false); err == nil || !strings.Contains(err.Error(), "container box is running") {
		t.Errorf("removing a running one: %v", err)
	}
	lock.Close()
	if locked(dir) {
		t.Error("locked after its end")
	}
}

func TestAskingForTheLockNeverKeepsOthersFromTakingIt(t *testing.T) {
	s, c := aSet(t)
	dir, err := s.folder(c)
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				locked(dir)
			}
		}
	}()
	for range 2000 {
		lock, ok, err := takeRun(dir)
		if err != nil || !ok {
			t.Fatal("not taken", err)
		}
		lock.Close()
	}
	close(stop)
	<-done
}

func TestChangesWaitForEachOther(t *testing.T) {
	s, c := aSet(t)
	first, err := s.change(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.change(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second change: %v", err)
	}
	first.Close()
	second, err := s.change(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
	if err := s.Remove(t.Context(), c, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.change(t.Context(), c); !errors.Is(err, ErrNotFound) {
		t.Errorf("a change of what is gone: %v", err)
	}
}

func TestRemoveLeavesNoFolder(t *testing.T) {
	s, c := aSet(t)
	dir, err := s.folder(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), c, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("listing made the folder again: %v", err)
	}
}

func TestContainersThatWereToGoAreSweptUp(t *testing.T) {
	s, _ := aSet(t)
	dead := Container{Name: "dead", Spec: Spec{Args: []string{"true"}, Remove: true}}
	c, err := s.Create(dead)
	if err != nil {
		t.Fatal(err)
	}
	c.Started = s.Now() // and its monitor was killed
	if err := s.put(c); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(Container{Name: "next", Spec: Spec{Args: []string{"true"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("dead"); !errors.Is(err, ErrNotFound) {
		t.Errorf("found: %v", err)
	}
	if _, err := s.Find("box"); err != nil {
		t.Error(err)
	}
}

func TestOfManyWhoWantANameAtOnceOneGetsIt(t *testing.T) {
	s, _ := aSet(t)
	for round := range 20 {
		var got [8]*Container
		var errs [8]error
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				got[i], errs[i] = s.Create(Container{Name: "same", Spec: Spec{Args: []string{"true"}}})
			})
		}
		wg.Wait()
		var won []*Container
		for i, c := range got {
			switch {
			case errs[i] == nil:
				won = append(won, c)
			case !errors.Is(errs[i], fs.ErrExist):
				t.Errorf("round %d: %v", round, errs[i])
			}
		}
		list, err := s.List()
		if len(won) != 1 || err != nil || len(list) != 2 {
			t.Fatalf("round %d: %d have the name; there are %d containers, %v", round, len(won), len(list), err)
		}
		if c, err := s.Find("same"); err != nil || c.ID != won[0].ID {
			t.Errorf("round %d: the name leads to %v, %v", round, c, err)
		}
		if err := s.Remove(t.Context(), won[0], false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCreateDoesNotWaitForWhomSomebodyIsBusyWith(t *testing.T) {
	s, _ := aSet(t)
	c, err := s.Create(Container{Name: "dead", Spec: Spec{Args: []string{"true"}, Remove: true}})
	if err != nil {
		t.Fatal(err)
	}
	c.Started = s.Now() // and its monitor was killed
	if err := s.put(c); err != nil {
		t.Fatal(err)
	}
	busy, err := s.change(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Create(Container{Name: "next", Spec: Spec{Args: []string{"true"}}})
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
		busy.Close()
	case <-time.After(5 * time.Second):
		t.Error("it waits")
		busy.Close()
		<-done
	}
	if _, err := s.Find("dead"); err != nil {
		t.Errorf("the one that somebody is busy with: %v", err)
	}
}

func TestTooManyOpenFilesAreNoFaultOfTheCommand(t *testing.T) {
	for cause, want := range map[error]int{unix.EMFILE: 125, unix.ENFILE: 125, unix.EACCES: 126, unix.ENOENT: 127} {
		if got := StartCode(&sandbox.StartError{Op: "exec", Path: "true", Err: cause}); got != want {
			t.Errorf("%v: code %d, want %d", cause, got, want)
		}
	}
}
