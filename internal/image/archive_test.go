package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// save returns an archive of two images that share a layer.
func save(t *testing.T, m *memory, f Format) ([]byte, []Export) {
	t.Helper()
	images := []Export{
		{Image: sample(t, m, moment, "base", "one"), Names: []Name{mustName(t, "app:1"), mustName(t, "example.com/app:1")}},
		{Image: sample(t, m, moment, "base", "two"), Names: []Name{mustName(t, "other:2")}},
		{Image: sample(t, m, moment, "base"), Names: nil},
	}
	var b bytes.Buffer
	if _, err := m.exporter().Save(t.Context(), &b, images, f); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), images
}

// same compares what came with what went, names included.
func same(t *testing.T, got []Loaded, want []Export) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d images, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Image.ID != want[i].Image.ID || !bytes.Equal(got[i].Image.Raw, want[i].Image.Raw) {
			t.Errorf("image %d is %s, want %s", i, got[i].Image.ID, want[i].Image.ID)
		}
		if !slices.Equal(got[i].Names, want[i].Names) {
			t.Errorf("image %d has the names %v, want %v", i, got[i].Names, want[i].Names)
		}
	}
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatSaveWritesLoadReads(t *testing.T) {
	for _, f := range []Format{DockerArchive, OCIArchive} {
		m := newMemory()
		b, want := save(t, m, f)
		file := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		opened, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		ways := map[string]io.Reader{"pipe": bytes.NewReader(b), "gzip": bytes.NewReader(gz(t, b)), "file": opened}
		for way, r := range ways {
			into := newMemory()
			got, err := Load(t.Context(), r, into.sink())
			if err != nil {
				t.Fatalf("%s by %s: %v", f, way, err)
			}
			same(t, got, want)
			if len(into.tars) != 3 {
				t.Errorf("%s by %s: %d layers came, want 3: the shared one once", f, way, len(into.tars))
			}
		}
	}
}

func TestSavingTwiceGivesTheSameBytes(t *testing.T) {
	m := newMemory()
	for _, f := range []Format{DockerArchive, OCIArchive} {
		a, _ := save(t, m, f)
		b, _ := save(t, m, f)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two archives of the same images differ", f)
		}
	}
}

func TestTheDockerArchiveHasItsGoldenContent(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "base", "one")
	var b bytes.Buffer
	if _, err := m.exporter().Save(t.Context(), &b, []Export{{Image: img, Names: []Name{mustName(t, "app:1")}}}, DockerArchive); err != nil {
		t.Fatal(err)
	}
	got := list(t, b.Bytes())
	_, desc, err := manifest.New(manifest.OCI, Descriptor{Digest: img.ID, Size: int64(len(img.Raw))}, []Descriptor{
		{MediaType: manifest.OCILayer, Digest: img.Layers[0].DiffID, Size: 2048},
		{MediaType: manifest.OCILayer, Digest: img.Layers[1].DiffID, Size: 2048},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l0, l1, id := img.Layers[0].DiffID.Hex(), img.Layers[1].DiffID.Hex(), img.ID.Hex()
	want := []string{
		"blobs/", "blobs/sha256/", "blobs/sha256/" + l0, "blobs/sha256/" + l1, "blobs/sha256/" + id, "blobs/sha256/" + desc.Digest.Hex(),
		"index.json", "oci-layout", "manifest.json", "repositories",
	}
	if names := got.names; !slices.Equal(names, want) {
		t.Errorf("entries\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{
		"oci-layout":    `{"imageLayoutVersion":"1.0.0"}`,
		"manifest.json": `[{"Config":"blobs/sha256/` + id + `","RepoTags":["app:1"],"Layers":["blobs/sha256/` + l0 + `","blobs/sha256/` + l1 + `"]}]`,
		"repositories":  `{"app":{"1":"` + l1 + `"}}`,
		"index.json": fmt.Sprintf(`{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "%s",
      "size": %d,
      "annotations": {
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.ref.name": "1"
      },
      "platform": {
        "architecture": "amd64",
        "os": "linux"
      }
    }
  ]
}`, desc.Digest, desc.Size),
	} {
		if got.content[name] != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got.content[name], want)
		}
	}
}

type listing struct {
	names   []string
	content map[string]string
}

func list(t *testing.T, b []byte) listing {
	t.Helper()
	l := listing{content: map[string]string{}}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return l
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s: header %+v depends on something", h.Name, h)
		}
		l.names = append(l.names, h.Name)
		l.content[h.Name] = string(c)
	}
}

