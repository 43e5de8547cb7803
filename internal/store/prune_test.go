package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func keepNothing(digest.Digest) bool { return false }

// aged makes a recorded layer of a size that was last used some hours ago.
func aged(t *testing.T, s *Store, name string, size int, hours int) digest.Digest {
	t.Helper()
	id := commit(t, s, name, strings.Repeat("x", size))
	check(t, s.PutRecord(named(name+" key"), &Record{Layer: id}))
	at := time.Now().Add(-time.Duration(hours) * time.Hour)
	for _, path := range []string{s.LayerDir(id), s.sharded(recordDir, named(name+" key"))} {
		check(t, os.Chtimes(path, at, at))
	}
	return id
}

func TestPruneTakesWhatItsOptionsSay(t *testing.T) {
	const mb = 1 << 20
	tests := map[string]struct {
		o    PruneOptions
		want string // what is left of: old, mid, new (recorded, by age), image (kept), orphan
	}{
		"only rubbish":              {PruneOptions{}, "old mid new image"},
		"nothing without a Keep":    {PruneOptions{Keep: nil}, "old mid new image"},
		"what was not used":         {PruneOptions{Unused: 48 * time.Hour}, "mid new image"},
		"counted from another time": {PruneOptions{Unused: 48 * time.Hour, Now: time.Now().Add(100 * time.Hour)}, "image"},
		"down to a size":            {PruneOptions{MaxBytes: 3*mb + mb/2}, "new image mid"},
		"down to a smaller size":    {PruneOptions{MaxBytes: 2*mb + mb/2}, "new image"},
		"a size that kept exceed":   {PruneOptions{MaxBytes: 1}, "image"},
		"all":                       {PruneOptions{All: true}, "image"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			for i, n := range []string{"old", "mid", "new"} {
				aged(t, s, n, mb, 72-24*i-1)
			}
			image := commit(t, s, "image", strings.Repeat("x", mb))
			commit(t, s, "orphan", "x")
			tt.o.Keep = func(d digest.Digest) bool { return d == image }
			if name == "nothing without a Keep" {
				tt.o.Keep = nil
				tt.want += " orphan"
			}
			freed, err := s.Prune(t.Context(), tt.o)
			check(t, err)
			for _, n := range []string{"old", "mid", "new", "image", "orphan"} {
				if got, want := s.HasLayer(named(n)), strings.Contains(tt.want, n); got != want {
					t.Errorf("%s: there %v, want %v", n, got, want)
				}
			}
			if left := len(strings.Fields(tt.want)); freed.Layers != 5-left || freed.Busy {
				t.Errorf("%+v, want %d layers left", freed, left)
			}
			if freed.Layers > 1 && freed.Bytes < mb {
				t.Errorf("freed %d bytes with %d layers", freed.Bytes, freed.Layers)
			}
			sound(t, s)
		})
	}
}

func TestPruneRemovesWhatDeadOwnersLeft(t *testing.T) {
	s := open(t)
	check(t, os.MkdirAll(s.path(tmpDir, "dead-1", "a", "b"), 0o700))
	check(t, os.WriteFile(s.path(tmpDir, "dead-2"), make([]byte, 1<<16), 0o600))
	check(t, os.Symlink("/", s.path(tmpDir, "dead-3")))
	check(t, os.MkdirAll(s.path(lockDir, lockKeys), 0o700))
	check(t, os.WriteFile(s.path(lockDir, lockKeys, "key-dead"), nil, 0o600))
	alive, err := s.Temp("alive")
	check(t, err)
	held, err := s.LockKey(t.Context(), named("key"), nil)
	check(t, err)
	freed, err := s.Prune(t.Context(), PruneOptions{})
	check(t, err)
	if freed.Temps != 3 || freed.Bytes < 1<<16 {
		t.Errorf("%+v, want 3 temporary things and their bytes", freed)
	}
	if _, err := os.Stat(alive.Path); err != nil {
		t.Errorf("a living owner's folder: %v", err)
	}
	if names, _ := readNames(s.path(lockDir, lockKeys)); len(names) != 1 {
		t.Errorf("lock files: %v", names)
	}
	check(t, held.Close())
	check(t, alive.Remove())
	sound(t, s)
}

