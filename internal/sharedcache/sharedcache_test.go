package sharedcache

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/store"
)

func named(s string) digest.Digest { return digest.Of([]byte(s)) }

var moment = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// layerOf is one that a step has made.
func layerOf(name string) Layer {
	key := named("step that made " + name)
	return Layer{ID: store.TreeID(key, name), DiffID: named("tar of " + name), Key: key, Nonce: name, Size: 5}
}

// of makes a set of records, written "KEY LAYER", the layers of which have blobs
// when their names are in capitals.
func of(records ...string) *Set {
	s := New()
	for _, text := range records {
		key, name, _ := strings.Cut(text, " ")
		l := layerOf(strings.ToLower(name))
		if strings.ToUpper(name) == name {
			l.Blob = &manifest.Descriptor{MediaType: manifest.OCILayerGzip, Digest: named("blob of " + name), Size: 7}
		}
		s.Add(Record{Key: named(key), Layer: l.ID, Kind: "run", Size: 5, Created: moment.Add(time.Duration(name[0]) * time.Second), Text: "RUN " + key}, l)
	}
	return s
}

func TestASetComesBackAsItWas(t *testing.T) {
	s := of("one A", "two b", "two C")
	s.AddContent(named("content").Hex(), named("its digest"))
	s.Include("cache.w-1")
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, s) {
		t.Errorf("got %+v, want %+v", back, s)
	}
	again, _ := back.Encode()
	if !bytes.Equal(again, b) {
		t.Error("the same set gives other bytes")
	}
}

func TestTheOrderOfMergesMakesNoDifference(t *testing.T) {
	parts := []*Set{of("one a"), of("one A", "two b"), of("one c", "three D"), of("three d", "four E"), of()}
	parts[2].AddContent(named("x").Hex(), named("y"))
	var want []byte
	for range 50 {
		s := New()
		for _, i := range rand.Perm(len(parts)) {
			s.Merge(parts[i])
		}
		got, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Fatal("another order of merges, another union")
		}
	}
}

func TestOfTwoLayersUnderOneKeyTheOlderCounts(t *testing.T) {
	s := of("one C", "one B", "one D")
	r, l, ok := s.Record(named("one"), false)
	if !ok || r.Layer != layerOf("b").ID || l.ID != layerOf("b").ID {
		t.Errorf("got %v %v, want that of layer B", r, ok)
	}
	if s.Len() != 3 {
		t.Errorf("%d records are kept, want all 3", s.Len())
	}
	if _, _, ok := s.Record(named("two"), false); ok {
		t.Error("a record under a key that nobody wrote")
	}
}

func TestALostBlobGivesWayToAnother(t *testing.T) {
	s := of("one A", "one b", "one C")
	s.Lose(map[digest.Digest]bool{layerOf("a").ID: true, named("unknown"): true})
	if r, _, _ := s.Record(named("one"), false); r.Layer != layerOf("c").ID {
		t.Error("the record of a layer without a blob is taken before one with")
	}
	s.Lose(map[digest.Digest]bool{layerOf("c").ID: true})
	if r, l, ok := s.Record(named("one"), false); !ok || r.Layer != layerOf("a").ID || l.Blob != nil {
		t.Error("without any blob it is not the oldest that is taken")
	}
	// What is sent again counts.
	s.Merge(of("one A"))
	if s.Blob(layerOf("a").ID) == nil {
		t.Error("a blob that came back is not known")
	}
}

func TestWhatASingleIDMadeIsForThoseWhoHaveOne(t *testing.T) {
	s := New()
	for i, name := range []string{"a", "b"} {
		l := layerOf(name)
		s.Add(Record{Key: named("one"), Layer: l.ID, Single: i == 0, Created: moment.Add(time.Duration(i))}, l)
	}
	if r, _, _ := s.Record(named("one"), true); r.Layer != layerOf("a").ID {
		t.Error("with a single id it is not the oldest that counts")
	}
	if r, _, _ := s.Record(named("one"), false); r.Layer != layerOf("b").ID {
		t.Error("what a step saw with a single id is given to who has all")
	}
}

func TestWithoutIsWhatTheOtherLacks(t *testing.T) {
	has := of("one A", "two b")
	for _, c := range []struct {
		mine *Set
		want int
	}{
		{of("one A"), 0}, {of("one a"), 0}, {of("one A", "three C"), 1}, {of("one B"), 1}, {of(), 0},
	} {
		got := c.mine.Without(has)
		if got.Len() != c.want || got.Empty() != (c.want == 0) {
			t.Errorf("%d records, want %d", got.Len(), c.want)
		}
	}
	// A layer whose blob only now is there is news.
	now := New()
	l := layerOf("b")
	l.Blob = &manifest.Descriptor{MediaType: manifest.OCILayer, Digest: named("blob"), Size: 1}
	now.Add(Record{Key: named("two"), Layer: l.ID}, l)
	if now.Without(has).Blob(layerOf("b").ID) == nil {
		t.Error("the blob of a layer that had none is not told")
	}
}

func TestTrimKeepsTheYoungestBlobs(t *testing.T) {
	s := of("one A", "two B", "three C")
	s.trim(2)
	if s.Blob(layerOf("a").ID) != nil || s.Blob(layerOf("b").ID) == nil || s.Blob(layerOf("c").ID) == nil {
		t.Errorf("the blobs are %v", s.Blobs())
	}
	if s.Len() != 3 {
		t.Error("a record went with its blob")
	}
}

