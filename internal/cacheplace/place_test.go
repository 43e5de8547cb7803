package cacheplace

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/sharedcache"
)

// both runs a test with a place of each kind, which open opens anew, as another process
// would.
func both(t *testing.T, test func(t *testing.T, open func() Place)) {
	t.Run("repository", func(t *testing.T) {
		ref := cacheRegistry(t)
		test(t, func() Place { return Repository(&registry.Client{}, ref) })
	})
	t.Run("folder", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "new", "cache")
		test(t, func() Place { return Folder(dir, "main") })
	})
}

func knows(t *testing.T, p Place, keys ...string) *sharedcache.Set {
	t.Helper()
	set, err := p.Read(t.Context(), Trust{})
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

func TestAPlaceWhereNothingIsYetHasNone(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		if _, err := open().Read(t.Context(), Trust{}); !errors.Is(err, ErrNone) {
			t.Errorf("got %v", err)
		}
		if has, err := open().Has(t.Context(), manifest.Descriptor{Digest: digest.Of(nil)}); has || err != nil {
			t.Errorf("has a blob: %t, %v", has, err)
		}
	})
}

func TestManyWhoWriteAtOnceLoseNothing(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		var keys []string
		var wg sync.WaitGroup
		for i := range 16 {
			key := fmt.Sprint("step ", i)
			keys = append(keys, key)
			wg.Go(func() {
				if err := open().Add(t.Context(), Trust{}, oneRecord(key), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		knows(t, open(), keys...)
	})
}

// layerOf is a layer to send, with the digest of its blob.
func layerOf(text string) (registry.UploadLayer, manifest.Descriptor) {
	d := manifest.Descriptor{MediaType: manifest.OCILayerGzip, Digest: digest.Of([]byte(text)), Size: int64(len(text))}
	return registry.UploadLayer{
		Blob: func(context.Context, func(io.ReadCloser)) (manifest.Descriptor, error) { return d, nil },
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	}, d
}

// withBlob is oneRecord with a blob.
func withBlob(key string, d manifest.Descriptor) *sharedcache.Set {
	s := sharedcache.New()
	tar := digest.Of([]byte("tar of " + key))
	l := sharedcache.Layer{ID: tar, DiffID: tar, Blob: &d}
	s.Add(sharedcache.Record{Key: digest.Of([]byte(key)), Layer: l.ID, Created: time.Unix(1, 0)}, l)
	return s
}

func TestALayerIsThereAfterItWasSent(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		l, want := layerOf("a layer's blob")
		for range 2 { // the second time nothing is sent
			d, err := open().PutLayer(t.Context(), l)
			if err != nil || d.Digest != want.Digest {
				t.Fatalf("%s, %v", d.Digest, err)
			}
		}
		if has, err := open().Has(t.Context(), want); !has || err != nil {
			t.Errorf("is there: %t, %v", has, err)
		}
		if err := open().Add(t.Context(), Trust{}, withBlob("step", want), nil); err != nil {
			t.Fatal(err)
		}
		if set := knows(t, open(), "step"); len(set.Blobs()) != 1 {
			t.Errorf("%d blobs", len(set.Blobs()))
		}
		// What was found to be lost has no blob any more; its record stays.
		lost := map[digest.Digest]bool{digest.Of([]byte("tar of step")): true}
		if err := open().Add(t.Context(), Trust{}, oneRecord("other"), lost); err != nil {
			t.Fatal(err)
		}
		if set := knows(t, open(), "step", "other"); len(set.Blobs()) != 0 {
			t.Errorf("%d blobs of what is lost", len(set.Blobs()))
		}
	})
}

// A blob that vanished from the place is in its next union no more.
// The same size is no proof: what is sent to a folder again is read there first.
func TestASpoiltBlobInAFolderIsWrittenAnew(t *testing.T) {
	for _, known := range []bool{false, true} {
		dir := t.TempDir()
		layer, want := layerOf(strings.Repeat("layer", 1<<20))
		if known {
			layer.Known = &want
		}
		if _, err := Folder(dir, "main").PutLayer(t.Context(), layer); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "blobs", "sha256", want.Digest.Hex())
		if err := os.WriteFile(name, make([]byte, want.Size), 0o600); err != nil {
			t.Fatal(err)
		}
		if has, err := Folder(dir, "main").Has(t.Context(), want); has || err != nil {
			t.Errorf("a spoilt blob is there: %t, %v", has, err)
		}
		if d, err := Folder(dir, "main").PutLayer(t.Context(), layer); err != nil || d.Digest != want.Digest {
			t.Fatal(d, err)
		}
		if b, err := os.ReadFile(name); err != nil || digest.Of(b) != want.Digest {
			t.Errorf("known %t: the blob is still spoilt, %v", known, err)
		}
	}
}

func TestABlobThatIsGoneIsForgotten(t *testing.T) {
	dir := t.TempDir()
	l, d := layerOf("a layer's blob")
	p := Folder(dir, "main")
	if _, err := p.PutLayer(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(t.Context(), Trust{}, withBlob("step", d), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "blobs/sha256", d.Digest.Hex())); err != nil {
		t.Fatal(err)
	}
	if err := p.Add(t.Context(), Trust{}, oneRecord("other"), nil); err != nil {
		t.Fatal(err)
	}
	if set := knows(t, p, "step", "other"); len(set.Blobs()) != 0 {
		t.Errorf("%d blobs, of which none is there", len(set.Blobs()))
	}
}

