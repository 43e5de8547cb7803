package image

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

func catalog(t *testing.T) (*Catalog, *memory) {
	t.Helper()
	m := newMemory()
	return NewCatalog(m, func() time.Time { return moment.Add(time.Hour) }), m
}

func put(t *testing.T, c *Catalog, img *Image, names ...string) *Image {
	t.Helper()
	if err := c.Put(img); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := c.Tag(mustName(t, n), Meaning{ID: img.ID}); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestPutKeepsAnImageAsItWas(t *testing.T) {
	c, m := catalog(t)
	img := sample(t, m, moment, "one", "two")
	img.Layers[0].Blob = &Descriptor{MediaType: "x", Digest: digest.Of([]byte("z")), Size: 3}
	img.Manifest, img.Source = digest.Of([]byte("m")), "docker.io/library/x:1"
	put(t, c, img)
	got, err := c.Get(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.ID || got.Manifest != img.Manifest || got.Source != img.Source || !got.Created.Equal(moment) ||
		!got.Stored.Equal(moment.Add(time.Hour)) || !reflect.DeepEqual(got.Layers, img.Layers) {
		t.Errorf("got %+v, want %+v", got, img)
	}
	again := sample(t, m, moment, "one", "two")
	put(t, c, again)
	if got, err = c.Get(img.ID); err != nil || got.Manifest != img.Manifest {
		t.Errorf("after a second Put without an origin: %+v, %v", got, err)
	}
}

func TestTagMovesANameAndUntagTakesIt(t *testing.T) {
	c, m := catalog(t)
	a := put(t, c, sample(t, m, moment, "a"), "app:1")
	b := put(t, c, sample(t, m, moment, "b"))
	if err := c.Tag(mustName(t, "app:1"), Meaning{ID: b.ID}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.lookup(mustName(t, "docker.io/library/app:1")); err != nil || got.ID != b.ID {
		t.Errorf("app:1 is %s, %v, want %s", got.ID, err, b.ID)
	}
	if s, err := c.Summary(a.ID); err != nil || len(s.Names) != 0 {
		t.Errorf("the old image has the names %v, %v", s.Names, err)
	}
	if taken, err := c.untag(mustName(t, "app:1"), b.ID); err != nil || !taken {
		t.Errorf("untagged %t, %v", taken, err)
	}
	if _, err := c.lookup(mustName(t, "app:1")); !errors.Is(err, ErrNotFound) {
		t.Errorf("after untag: %v", err)
	}
	if err := c.Tag(mustName(t, "x"), Meaning{ID: digest.Of([]byte("none"))}); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag of an image that is not there: %v", err)
	}
}

func TestResolveTakesNamesIDsAndTheirBeginnings(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1", "app@sha256:"+hex64)
	for _, ref := range []string{
		"app:1", "docker.io/library/app:1", "app@sha256:" + hex64, "app:other@sha256:" + hex64,
		img.ID.String(), img.ID.Hex(), img.ID.Short(), "sha256:" + img.ID.Short(), img.ID.Hex()[:1],
	} {
		got, _, err := c.Resolve(ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
}

func TestABaseImageIsABeginningOfAnIDOnlyFromTwelveDigitsOn(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1")
	hex := img.ID.Hex()
	for _, ref := range []string{"app:1", hex[:12], hex[:40], hex, "sha256:" + hex[:12], "sha256:" + hex} {
		got, _, err := c.ResolveBase(ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{hex[:1], hex[:3], hex[:11], "sha256:" + hex[:1]} {
		if got, _, err := c.ResolveBase(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, %v, want no image", ref, got, err)
		}
	}
}

func TestANameGoesBeforeTheBeginningOfAnID(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"))
	named := put(t, c, sample(t, m, moment, "b"), img.ID.Short())
	got, n, err := c.Resolve(img.ID.Short())
	if err != nil || got.ID != named.ID || n.IsZero() {
		t.Errorf("got %v, %v, %v, want the image named so", got, n, err)
	}
}

func TestResolveSaysWhatItCouldHaveBeen(t *testing.T) {
	c, m := catalog(t)
	if _, _, err := c.Resolve("golang"); !errors.Is(err, ErrNotFound) || !strings.Contains(hint(err), "no image yet") {
		t.Errorf("empty store: %v, hint %q", err, hint(err))
	}
	put(t, c, sample(t, m, moment, "a"), "golang:1.15", "golang:1.16", "other/thing:1")
	tests := []struct{ ref, hint string }{
		{"golnag:1.15", "did you mean golang:1.15"},
		{"golang", "did you mean golang:1.15 or golang:1.16?"},
		{"GoLang:1.15", "write it as golang:1.15"},
		{"completely-different-name", "the store has golang:1.15, golang:1.16, other/thing:1"},
		{hex64, "the store has golang:1.15"},
		{"sha256:" + hex64, "the store has golang:1.15"},
	}
	for _, tt := range tests {
		_, _, err := c.Resolve(tt.ref)
		if err == nil || !strings.Contains(hint(err), tt.hint) {
			t.Errorf("%s: %v, hint %q, want %q", tt.ref, err, hint(err), tt.hint)
		}
	}
}

func TestAnAmbiguousBeginningListsTheCandidates(t *testing.T) {
	c, m := catalog(t)
	for i := range 40 { // sixteen digits: two images must begin alike
		put(t, c, sample(t, m, moment.Add(time.Duration(i)*time.Second), "a"))
	}
	ids, err := c.ids()
	if err != nil {
		t.Fatal(err)
	}
	var prefix string
	for i := 1; i < len(ids); i++ {
		if ids[i].Hex()[0] == ids[i-1].Hex()[0] {
			prefix = ids[i].Hex()[:1]
			put(t, c, mustGet(t, c, ids[i-1]), "one:1")
		}
	}
	_, _, err = c.Resolve(prefix)
	if err == nil || !strings.Contains(err.Error(), "images begin so") || !strings.Contains(err.Error(), "(one:1)") && !strings.Contains(err.Error(), "more") {
		t.Errorf("%s: %v", prefix, err)
	}
}

func mustGet(t *testing.T, c *Catalog, id digest.Digest) *Image {
	t.Helper()
	m, err := c.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRemoveTakesTheNameAndTheImageWithItsLast(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1", "app:2")
	got, err := c.Remove("app:1", Removal{})
	if err != nil || !slices.Equal(got.Untagged, []string{"app:1"}) || !got.Deleted.IsZero() {
		t.Errorf("first name: %+v, %v", got, err)
	}
	got, err = c.Remove("app:2", Removal{})
	if err != nil || got.Deleted != img.ID {
		t.Errorf("last name: %+v, %v", got, err)
	}
	if _, err := c.Get(img.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("the image is still there: %v", err)
	}
}

func TestRemoveByIDNeedsForceForSeveralRepositories(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1", "app:2", "other:1")
	if _, err := c.Remove(img.ID.Short(), Removal{}); err == nil || !strings.Contains(err.Error(), "app:1, app:2, other:1") {
		t.Errorf("without force: %v", err)
	}
	if _, err := c.untag(mustName(t, "other:1"), img.ID); err != nil {
		t.Fatal(err)
	}
	got, err := c.Remove(img.ID.Short(), Removal{})
	if err != nil || got.Deleted != img.ID || len(got.Untagged) != 2 {
		t.Errorf("one repository: %+v, %v", got, err)
	}
}

func TestRemoveRefusesWhileContainersUseTheImage(t *testing.T) {
	tests := map[string]struct {
		use    []Use
		force  bool
		refuse string
	}{
		"nobody":             {nil, false, ""},
		"stopped":            {[]Use{{"c1", false}}, false, "containers use it: c1"},
		"stopped and forced": {[]Use{{"c1", false}}, true, ""},
		"running and forced": {[]Use{{"c1", false}, {"c2", true}}, true, "running containers use it: c2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, m := catalog(t)
			img := put(t, c, sample(t, m, moment, "a"), "app:1")
			_, err := c.Remove("app:1", Removal{Force: tt.force, Users: func(id digest.Digest) ([]Use, error) {
				if id != img.ID {
					t.Errorf("asked about %s", id)
				}
				return tt.use, nil
			}})
			_, left := c.lookup(mustName(t, "app:1"))
			if tt.refuse == "" {
				if err != nil || left == nil {
					t.Errorf("removal: %v, name still there: %t", err, left == nil)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.refuse) || left != nil {
				t.Errorf("got %v, name: %v, want %q and the name kept", err, left, tt.refuse)
			}
		})
	}
}

func TestADamagedDocumentIsAnErrorNotAnImage(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1")
	other := sample(t, m, moment, "b")
	b, err := other.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range [][]byte{nil, []byte("{"), []byte(`{"config":"e30="}`), b} {
		if err := m.PutDoc(KindImage, img.ID.Hex(), doc); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(img.ID); err == nil {
			t.Errorf("document %.40q gave %s", doc, got.ID)
		}
	}
}

func TestANameWithTagAndDigestIsTwoNames(t *testing.T) {
	c, m := catalog(t)
	img := put(t, c, sample(t, m, moment, "a"), "app:1@sha256:"+hex64)
	s, err := c.Summary(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Name{mustName(t, "app:1"), mustName(t, "app@sha256:"+hex64)}; !slices.Equal(s.Names, want) {
		t.Errorf("names %v, want %v", s.Names, want)
	}
	if rows := (View{}).Rows([]Summary{s}); len(rows) != 1 || rows[0].Tag != "1" || rows[0].Digest != "sha256:"+hex64 {
		t.Errorf("rows %+v, want one, with tag and digest", rows)
	}
	got, err := c.Remove("app:1", Removal{})
	if err != nil || got.Deleted != img.ID || len(got.Untagged) != 2 {
		t.Errorf("removed %+v, %v: a digest alone does not keep an image", got, err)
	}
}

// moving gives a name to another image just before it is taken away.
type moving struct {
	*memory
	move func()
}

func (m *moving) UpdateDoc(kind, name string, fn func([]byte) ([]byte, error)) error {
	if kind == KindTag {
		m.move()
	}
	return m.memory.UpdateDoc(kind, name, fn)
}

func TestRemoveLeavesANameThatMovedMeanwhile(t *testing.T) {
	for _, names := range [][]string{{"app"}, {"app", "other"}} {
		c, m := catalog(t)
		old := put(t, c, sample(t, m, moment, "a"), names...)
		young := put(t, c, sample(t, m, moment, "b"))
		docs := &moving{m, func() {
			if err := c.Tag(mustName(t, "app"), Meaning{ID: young.ID}); err != nil {
				t.Fatal(err)
			}
		}}
		done, err := NewCatalog(docs, c.now).Remove("app", Removal{})
		if err != nil || len(done.Untagged) != 0 {
			t.Errorf("%v: untagged %v, %v", names, done.Untagged, err)
		}
		if got, err := c.lookup(mustName(t, "app")); err != nil || got.ID != young.ID {
			t.Errorf("%v: app is %s, %v, want the young image", names, got.ID, err)
		}
		if _, err := c.Get(old.ID); (err == nil) != (len(names) > 1) {
			t.Errorf("%v: the old image: %v", names, err)
		}
	}
}
