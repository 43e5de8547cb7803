package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
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
		if _, err := m.exporter().Save(t.Context(), &out, []Export{{Image: img, Names: []Name{mustName(t, "app:1")}}}, DockerArchive); err != nil {
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
