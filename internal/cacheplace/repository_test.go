package cacheplace

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// cacheRegistry is an empty registry, and the name of a cache in it.
func cacheRegistry(t *testing.T) registry.Ref {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return registry.Ref{Domain: strings.TrimPrefix(s.URL, "http://"), Path: "app/cache", Tag: "main"}
}

// oneRecord is a set with the record of one key.
func oneRecord(key string) *sharedcache.Set {
	s := sharedcache.New()
	tar := digest.Of([]byte("tar of " + key))
	l := sharedcache.Layer{ID: tar, DiffID: tar}
	s.Add(sharedcache.Record{Key: digest.Of([]byte(key)), Layer: l.ID, Created: time.Unix(1, 0)}, l)
	return s
}

func mustKnow(t *testing.T, n registry.Ref, keys ...string) *sharedcache.Set {
	t.Helper()
	return knows(t, Repository(&registry.Client{}, n), keys...)
}

// Of two writers the later may write a union that it made before the other had
// written. What that other one added is found all the same, and by the next
// writer put into the union.
func TestAWriterThatWritesAnOldUnionTakesNothingAway(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if err := Repository(c, n).Add(t.Context(), Trust{}, oneRecord("first"), nil); err != nil {
		t.Fatal(err)
	}
	old := mustKnow(t, n, "first")
	if err := Repository(c, n).Add(t.Context(), Trust{}, oneRecord("second"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := (&repository{c, n}).put(t.Context(), Trust{}, n.Tag, n.Tag, old); err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first", "second")
	if err := Repository(c, n).Add(t.Context(), Trust{}, oneRecord("third"), nil); err != nil {
		t.Fatal(err)
	}
	union, err := (&repository{c, n}).readSet(t.Context(), Trust{}, n.Tag)
	if err != nil {
		t.Fatal(err)
	}
	if union.Len() != 3 {
		t.Errorf("the union has %d records, want all 3", union.Len())
	}
}

func TestAWriterThatDiesBeforeTheUnionHasAddedWhatItSent(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if _, err := (&repository{c, n}).put(t.Context(), Trust{}, n.Tag, "", oneRecord("first")); err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first")
}

// What somebody has stored under a tag that looks like a part of the cache, or
// what is left of one, spoils nothing but itself.
func TestAPartThatIsNoneIsPassedOver(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if err := Repository(c, n).Add(t.Context(), Trust{}, oneRecord("first"), nil); err != nil {
		t.Fatal(err)
	}
	bad := n
	bad.Tag = sharedcache.SegmentTag(n.Tag, []byte("bad"))
	err := c.PutArtifact(t.Context(), bad, []byte("no document"), sharedcache.New().Manifest)
	if err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first")
	if err := Repository(c, n).Add(t.Context(), Trust{}, oneRecord("second"), nil); err != nil {
		t.Error(err)
	}
	mustKnow(t, n, "first", "second")
}