func newKey(t *testing.T) *attest.Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	k, err := attest.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Whoever writes, only what the key has signed is read by it, and nobody loses anything:
// who has no key reads all.
func TestWhoWritesAsSomebodyElseTakesNothing(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		one, other := newKey(t), newKey(t)
		as := map[string]Trust{"nobody": {}, "one": {Sign: one, Verify: one.Public()}, "other": {Sign: other, Verify: other.Public()}}
		if err := open().Add(t.Context(), Trust{}, oneRecord("poison"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := open().Read(t.Context(), as["one"]); !errors.Is(err, ErrNone) {
			t.Fatalf("of what nobody signed: %v", err)
		}
		for _, who := range []string{"one", "other", "nobody", "one", "other"} {
			if err := open().Add(t.Context(), as[who], oneRecord("of "+who), nil); err != nil {
				t.Fatal(err)
			}
		}
		// With a key to verify by and none to sign with one writes as nobody.
		if err := open().Add(t.Context(), Trust{Verify: other.Public()}, oneRecord("more"), nil); err != nil {
			t.Fatal(err)
		}
		knows(t, open(), "poison", "of one", "of other", "of nobody", "more")
		for _, who := range []string{"one", "other"} {
			set, err := open().Read(t.Context(), as[who])
			if err != nil {
				t.Fatal(err)
			}
			if _, _, ok := set.Record(digest.Of([]byte("of "+who)), false); !ok || set.Len() != 1 {
				t.Errorf("%s: %d records, want the one that is signed", who, set.Len())
			}
		}
	})
}

// What somebody else puts where a key's records are is not trusted; in a registry the
// segments of the one who signs are still there.
func TestWhatIsForgedIsNotTrusted(t *testing.T) {
	k := newKey(t)
	trust := Trust{Sign: k, Verify: k.Public()}
	c, ref := &registry.Client{}, cacheRegistry(t)
	p := Repository(c, ref)
	if err := p.Add(t.Context(), trust, oneRecord("good"), nil); err != nil {
		t.Fatal(err)
	}
	tag := trust.reads(ref.Tag)
	if _, err := (&repository{c, ref}).put(t.Context(), Trust{}, tag, tag, oneRecord("forged")); err != nil {
		t.Fatal(err)
	}
	if _, err := (&repository{c, ref}).put(t.Context(), Trust{}, tag, "", oneRecord("forged too")); err != nil {
		t.Fatal(err)
	}
	// An image, and a manifest whose document is not what it says, where segments are.
	config, doc := descriptor([]byte("{}")), descriptor([]byte("abc"))
	doc.Size = 99
	raw, d, err := manifest.NewArtifact(sharedcache.ArtifactType, config, []manifest.Descriptor{{MediaType: sharedcache.RecordsType, Digest: doc.Digest, Size: doc.Size}})
	if err != nil {
		t.Fatal(err)
	}
	bad := ref
	bad.Tag = sharedcache.SegmentTag(tag, []byte("bad"))
	if err := c.PutDocuments(t.Context(), bad, &registry.Documents{Blobs: [][]byte{[]byte("{}"), []byte("abc")}, Raw: raw, Descriptor: d}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time after more was added
		set, err := p.Read(t.Context(), trust)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok := set.Record(digest.Of([]byte("good")), false); !ok {
			t.Error("what was signed is lost")
		}
		for _, key := range []string{"forged", "forged too"} {
			if _, _, ok := set.Record(digest.Of([]byte(key)), false); ok {
				t.Errorf("%s: is trusted", key)
			}
		}
		if err := p.Add(t.Context(), trust, oneRecord("more"), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A folder that a job carries along holds what the cache is, and no older forms of it;
// what else is in it stays.
func TestAFolderDoesNotKeepWhatWasReplaced(t *testing.T) {
	dir := t.TempDir()
	other := Folder(dir, "other")
	if err := other.Add(t.Context(), Trust{}, oneRecord("step 0"), nil); err != nil {
		t.Fatal(err)
	}
	p := Folder(dir, "main")
	var keys []string
	for i := range 5 {
		keys = append(keys, fmt.Sprint("step ", i))
		if err := p.Add(t.Context(), Trust{}, oneRecord(keys[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	knows(t, p, keys...)
	knows(t, other, "step 0") // which "main" had as well, at first
	files, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 5 { // an empty config, and of each cache a manifest and a document
		t.Errorf("%d blobs: %q", len(files), files)
	}
}

// A folder may come from anywhere: what is wrong with it is an error and no more.
func TestAFolderOfSomethingElseIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"an index that is none": func(dir string) error { return os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o644) },
		"an index that is a pipe": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "index.json")), os.Symlink("/dev/zero", filepath.Join(dir, "index.json")))
		},
		"a document that was changed": func(dir string) error {
			files, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
			for _, f := range files {
				b, rerr := os.ReadFile(f)
				if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
					b[len(b)-1] ^= 1
					err = errors.Join(err, os.WriteFile(f, b, 0o644))
				}
				err = errors.Join(err, rerr)
			}
			return err
		},
	} {
		dir := t.TempDir()
		p := Folder(dir, "main")
		if err := p.Add(t.Context(), Trust{}, oneRecord("step"), nil); err != nil {
			t.Fatal(err)
		}
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Read(t.Context(), Trust{}); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%s: reading: %v", name, err)
		}
		err := p.Add(t.Context(), Trust{}, oneRecord("step"), nil)
		if damaged := strings.Contains(name, "document"); damaged != (err == nil) {
			t.Errorf("%s: writing over it: %v", name, err)
		}
	}
}

