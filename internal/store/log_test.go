package store

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
)

func TestALogIsFoundByTheBeginningOfItsIDAndGoesOnUntilItIsClosed(t *testing.T) {
	s := open(t)
	id, f, err := s.NewLog()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("said\n"); err != nil {
		t.Fatal(err)
	}
	found, r, going, err := s.FindLog(id[:6])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if found != id || !going() {
		t.Errorf("found %s, which goes on: %t; want %s", found, going(), id)
	}
	if freed, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || freed.Caches != 0 {
		t.Errorf("pruning took a log that is written: %+v, %v", freed, err)
	}
	f.Close()
	if going() {
		t.Error("it goes on although it is closed")
	}
	if problems, err := s.Fsck(t.Context(), FsckOptions{}); err != nil || len(problems) > 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
	if freed, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || freed.Caches != 1 {
		t.Errorf("pruning all: %+v, %v", freed, err)
	}
	for _, ref := range []string{id, "", "none"} {
		if _, _, _, err := s.FindLog(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("log %q: %v", ref, err)
		}
	}
}

func TestOldLogsGo(t *testing.T) {
	s := open(t)
	var ids []string
	for i := range 6 {
		id, f, err := s.NewLog()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, "%0100d", i)
		when := time.Unix(1700000000+int64(i), 0)
		if err := os.Chtimes(f.Name(), when, when); err != nil {
			t.Fatal(err)
		}
		if i != 1 { // that one is being written
			f.Close()
		} else {
			defer f.Close()
		}
		ids = append(ids, id)
	}
	s.trimLogs(4, 1<<20)
	want := func(list ...int) {
		t.Helper()
		for i, id := range ids {
			there := false
			for _, n := range list {
				there = there || n == i
			}
			if _, f, _, err := s.FindLog(id); (err == nil) != there {
				t.Errorf("log %d: %v, want it there: %t", i, err, there)
			} else if err == nil {
				f.Close()
			}
		}
	}
	want(1, 2, 3, 4, 5)
	s.trimLogs(4, 250)
	want(1, 4, 5)
	s.trimLogs(4, 1)
	want(1, 5) // the newest stays, however large
}