func TestSaveRefusesALayerThatIsNotWhatItsDiffIDSays(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b = bytes.Clone(b); b[600] ^= 1; return b },
		"shorter": func(b []byte) []byte { return b[:len(b)-512] },
	} {
		m := newMemory()
		img := sample(t, m, moment, "one")
		m.tars[img.Layers[0].DiffID] = spoil(m.tars[img.Layers[0].DiffID])
		if _, err := m.exporter().Save(t.Context(), io.Discard, []Export{{Image: img}}, OCIArchive); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
}

func TestTheCompressedFormOfALoadedLayerIsRemembered(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "one")
	b := gz(t, m.tars[img.Layers[0].DiffID])
	blob := Descriptor{MediaType: manifest.OCILayerGzip, Digest: digest.Of(b), Size: int64(len(b))}
	raw, d, err := manifest.New(manifest.OCI, Descriptor{Digest: img.ID, Size: int64(len(img.Raw))}, []Descriptor{blob}, nil)
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := manifest.NewIndex(manifest.OCI, []Descriptor{d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	archive := build(t, layoutFile(), entry{name: "index.json", body: string(index)},
		entry{name: blobPath(d.Digest), body: string(raw)}, entry{name: blobPath(img.ID), body: string(img.Raw)},
		entry{name: blobPath(blob.Digest), body: string(b)})
	got, err := Load(t.Context(), bytes.NewReader(archive), newMemory().sink())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, []Export{{Image: img}})
	if have := got[0].Image.Layers[0].Blob; have == nil || have.Digest != blob.Digest || have.MediaType != blob.MediaType {
		t.Errorf("got %v, want %v", have, blob)
	}
}

func TestAnInterruptedSaveStops(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "one")
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := m.exporter().Save(ctx, io.Discard, []Export{{Image: img}}, OCIArchive); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

func TestLoadTakesOnlyLayersThatTheStoreLacks(t *testing.T) {
	m := newMemory()
	b, want := save(t, m, DockerArchive)
	sink := m.sink()
	sink.Have = func(d digest.Digest) (Layer, bool) {
		_, ok := m.tars[d]
		return Layer{ID: d, DiffID: d}, ok
	}
	sink.Layer = func(context.Context, digest.Digest, io.Reader) (Layer, error) {
		return Layer{}, errors.New("a layer came that is there")
	}
	got, err := Load(t.Context(), bytes.NewReader(b), sink)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
}

// entries builds an archive by hand.
type entry struct {
	name, body, link string
	kind             byte
}

func layoutFile() entry { return entry{name: "oci-layout", body: `{"imageLayoutVersion": "1.0.0"}`} }

func build(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Size: int64(len(e.body)), Linkname: e.link, Mode: 0o644}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoadReadsDockerArchivesOfBeforeVersion25(t *testing.T) {
	m := newMemory()
	img := sample(t, m, moment, "one", "two")
	l0, l1 := string(m.tars[img.Layers[0].DiffID]), string(gz(t, m.tars[img.Layers[1].DiffID]))
	id := img.ID.Hex()
	list := `[{"Config":"` + id + `.json","RepoTags":["app:1"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]`
	b := build(t,
		entry{name: "aaa/", kind: tar.TypeDir}, entry{name: "aaa/VERSION", body: "1.0"}, entry{name: "ccc/layer.tar", body: l0},
		entry{name: "aaa/layer.tar", kind: tar.TypeSymlink, link: "../ccc/layer.tar"},
		entry{name: "./bbb/layer.tar", body: l1}, entry{name: id + ".json", body: string(img.Raw)},
		entry{name: "manifest.json", body: list}, entry{name: "repositories", body: `{}`})
	got, err := Load(t.Context(), bytes.NewReader(b), newMemory().sink())
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, []Export{{Image: img, Names: []Name{mustName(t, "app:1")}}})
}

