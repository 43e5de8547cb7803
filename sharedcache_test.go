package whittle

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// cacheRegistry is an empty registry, and the name of a cache in it.
func cacheRegistry(t *testing.T) image.Name {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	n, err := image.ParseName(strings.TrimPrefix(s.URL, "http://") + "/app/cache:main")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// oneRecord is a set with the record of one key.
func oneRecord(key string) *sharedcache.Set {
	s := sharedcache.New()
	tar := digest.Of([]byte("tar of " + key))
	l := sharedcache.Layer{ID: tar, DiffID: tar}
	s.Add(sharedcache.Record{Key: digest.Of([]byte(key)), Layer: l.ID, Created: time.Unix(1, 0)}, l)
	return s
}

func mustKnow(t *testing.T, n image.Name, keys ...string) *sharedcache.Set {
	t.Helper()
	set, err := readCache(t.Context(), &registry.Client{}, n, cacheTrust{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, _, ok := set.Record(digest.Of([]byte(k)), false); !ok {
			t.Errorf("the record of %s is lost", k)
		}
	}
	return set
}

func TestACacheThatIsNotThereYetIsNotFound(t *testing.T) {
	if _, err := readCache(t.Context(), &registry.Client{}, cacheRegistry(t), cacheTrust{}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// Of two writers the later may write a union that it made before the other had
// written. What that other one added is found all the same, and by the next
// writer put into the union.
func TestAWriterThatWritesAnOldUnionTakesNothingAway(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if err := addToCache(t.Context(), c, n, cacheTrust{}, oneRecord("first"), nil); err != nil {
		t.Fatal(err)
	}
	old := mustKnow(t, n, "first")
	if err := addToCache(t.Context(), c, n, cacheTrust{}, oneRecord("second"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := putSet(t.Context(), c, n, cacheTrust{}, n.Tag, old); err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first", "second")
	if err := addToCache(t.Context(), c, n, cacheTrust{}, oneRecord("third"), nil); err != nil {
		t.Fatal(err)
	}
	union, err := readSet(t.Context(), c, n, cacheTrust{}, n.Tag)
	if err != nil {
		t.Fatal(err)
	}
	if union.Len() != 3 {
		t.Errorf("the union has %d records, want all 3", union.Len())
	}
}

func TestAWriterThatDiesBeforeTheUnionHasAddedWhatItSent(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if _, err := putSet(t.Context(), c, n, cacheTrust{}, "", oneRecord("first")); err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first")
}

// What somebody has stored under a tag that looks like a part of the cache, or
// what is left of one, spoils nothing but itself.
func TestAPartThatIsNoneIsPassedOver(t *testing.T) {
	n, c := cacheRegistry(t), &registry.Client{}
	if err := addToCache(t.Context(), c, n, cacheTrust{}, oneRecord("first"), nil); err != nil {
		t.Fatal(err)
	}
	bad := reference(n)
	bad.Tag = sharedcache.SegmentTag(n.Tag, []byte("bad"))
	err := c.PutArtifact(t.Context(), bad, []byte("no document"), sharedcache.New().Manifest)
	if err != nil {
		t.Fatal(err)
	}
	mustKnow(t, n, "first")
	if err := addToCache(t.Context(), c, n, cacheTrust{}, oneRecord("second"), nil); err != nil {
		t.Error(err)
	}
	mustKnow(t, n, "first", "second")
}

func TestManyWritersAtOnceLoseNothing(t *testing.T) {
	n := cacheRegistry(t)
	var keys []string
	var wg sync.WaitGroup
	for i := range 16 {
		key := fmt.Sprint("step ", i)
		keys = append(keys, key)
		wg.Go(func() {
			if err := addToCache(t.Context(), &registry.Client{}, n, cacheTrust{}, oneRecord(key), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustKnow(t, n, keys...)
}

func TestACacheHasATagThatLeavesRoom(t *testing.T) {
	for ref, want := range map[string]string{
		"host:5000/cache": "", "cache": "", "host/cache:" + strings.Repeat("x", sharedcache.MaxTag): "",
		"host/cache:" + strings.Repeat("x", sharedcache.MaxTag+1): "more than",
		"host/cache@" + digest.Of(nil).String():                   "has a digest",
		"host/Cache":                                              "cache host/Cache",
	} {
		_, err := cacheName(ref)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
}