// An image in the folder has the same tag as the cache: it stays.
func TestAnImageInAFolderIsNoCache(t *testing.T) {
	dir := t.TempDir()
	f, err := image.OpenFolder(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg := manifest.Descriptor{MediaType: manifest.OCIConfig, Digest: digest.Of([]byte("{}")), Size: 2}
	raw, d, err := manifest.New(manifest.OCI, cfg, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Put(d, bytes.NewReader(raw)), f.Tag("main", d)); err != nil {
		t.Fatal(err)
	}
	if err := Folder(dir, "main").Add(t.Context(), Trust{}, oneRecord("step"), nil); !errors.Is(err, sharedcache.ErrNoCache) {
		t.Errorf("got %v", err)
	}
}

// What lies beside a cache is replaced by the next of that name, and trusted as the cache
// is.
func TestADocumentBesideACacheIsReplaced(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		k := newKey(t)
		name := digest.Of([]byte("name"))
		if _, err := open().Beside(t.Context(), Trust{}, name); !errors.Is(err, ErrNone) {
			t.Errorf("before: %v", err)
		}
		signed, state := "", ""
		for i, by := range []Trust{{Sign: k, Verify: k.Public()}, {}, {}, {Sign: k, Verify: k.Public()}} {
			l, d := layerOf(fmt.Sprint("blob ", i))
			if _, err := open().PutLayer(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			document := fmt.Sprintf(`{"state":%d}`, i)
			if err := open().PutBeside(t.Context(), by, name, []byte(document), []manifest.Descriptor{d}); err != nil {
				t.Fatal(err)
			}
			if by.Sign != nil {
				signed = document
			}
			if by.Sign == nil || state == "" {
				state = document // that of nobody in particular comes first
			}
			if got, err := open().Beside(t.Context(), Trust{}, name); err != nil || string(got) != state {
				t.Errorf("%d: %s, %v", i, got, err)
			}
			if got, err := open().Beside(t.Context(), Trust{Verify: k.Public()}, name); err != nil || string(got) != signed {
				t.Errorf("%d: by its key: %s, %v", i, got, err)
			}
			if b, err := open().Bytes(t.Context(), d); err != nil || string(b) != fmt.Sprint("blob ", i) {
				t.Errorf("%d: blob %q, %v", i, b, err)
			}
		}
		if _, err := open().Beside(t.Context(), Trust{Verify: newKey(t).Public()}, name); !errors.Is(err, ErrNone) {
			t.Errorf("by another key: %v", err)
		}
		if _, err := open().Read(t.Context(), Trust{}); !errors.Is(err, ErrNone) {
			t.Errorf("there is a cache: %v", err)
		}
	})
}

// What is damaged under the name of who does not sign hides nothing that is signed.
func TestADamagedDocumentBesideACacheHidesNoOther(t *testing.T) {
	both(t, func(t *testing.T, open func() Place) {
		k, name := newKey(t), digest.Of([]byte("name"))
		if err := open().PutBeside(t.Context(), Trust{Sign: k, Verify: k.Public()}, name, []byte("{}"), nil); err != nil {
			t.Fatal(err)
		}
		var err error
		switch p := open().(type) {
		case *repository:
			err = p.client.PutArtifact(t.Context(), p.at(besideTag(p.ref.Tag, name)), []byte("x"), sharedcache.New().Manifest)
		case *folder:
			err = p.writing(t.Context(), func(to *image.Folder) error {
				return put(to, besideTag(p.tag, name), []byte("x"), sharedcache.New().Manifest)
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open().Beside(t.Context(), Trust{}, name); err != nil || string(got) != "{}" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// What a writer left that was killed goes with the next that adds something; what is being
// written stays.
func TestWhatAKilledWriterLeftGoes(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, ".whittle-OLD"), filepath.Join(dir, ".whittle-NEW")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	if err := Folder(dir, "main").Add(t.Context(), Trust{}, oneRecord("step"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is old: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("what is new: %v", err)
	}
}

// A document names nothing that is not there: another writer may have removed it.
func TestADocumentThatIsNotWholeIsRefused(t *testing.T) {
	_, d := layerOf("never sent")
	err := Folder(t.TempDir(), "main").PutBeside(t.Context(), Trust{}, digest.Of([]byte("name")), []byte("{}"), []manifest.Descriptor{d})
	if !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v", err)
	}
}