func TestPruneTakesBlobsCachesAndRecordsWithoutALayer(t *testing.T) {
	s := open(t)
	kept, err := s.PutBlobBytes([]byte("kept"))
	check(t, err)
	_, err = s.PutBlobBytes([]byte("not"))
	check(t, err)
	check(t, s.PutCacheFile("stat", "/context", []byte("x")))
	check(t, s.PutRecord(named("key"), &Record{}))
	for _, kind := range []string{"cache", "container"} {
		dir, err := s.Folder(kind, "a")
		check(t, err)
		check(t, os.WriteFile(dir+"/file", make([]byte, 4096), 0o600))
	}
	usage, err := s.Usage(t.Context(), keepNothing, func(d digest.Digest) bool { return d == kept })
	check(t, err)
	got := ""
	for _, u := range usage {
		got += fmt.Sprintf("%s %d %v %v, ", u.Kind, u.Count, u.Bytes >= 4096, u.Reclaimable > 0)
	}
	if want := "images 0 false false, cache 3 true true, blobs 2 true true, containers 1 true false, tmp 0 false false, "; got != want {
		t.Errorf("usage\n got %s\nwant %s", got, want)
	}
	freed, err := s.Prune(t.Context(), PruneOptions{All: true, KeepBlob: func(d digest.Digest) bool { return d == kept }})
	check(t, err)
	if freed.Blobs != 1 || freed.Caches != 2 || freed.Records != 1 {
		t.Errorf("%+v", freed)
	}
	if names, _ := s.Folders("container"); len(names) != 1 {
		t.Error("a container was pruned")
	}
	sound(t, s)
}

func TestMeasureCountsSharedFilesOnceAndIsRemembered(t *testing.T) {
	s := open(t)
	a, b := commit(t, s, "a", strings.Repeat("x", 1<<20)), named("b")
	tmp, err := s.Temp("test")
	check(t, err)
	check(t, os.Link(s.LayerDir(a)+"/layer.tar", tmp.Path+"/layer.tar"))
	check(t, s.CommitLayer(tmp, b))
	usage, err := s.Usage(t.Context(), nil, nil)
	check(t, err)
	if got := usage[0].Bytes; got < 1<<20 || got > 1<<20+1<<16 {
		t.Errorf("two layers that share 1 MiB take %d bytes", got)
	}
	if _, err := os.Stat(s.LayerDir(a) + "/" + sizeName); err != nil {
		t.Error(err)
	}
	check(t, s.AddToLayer(a, "more", func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) }))
	usage, err = s.Usage(t.Context(), nil, nil)
	check(t, err)
	if got := usage[0].Bytes; got < 2<<20 {
		t.Errorf("with another MiB: %d bytes", got)
	}
}

// While one goroutine prunes all it can, others do what builds do. What a
// build was told is there must be there until it ends.
func TestPruneBesideBuildsTakesNothingFromThem(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			b := openIn(t, s.Dir())
			for ctx.Err() == nil {
				buildOnce(t, b, rnd)
			}
		})
	}
	pruned := 0
	for ctx.Err() == nil {
		freed, err := s.Prune(t.Context(), PruneOptions{All: true, Keep: keepNothing, KeepBlob: keepNothing})
		if err != nil {
			t.Error(err)
			break
		}
		pruned += freed.Layers
	}
	wg.Wait()
	if pruned == 0 {
		t.Error("nothing was pruned, so nothing was tested")
	}
	_, err := s.Prune(t.Context(), PruneOptions{})
	check(t, err)
	sound(t, s)
}

