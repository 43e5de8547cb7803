package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
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
		{sample(t, m, moment, "base", "one"), []Name{mustName(t, "app:1"), mustName(t, "example.com/app:1")}},
		{sample(t, m, moment, "base", "two"), []Name{mustName(t, "other:2")}},
		{sample(t, m, moment, "base"), nil},
	}
	var b bytes.Buffer
	if err := m.exporter().Save(t.Context(), &b, images, f); err != nil {
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
	if err := m.exporter().Save(t.Context(), &b, []Export{{img, []Name{mustName(t, "app:1")}}}, DockerArchive); err != nil {
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
		if err := m.exporter().Save(t.Context(), io.Discard, []Export{{Image: img}}, OCIArchive); err == nil {
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
	if err := m.exporter().Save(ctx, io.Discard, []Export{{Image: img}}, OCIArchive); !errors.Is(err, cause) {
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
	same(t, got, []Export{{img, []Name{mustName(t, "app:1")}}})
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

// rewrite returns the archive with each file's content passed through f.
func rewrite(t *testing.T, b []byte, f func(name, body string) string) []byte {
	t.Helper()
	l := list(t, b)
	var out []entry
	for _, name := range l.names {
		if strings.HasSuffix(name, "/") {
			continue
		}
		out = append(out, entry{name: name, body: f(name, l.content[name])})
	}
	return build(t, out...)
}

func TestAttack25_LoadRefusesWhatIsNotWhatItsNameSays(t *testing.T) {
	m := newMemory()
	docker, images := save(t, m, DockerArchive)
	oci, _ := save(t, m, OCIArchive)
	img := images[0].Image
	other, _ := json.Marshal(sample(t, m, moment.Add(time.Second), "base", "one").Config)
	layer, config := blobPath(img.Layers[0].DiffID), blobPath(img.ID)
	replace := func(of, with string) func(string, string) string {
		return func(name, body string) string {
			if name == of {
				return with
			}
			return body
		}
	}
	edit := func(of, old, new string) func(string, string) string {
		return func(name, body string) string {
			if name == of {
				return strings.Replace(body, old, new, 1)
			}
			return body
		}
	}
	flip := func(name, body string) string {
		if name == layer {
			return body[:600] + "!" + body[601:]
		}
		return body
	}
	longer := func(name, body string) string {
		if name == layer {
			return body + strings.Repeat("\x00", 512)
		}
		return body
	}
	drop := func(of string) func(string, string) string {
		return func(name, body string) string { return strings.ReplaceAll(body, of, "blobs/sha256/../sha256/"+hex64) }
	}
	tests := map[string]struct {
		b    []byte
		f    func(string, string) string
		want string
	}{
		"docker: a flipped bit in a layer":         {docker, flip, "diffID"},
		"oci: a flipped bit in a layer":            {oci, flip, "has the digest"},
		"docker: a layer longer than it was":       {docker, longer, "diffID"},
		"oci: a layer longer than its size":        {oci, longer, "its manifest says"},
		"docker: another config under the name":    {docker, replace(config, string(other)), "blob"},
		"oci: another config under the name":       {oci, replace(config, string(other)), "has the digest"},
		"docker: two lists of different images":    {docker, edit("index.json", images[1].Names[0].String(), "x/y:1"), ""},
		"docker: a layer that is not there":        {docker, drop(layer), "not in the archive"},
		"docker: a tag with odd characters":        {docker, edit("manifest.json", "app:1", "app:1\\u001b[2J"), "not a tag"},
		"docker: a config outside":                 {docker, edit("manifest.json", config, "../../etc/passwd"), "file does not exist"},
		"oci: a digest that is a path":             {oci, edit("index.json", "sha256:", "sha256:../../"), "hex digits"},
		"oci: an index that is an image":           {oci, edit("index.json", `"manifests"`, `"layers": [], "manifests"`), "neither clearly"},
		"oci: a wrong size of a manifest":          {oci, edit("index.json", `"size": `, `"size": 1`), "descriptor says"},
		"oci: a manifest handed over as an index":  {oci, edit("index.json", manifest.OCIManifest, manifest.OCIIndex), "handed over as"},
		"oci: a layout of the future":              {oci, replace("oci-layout", `{"imageLayoutVersion":"2.0.0"}`), "version"},
		"docker: fewer layers than diffIDs":        {docker, edit("manifest.json", `,"`+blobPath(img.Layers[1].DiffID)+`"`, ""), "diffIDs"},
		"docker: manifest.json as large as memory": {docker, replace("manifest.json", strings.Repeat(" ", manifest.MaxSize+1)), "more than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			into := newMemory()
			got, err := Load(t.Context(), bytes.NewReader(rewrite(t, tt.b, tt.f)), into.sink())
			if tt.want == "" {
				if err != nil || len(got) != len(images) {
					t.Errorf("a change of no consequence: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAttack25_AnArchiveThatIsTwoImagesToTwoToolsIsRefused(t *testing.T) {
	m := newMemory()
	a, b := sample(t, m, moment, "good"), sample(t, m, moment, "evil")
	archive := func(img *Image) listing {
		var out bytes.Buffer
		if err := m.exporter().Save(t.Context(), &out, []Export{{img, []Name{mustName(t, "app:1")}}}, DockerArchive); err != nil {
			t.Fatal(err)
		}
		return list(t, out.Bytes())
	}
	good, evil := archive(a), archive(b)
	var both []entry
	for name, body := range good.content {
		if name != "manifest.json" && !strings.HasSuffix(name, "/") {
			both = append(both, entry{name: name, body: body})
		}
	}
	for name, body := range evil.content {
		if strings.HasPrefix(name, "blobs/sha256/") && !strings.HasSuffix(name, "/") || name == "manifest.json" {
			both = append(both, entry{name: name, body: body})
		}
	}
	_, err := Load(t.Context(), bytes.NewReader(build(t, both...)), newMemory().sink())
	if err == nil || !strings.Contains(err.Error(), "another tool") {
		t.Errorf("got %v", err)
	}
}

func TestLoadRefusesHostileArchives(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(`[]`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		entries []entry
		want    string
	}{
		"a link out of the archive":      {[]entry{{name: "manifest.json", kind: tar.TypeSymlink, link: outside}}, "holds no image"},
		"a relative link out":            {[]entry{{name: "manifest.json", kind: tar.TypeSymlink, link: "../../../../.." + outside}}, "holds no image"},
		"a hard link out":                {[]entry{{name: "manifest.json", kind: tar.TypeLink, link: outside}}, "holds no image"},
		"links in a circle":              {[]entry{{name: "manifest.json", kind: tar.TypeSymlink, link: "a"}, {name: "a", kind: tar.TypeSymlink, link: "manifest.json"}}, "holds no image"},
		"a device":                       {[]entry{{name: "manifest.json", kind: tar.TypeChar}}, "type"},
		"a fifo":                         {[]entry{{name: "x", kind: tar.TypeFifo}}, "type"},
		"a file and a link of one name":  {[]entry{{name: "a", body: "x"}, {name: "./a", kind: tar.TypeSymlink, link: "b"}}, "twice"},
		"a manifest.json of wrong shape": {[]entry{{name: "manifest.json", body: `{"Config":"x"}`}}, "manifest.json"},
		"a file twice":                   {[]entry{{name: "manifest.json", body: "[]"}, {name: "/manifest.json", body: "[ ]"}}, "twice"},
	}
	for name, tt := range tests {
		_, err := Load(t.Context(), bytes.NewReader(build(t, tt.entries...)), newMemory().sink())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestASparseFileInAnArchiveIsRefused(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "x", Size: 4, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "1234"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	old := b.Bytes()
	// An old GNU sparse header: type S, with one extent, its checksum redone.
	old[156] = 'S'
	copy(old[257:], "ustar  \x00")
	copy(old[386:], "00000000000\x0000000000004\x00")
	copy(old[483:], "00000000004\x00")
	sum := int64(8 * ' ')
	for i, c := range old[:512] {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	copy(old[148:], fmt.Sprintf("%06o\x00 ", sum))
	_, err := Load(t.Context(), bytes.NewReader(old), newMemory().sink())
	if err == nil || !strings.Contains(err.Error(), "type") {
		t.Errorf("got %v", err)
	}
}

func TestAttack19_ABombIsCutOffAtTheLimit(t *testing.T) {
	bomb := gz(t, build(t, entry{name: "x", body: strings.Repeat("\x00", 8<<20)}))
	sink := newMemory().sink()
	sink.MaxBytes, sink.TempDir = 1<<20, t.TempDir()
	_, err := Load(t.Context(), bytes.NewReader(bomb), sink)
	if err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(sink.TempDir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLoadBoundsTheImagesAndNamesOfAnArchive(t *testing.T) {
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	desc := `{"mediaType":"` + manifest.OCIManifest + `","digest":"sha256:` + hex64 + `","size":1}`
	tests := map[string]struct {
		entries []entry
		want    string
	}{
		"images": {[]entry{{name: "manifest.json", body: "[" + many(4097, `{"Config":"x"}`) + "]"}}, "manifest.json: 4097 images, more than 4096"},
		"names": {[]entry{{name: "manifest.json", body: `[{"RepoTags":[` + many(4097, `"a"`) + `]}]`}},
			"manifest.json: 4097 names, more than 4096"},
		"an index": {[]entry{layoutFile(), {name: "index.json", body: `{"schemaVersion":2,"manifests":[` + many(4097, desc) + `]}`}},
			"index.json: manifest: 4097 manifests, more than 4096"},
	}
	for name, tt := range tests {
		_, err := Load(t.Context(), bytes.NewReader(build(t, tt.entries...)), newMemory().sink())
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// Each index names the next one a thousand times: read as often as it is
// named, the last would be read a thousand billion times.
func TestAttack19_IndexesThatNameOneAnotherOftenAreReadOnce(t *testing.T) {
	m := newMemory()
	b, _ := save(t, m, DockerArchive)
	var entries []entry
	l := list(t, b)
	for _, name := range l.names {
		if name != "index.json" && !strings.HasSuffix(name, "/") {
			entries = append(entries, entry{name: name, body: l.content[name]})
		}
	}
	outer := l.content["index.json"]
	for range 4 {
		d := Descriptor{MediaType: manifest.OCIIndex, Digest: digest.Of([]byte(outer)), Size: int64(len(outer))}
		entries = append(entries, entry{name: blobPath(d.Digest), body: outer})
		raw, _, err := manifest.NewIndex(manifest.OCI, slices.Repeat([]Descriptor{d}, 1000), nil)
		if err != nil {
			t.Fatal(err)
		}
		outer = string(raw)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	entries = append(entries, entry{name: "index.json", body: outer})
	if _, err := Load(ctx, bytes.NewReader(build(t, entries...)), newMemory().sink()); err != nil {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	m := newMemory()
	var b bytes.Buffer
	if err := m.exporter().Save(context.Background(), &b, []Export{{Image: sample(f, m, moment, "one")}}, DockerArchive); err != nil {
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
