package image

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

func resolved(t *testing.T, c *Catalog, ref string) map[string]string {
	t.Helper()
	m, _, err := c.Resolve(ref)
	if err != nil {
		t.Fatal(err)
	}
	return m.Annotations
}

func TestAnnotationsAreOfANameAndNotOfItsImage(t *testing.T) {
	c, m := catalog(t)
	for name, text := range map[string]string{"app:1": "one", "app:2": "two", "app:3": ""} {
		img := sample(t, m, moment, "a")
		means := Meaning{ID: img.ID}
		if text != "" {
			img.Annotations = map[string]string{"team": text}
			means.Said.About(img.ID, img.Annotations, map[string]string{"of": text})
			means.Said.Index = map[string]string{"index": text}
		}
		put(t, c, img)
		if err := c.Tag(mustName(t, name), means); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Meaning(mustName(t, name)); err != nil || !got.Said.Equal(means.Said) || got.Said.Equal(Said{}) != (text == "") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for ref, want := range map[string]string{"app:1": "one", "app:2": "two", "app:3": "", sample(t, m, moment, "a").ID.String(): ""} {
		if got := resolved(t, c, ref); got["team"] != want {
			t.Errorf("%s: %v, want %q", ref, got, want)
		}
	}
}

func TestAnnotationsThatAnOldStoreHasWithTheImageAreThoseOfItsNames(t *testing.T) {
	c, m := catalog(t)
	img := sample(t, m, moment, "a")
	img.Annotations, img.Stored = map[string]string{"team": "old"}, moment
	doc, err := img.encode()
	if err != nil {
		t.Fatal(err)
	}
	name := mustName(t, "app:1")
	tagged, err := json.Marshal(map[string]any{"name": name.String(), "id": img.ID, "time": moment})
	if err != nil {
		t.Fatal(err)
	}
	for kind, b := range map[string][]byte{KindImage: doc, KindTag: tagged} {
		if err := m.PutDoc(kind, map[string]string{KindImage: img.ID.Hex(), KindTag: tagDoc(name)}[kind], b); err != nil {
			t.Fatal(err)
		}
	}
	// The same image gets another name, with and without annotations of its own.
	put(t, c, sample(t, m, moment, "a"), "app:2")
	for ref, want := range map[string]map[string]string{"app:1": img.Annotations, "app:2": nil} {
		if got := resolved(t, c, ref); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", ref, got, want)
		}
	}
}

func TestSaidIsEqualByContent(t *testing.T) {
	var a, b Said
	id := digest.Of(nil)
	a.About(id, map[string]string{"k": "v"}, nil)
	if a.Equal(b) {
		t.Error("one that says something is equal to one that does not")
	}
	b.About(id, map[string]string{"k": "v"}, map[string]string{})
	if !a.Equal(b) {
		t.Errorf("%+v and %+v are not equal", a, b)
	}
	b.Index = map[string]string{"k": "v"}
	if a.Equal(b) {
		t.Error("an index's annotations do not count")
	}
}