// Prunings, sweeps and those who only look work beside each other: what goes
// under one's hands is nobody's error, and does not come back.
func TestPruningsSweepsAndLooksBesideEachOther(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	jobs := map[string]func(*Store) error{
		"prune": func(s *Store) error {
			_, err := s.Prune(t.Context(), PruneOptions{All: true, Keep: keepNothing, KeepBlob: keepNothing})
			return err
		},
		"sweep": func(s *Store) error { _, _, err := s.Sweep(); return err },
		"usage": func(s *Store) error { _, err := s.Usage(t.Context(), keepNothing, keepNothing); return err },
		"fill": func(s *Store) error {
			tmp, err := s.Temp("build")
			if err != nil {
				return err
			}
			for i := range 20 {
				if err := os.MkdirAll(fmt.Sprintf("%s/a/%d/b", tmp.Path, i), 0o755); err != nil {
					return err
				}
			}
			return s.CommitLayer(tmp, named(fmt.Sprint(rand.IntN(20))))
		},
	}
	var wg sync.WaitGroup
	for name, job := range jobs {
		for range 2 {
			wg.Go(func() {
				own := openIn(t, s.Dir())
				for ctx.Err() == nil {
					if err := job(own); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	check(t, s.eachLayer(func(_ digest.Digest, dir string) error {
		if _, err := os.Stat(dir + "/" + filesName); err != nil {
			t.Errorf("half a layer: %v", err)
		}
		return nil
	}))
}

func buildOnce(t *testing.T, s *Store, rnd *rand.Rand) {
	use, err := s.Use(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	defer use.Close()
	var told []digest.Digest
	for range 5 {
		name := fmt.Sprint(rnd.IntN(8))
		key := named(name + " key")
		if r, err := s.Record(key); err == nil {
			told = append(told, r.Layer)
			continue
		}
		tmp, err := s.Temp("build")
		if err != nil {
			t.Error(err)
			return
		}
		if err := s.CommitLayer(tmp, named(name)); err != nil {
			t.Error(err)
		}
		if err := s.PutRecord(key, &Record{Layer: named(name)}); err != nil {
			t.Errorf("of a layer just made: %v", err)
		}
		told = append(told, named(name))
	}
	for _, id := range told {
		if _, err := os.Stat(s.LayerDir(id)); err != nil {
			t.Errorf("a layer that this build was told of: %v", err)
		}
	}
}

// A build can make an image of a layer and end while pruning is under way.
func TestPruneAsksAgainBeforeALayerGoes(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"), Options{Owner: Owner{Kind: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	id := digest.Of([]byte("imported"))
	tmp, err := s.Temp("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tmp.Path, "tar"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitLayer(tmp, id); err != nil {
		t.Fatal(err)
	}
	imaged := false
	keep := func(digest.Digest) bool { return imaged }
	o := PruneOptions{
		Keep:    func(digest.Digest) bool { return false }, // asked before the image was stored
		Recheck: func() (func(digest.Digest) bool, error) { return keep, nil },
	}
	imaged = true
	if freed, err := s.Prune(t.Context(), o); err != nil || freed.Layers != 0 || !s.HasLayer(id) {
		t.Errorf("freed %+v, %v; the layer of an image is gone", freed, err)
	}
	imaged = false
	if freed, err := s.Prune(t.Context(), o); err != nil || freed.Layers != 1 || s.HasLayer(id) {
		t.Errorf("freed %+v, %v; want the layer gone", freed, err)
	}
	broken := errors.New("cannot list images")
	o.Recheck = func() (func(digest.Digest) bool, error) { return nil, broken }
	if err := recommit(t, s, id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context(), o); !errors.Is(err, broken) || !s.HasLayer(id) {
		t.Errorf("error %v", err)
	}
}

func recommit(t *testing.T, s *Store, id digest.Digest) error {
	t.Helper()
	tmp, err := s.Temp("test")
	if err != nil {
		return err
	}
	return s.CommitLayer(tmp, id)
}
