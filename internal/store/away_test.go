package store

import (
	"os"
	"sync"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// putAway commits a placeholder.
func putAway(t testing.TB, s *Store, name, where string) digest.Digest {
	t.Helper()
	tmp, err := s.Temp("away")
	check(t, err)
	check(t, os.WriteFile(tmp.Path+"/"+AwayName, []byte(where), 0o600))
	check(t, s.CommitLayer(tmp, named(name)))
	return named(name)
}

func TestAPlaceholderCountsAsTheLayer(t *testing.T) {
	s := open(t)
	id := putAway(t, s, "layer", "elsewhere")
	if !s.HasLayer(id) {
		t.Error("it is not there")
	}
	check(t, s.PutRecord(named("key"), &Record{Layer: id}))
	if _, err := s.Record(named("key")); err != nil {
		t.Error(err)
	}
	sound(t, s)
}

func TestTheLayerTakesThePlaceOfItsPlaceholderAndKeepsIt(t *testing.T) {
	s := open(t)
	id := putAway(t, s, "layer", "elsewhere")
	putAway(t, s, "layer", "somewhere else")
	if b, _ := os.ReadFile(s.LayerDir(id) + "/" + AwayName); string(b) != "somewhere else" {
		t.Errorf("of two placeholders %q stays, want the younger", b)
	}
	commit(t, s, "layer", "content")
	putAway(t, s, "layer", "elsewhere")
	if b, _ := os.ReadFile(s.LayerDir(id) + "/layer.tar"); string(b) != "content" {
		t.Errorf("the layer holds %q", b)
	}
	sound(t, s)
}

// While the layer comes, nobody may find nothing: a record would be dropped.
func TestALayerIsThereAtEachMomentOfItsComing(t *testing.T) {
	s := open(t)
	for range 50 {
		id := putAway(t, s, "layer", "elsewhere")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := s.NeedLayer(id); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		commit(t, s, "layer", "content")
		close(stop)
		wg.Wait()
		_, err := s.discard(s.LayerDir(id))
		check(t, err)
	}
}

func TestAnEmptyStoreSaysSo(t *testing.T) {
	s := open(t)
	if !s.HasNoLayers() {
		t.Error("a new store has layers")
	}
	commit(t, s, "layer", "content")
	if s.HasNoLayers() {
		t.Error("a store with a layer has none")
	}
}