func TestLoadPicksThePlatform(t *testing.T) {
	m := newMemory()
	var entries []entry
	var descs []Descriptor
	ids := map[string]digest.Digest{}
	for _, arch := range []string{"arm64", "amd64", "s390x"} {
		cfg := sample(t, m, moment, "one").Config.Clone()
		cfg.Architecture = arch
		img, err := FromConfig(&cfg, sample(t, m, moment, "one").Layers)
		if err != nil {
			t.Fatal(err)
		}
		ids[arch] = img.ID
		l := m.tars[img.Layers[0].DiffID]
		raw, d, err := manifest.New(manifest.OCI, Descriptor{Digest: img.ID, Size: int64(len(img.Raw))},
			[]Descriptor{{MediaType: manifest.OCILayer, Digest: img.Layers[0].DiffID, Size: int64(len(l))}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.Platform = &Platform{OS: "linux", Architecture: arch}
		descs = append(descs, d)
		entries = append(entries, entry{name: blobPath(d.Digest), body: string(raw)}, entry{name: blobPath(img.ID), body: string(img.Raw)})
		if arch == "arm64" {
			entries = append(entries, entry{name: blobPath(img.Layers[0].DiffID), body: string(l)})
		}
	}
	inner, d, err := manifest.NewIndex(manifest.OCI, descs, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Annotations = map[string]string{manifest.AnnotationRefName: "app:multi"}
	outer, _, err := manifest.NewIndex(manifest.OCI, []Descriptor{d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	flat, _, err := manifest.NewIndex(manifest.OCI, descs, nil)
	if err != nil {
		t.Fatal(err)
	}
	layout := layoutFile()
	for shape, extra := range map[string][]entry{
		"nested": {{name: blobPath(d.Digest), body: string(inner)}, {name: "index.json", body: string(outer)}, layout},
		"flat":   {{name: "index.json", body: string(flat)}, layout},
	} {
		b := build(t, append(slices.Clone(entries), extra...)...)
		got, err := Load(t.Context(), bytes.NewReader(b), newMemory().sink())
		if err != nil || len(got) != 1 || got[0].Image.ID != ids["amd64"] {
			t.Errorf("%s: %v, %v, want the image for amd64", shape, got, err)
		}
		sink := newMemory().sink()
		sink.Platform = Platform{OS: "linux", Architecture: "riscv64"}
		_, err = Load(t.Context(), bytes.NewReader(b), sink)
		if err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm64, linux/s390x") {
			t.Errorf("%s: for riscv64: %v", shape, err)
		}
	}
}

func TestLoadSaysWhatAnArchiveIsWhenItIsNoImage(t *testing.T) {
	tests := map[string]struct {
		b         []byte
		msg, hint string
	}{
		"a root file system": {build(t, entry{name: "etc/passwd", body: "x"}), "holds no image", "whittle import"},
		"docker before 1.10": {build(t, entry{name: "repositories", body: "{}"}), "older than 1.10", "save it again"},
		"no layout version":  {build(t, entry{name: "index.json", body: `{"schemaVersion":2,"manifests":[]}`}), "not an OCI layout", ""},
		"an empty list":      {build(t, entry{name: "manifest.json", body: "[]"}), "manifest.json names none", "whittle save"},
		"no list":            {build(t, entry{name: "manifest.json", body: "null"}), "manifest.json names none", "whittle save"},
		"an empty index":     {build(t, layoutFile(), entry{name: "index.json", body: `{"schemaVersion":2,"manifests":[]}`}), "index.json names none", ""},
		"broken zstd":        {[]byte("\x28\xb5\x2f\xfd........"), "archive: ", ""},
		"text":               {[]byte(strings.Repeat("hello world ", 100)), "archive: ", ""},
		"empty":              {nil, "holds no image", ""},
		"cut off":            {build(t, entry{name: "x", body: strings.Repeat("x", 4096)})[:1024], "unexpected EOF", ""},
	}
	for name, tt := range tests {
		_, err := Load(t.Context(), bytes.NewReader(tt.b), newMemory().sink())
		if err == nil || !strings.Contains(err.Error(), tt.msg) || !strings.Contains(hint(err), tt.hint) {
			t.Errorf("%s: %v, hint %q; want %q, hint %q", name, err, hint(err), tt.msg, tt.hint)
		}
	}
}

func FuzzLoad(f *testing.F) {
	m := newMemory()
	var b bytes.Buffer
	if _, err := m.exporter().Save(context.Background(), &b, []Export{{Image: sample(f, m, moment, "one")}}, DockerArchive); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		sink := newMemory().sink()
		sink.MaxBytes, sink.TempDir = 1<<20, t.TempDir()
		got, err := Load(t.Context(), bytes.NewReader(b), sink)
		if err != nil {
			return
		}
		for _, l := range got {
			if digest.Of(l.Image.Raw) != l.Image.ID || len(l.Image.Layers) != len(l.Image.Config.DiffIDs) {
				t.Errorf("loaded %+v", l.Image)
			}
		}
	})
}