func TestSegmentsAreThoseOfTheirCache(t *testing.T) {
	own := SegmentTag("main", []byte("x"))
	got := Segments("main", []string{"main", own, "main2", SegmentTag("main2", []byte("x")), "other", "main.w-prod", SegmentTag("main.w-pr", nil)})
	if len(got) != 1 || got[0] != own {
		t.Errorf("got %q", got)
	}
	if n := len(SegmentTag(SignedTag(strings.Repeat("x", MaxTag), digest.Of(nil)), nil)); n != 128 {
		t.Errorf("the longest tag has %d bytes", n)
	}
}

func TestTheManifestNamesAllBlobs(t *testing.T) {
	s := of("one A", "two b", "three C")
	doc := manifest.Descriptor{Digest: named("doc"), Size: 9}
	b, _, err := s.Manifest(manifest.Descriptor{Digest: named("{}"), Size: 2}, doc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := manifest.Parse(b, manifest.OCIManifest)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Document(p.Manifest); err != nil || got.Digest != doc.Digest {
		t.Errorf("the document is %v: %v", got, err)
	}
	if len(p.Manifest.Layers) != 3 || p.Manifest.ArtifactType != ArtifactType {
		t.Errorf("got %+v", p.Manifest)
	}
}

func TestTheNewestRecordsStay(t *testing.T) {
	s := of("one A", "two b", "three C", "four d")
	for _, name := range []string{"x", "y", "z"} {
		s.AddContent(named(name).Hex(), named(name))
	}
	s.trimRecords(2)
	for key, want := range map[string]bool{"one": false, "two": true, "three": false, "four": true} {
		if _, _, ok := s.Record(named(key), false); ok != want {
			t.Errorf("record of %s: there: %t", key, ok)
		}
	}
	if s.Len() != 2 || len(s.layers) != 2 || len(s.contents) != 2 {
		t.Errorf("%d records, %d layers, %d contents; want 2 of each", s.Len(), len(s.layers), len(s.contents))
	}
	b, err := s.Encode()
	if err == nil {
		_, err = Decode(b)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoCacheIsRefused(t *testing.T) {
	for _, m := range []*manifest.Manifest{nil, {}, {Layers: []manifest.Descriptor{{MediaType: manifest.OCILayerGzip}}}} {
		if _, err := Document(m); !errors.Is(err, ErrNoCache) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	if _, err := Document(&manifest.Manifest{Layers: []manifest.Descriptor{{MediaType: RecordsType, Size: MaxDocument + 1}}}); err == nil {
		t.Error("a document of any size is read")
	}
}

// zipped is the document with this text.
func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.Bytes()
}

func TestHostileDocumentsAreRefused(t *testing.T) {
	id, tar := named("id").String(), named("id").String()
	for name, text := range map[string]string{
		"another format":            `{"format":2}`,
		"no JSON":                   `{`,
		"a layer without an id":     `{"format":1,"layers":[{"diffID":"` + tar + `"}]}`,
		"a layer without a diffID":  `{"format":1,"layers":[{"id":"` + id + `"}]}`,
		"a negative size":           `{"format":1,"layers":[{"id":"` + id + `","diffID":"` + tar + `","size":-1}]}`,
		"a blob that is no layer":   `{"format":1,"layers":[{"id":"` + id + `","diffID":"` + tar + `","blob":{"mediaType":"text/plain","digest":"` + id + `","size":1}}]}`,
		"an id that is another's":   `{"format":1,"layers":[{"id":"` + id + `","diffID":"` + named("foreign").String() + `"}]}`,
		"an id of no such run":      `{"format":1,"layers":[{"id":"` + id + `","diffID":"` + named("foreign").String() + `","key":"` + id + `","nonce":"n"}]}`,
		"a record without a layer":  `{"format":1,"records":[{"key":"` + id + `","layer":"` + id + `"}]}`,
		"a content without a name":  `{"format":1,"contents":{"../x":"` + id + `"}}`,
		"a content without a value": `{"format":1,"contents":{"` + named("x").Hex() + `":""}}`,
	} {
		if _, err := Decode(zipped(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Decode([]byte("not gzip")); err == nil {
		t.Error("what is not compressed is read")
	}
}

// A small document may say a great deal: no more of it is taken in than may be there.
func TestNoMoreIsReadThanMayBeThere(t *testing.T) {
	all := func(*int) error { return nil }
	if got, err := list(json.NewDecoder(strings.NewReader("[1,2,3]")), 3, all); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := list(json.NewDecoder(strings.NewReader("[1,2,3,4]")), 3, all); err == nil {
		t.Errorf("one more: %v", got)
	}
	if got, err := list(json.NewDecoder(strings.NewReader("null")), 3, all); err != nil || got != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	d := named("x").String()
	two := fmt.Sprintf(`{"a":%q,"b":%q}`, d, d)
	if got, err := contents(json.NewDecoder(strings.NewReader(two)), 2); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := contents(json.NewDecoder(strings.NewReader(two)), 1); err == nil {
		t.Errorf("one more: %v", got)
	}
	if _, err := Decode(zipped(`{"format":1,"includes":[` + strings.Repeat(`"",`, maxRecords) + `""]}`)); err == nil {
		t.Error("a document has more than is read")
	}
	// What is not known is passed over, also of what whoever comes later writes.
	if _, err := Decode(zipped(`{"new":[{"a":[1,{"b":null}]}],"format":1}`)); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := of("one A", "two b").Encode()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		f.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(`{"format":1,"records":[],"contents":{},"layers":[],"includes":["x"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Decode(zipped(text))
		if err != nil {
			return
		}
		// What is accepted can be written, and is the same then.
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if again, _ := back.Encode(); !bytes.Equal(b, again) {
			t.Errorf("%s: comes back otherwise", text)
		}
	})
}
