package manifest

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/whittle-build/whittle/internal/digest"
)

var (
	dA = digest.Of([]byte("a"))
	dB = digest.Of([]byte("b"))
)

func sample(t *testing.T, style Style) (string, Descriptor) {
	t.Helper()
	layers := []Descriptor{
		{MediaType: OCILayerGzip, Digest: dB, Size: 7},
		{MediaType: DockerLayer, Digest: dA, Size: 9},
	}
	b, d, err := New(style, Descriptor{Digest: dA, Size: 5}, layers, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	return string(b), d
}

const goldenOCI = `{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
    "size": 5
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
      "digest": "sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
      "size": 7
    },
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar",
      "digest": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
      "size": 9
    }
  ],
  "annotations": {
    "k": "v"
  }
}`

func TestNewWritesTheGoldenManifests(t *testing.T) {
	got, d := sample(t, OCI)
	if got != goldenOCI {
		t.Errorf("OCI manifest:\n%s\nwant:\n%s", got, goldenOCI)
	}
	if d.Digest != digest.Of([]byte(got)) || d.Size != int64(len(got)) || d.MediaType != OCIManifest {
		t.Errorf("descriptor %+v does not describe the manifest", d)
	}
	docker := strings.NewReplacer(
		"vnd.oci.image.manifest.v1+json", "vnd.docker.distribution.manifest.v2+json",
		"vnd.oci.image.config.v1+json", "vnd.docker.container.image.v1+json",
		"vnd.oci.image.layer.v1.tar+gzip", "vnd.docker.image.rootfs.diff.tar.gzip",
		"vnd.oci.image.layer.v1.tar\"", "vnd.docker.image.rootfs.diff.tar\"",
		",\n  \"annotations\": {\n    \"k\": \"v\"\n  }", "",
	).Replace(goldenOCI)
	if got, _ := sample(t, Docker); got != docker {
		t.Errorf("Docker manifest:\n%s\nwant:\n%s", got, docker)
	}
}

func TestManifestsAreWhatTheImageSpecTypesSay(t *testing.T) {
	got, _ := sample(t, OCI)
	var m v1.Manifest
	d := json.NewDecoder(strings.NewReader(got))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	if m.Config.Digest.String() != dA.String() || len(m.Layers) != 2 || m.Layers[1].Size != 9 {
		t.Errorf("image-spec reads %+v", m)
	}
	b, _, err := NewIndex(OCI, []Descriptor{{MediaType: OCIManifest, Digest: dA, Size: 1, Platform: &Platform{OS: "linux", Architecture: "arm", Variant: "v7"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var x v1.Index
	if err := json.Unmarshal(b, &x); err != nil {
		t.Fatal(err)
	}
	if p := x.Manifests[0].Platform; p == nil || p.Variant != "v7" || p.OS != "linux" {
		t.Errorf("image-spec reads the platform %+v", p)
	}
}

func TestParseReadsWhatNewWrites(t *testing.T) {
	for _, style := range []Style{OCI, Docker} {
		b, d := sample(t, style)
		for _, outer := range []string{d.MediaType, "", "application/json"} {
			p, err := Parse([]byte(b), outer)
			if err != nil {
				t.Fatalf("%q: %v", outer, err)
			}
			if p.Manifest == nil || p.Index != nil || p.Descriptor.Digest != d.Digest || p.Descriptor.MediaType != d.MediaType {
				t.Errorf("%q: parsed as %+v", outer, p.Descriptor)
			}
		}
	}
}

const (
	okDesc = `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","size":1}`
	okHead = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`
)

func TestAttack25_AmbiguousManifestsAreRefused(t *testing.T) {
	desc := func(old, new string) string { return strings.Replace(okDesc, old, new, 1) }
	tests := map[string]struct{ doc, outer, want string }{
		"manifest and index at once":      {okHead + `"config":` + okDesc + `,"layers":[],"manifests":[]}`, "", "neither clearly"},
		"manifests beside layers alone":   {okHead + `"layers":[],"manifests":[]}`, "", "neither clearly"},
		"nothing of both":                 {`{"schemaVersion":2}`, "", "neither clearly"},
		"image content, index type":       {`{"schemaVersion":2,"mediaType":"` + OCIIndex + `","config":` + okDesc + `,"layers":[]}`, "", "does not fit"},
		"index content, image from outer": {`{"schemaVersion":2,"manifests":[]}`, OCIManifest, "does not fit"},
		"inner and outer type differ":     {okHead + `"config":` + okDesc + `,"layers":[]}`, DockerManifest, "handed over as"},
		"inner and outer kind differ":     {okHead + `"config":` + okDesc + `,"layers":[]}`, OCIIndex, "handed over as"},
		"layers twice":                    {okHead + `"config":` + okDesc + `,"layers":[],"layers":[` + okDesc + `]}`, "", `"layers" twice`},
		"layers in another case":          {okHead + `"config":` + okDesc + `,"layers":[],"Layers":[` + okDesc + `]}`, "", `"Layers"`},
		"manifests in another case":       {okHead + `"config":` + okDesc + `,"layers":[],"MANIFESTS":[]}`, "", `"MANIFESTS"`},
		"digest in another case":          {okHead + `"config":` + desc(`"digest"`, `"Digest"`) + `,"layers":[]}`, "", `"Digest"`},
		"digest twice":                    {okHead + `"config":` + desc(`"size"`, `"digest":"x","size"`) + `,"layers":[]}`, "", "twice"},
		"digest that is a path":           {okHead + `"config":` + desc(`sha256:ca97`, `sha256:../../`) + `,"layers":[]}`, "", "hex digits"},
		"digest in upper case":            {okHead + `"config":` + desc(`ca9781`, `CA9781`) + `,"layers":[]}`, "", "hex digits"},
		"digest with a newline":           {okHead + `"config":` + desc(`48bb"`, `48b\n"`) + `,"layers":[]}`, "", "invalid byte"},
		"digest without algorithm":        {okHead + `"config":` + desc(`sha256:`, ``) + `,"layers":[]}`, "", "sha256:"},
		"digest of another algorithm":     {okHead + `"config":` + desc(`sha256:`, `md5:`) + `,"layers":[]}`, "", "sha256:"},
		"empty digest":                    {okHead + `"config":` + desc(`sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb`, ``) + `,"layers":[]}`, "", "no digest"},
		"no config":                       {okHead + `"layers":[]}`, "", "config: no digest"},
		"negative size":                   {okHead + `"config":` + desc(`"size":1`, `"size":-1`) + `,"layers":[]}`, "", "size -1"},
		"size beyond int64":               {okHead + `"config":` + desc(`"size":1`, `"size":99999999999999999999`) + `,"layers":[]}`, "", "cannot unmarshal"},
		"config of a terabyte":            {okHead + `"config":` + desc(`"size":1`, `"size":1099511627776`) + `,"layers":[]}`, "", "more than"},
		"data after the document":         {okHead + `"config":` + okDesc + `,"layers":[]}{}`, "", "after the document"},
		"schema 1":                        {`{"schemaVersion":1,"fsLayers":[]}`, "", "schema 1"},
		"schema 1 in disguise":            {okHead + `"config":` + okDesc + `,"layers":[],"fsLayers":[]}`, "", "schema 1"},
		"unknown type":                    {`{"schemaVersion":2,"mediaType":"text/html","layers":[]}`, "", "not one of a container image"},
		"a list":                          {`[]`, "", "not a JSON object"},
		"deep nesting":                    {okHead + `"x":` + strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100) + `}`, "", "nested"},
		"too many layers":                 {okHead + `"config":` + okDesc + `,"layers":[` + strings.Repeat(okDesc+",", MaxEntries) + okDesc + `]}`, "", "4097 layers"},
		"too long":                        {okHead + `"x":"` + strings.Repeat("x", MaxSize) + `"}`, "", "more than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(tt.doc), tt.outer)
			if err == nil {
				t.Fatalf("taken for %+v", p.Descriptor)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
		})
	}
	if _, err := Parse([]byte(okHead+`"config":`+okDesc+`,"layers":[],"annotations":{"Layers":"x","layers":"y"}}`), ""); err != nil {
		t.Errorf("annotations may be named anything, got %v", err)
	}
}

func TestAttack25_BlobsAreReadToTheirSizeAndNoFurther(t *testing.T) {
	content := strings.Repeat("blob", 1000)
	d := Descriptor{Digest: digest.Of([]byte(content)), Size: int64(len(content))}
	tests := map[string]struct{ content, want string }{
		"whole":         {content, ""},
		"one byte more": {content + "x", "longer than"},
		"one byte less": {content[1:], "1 bytes short"},
		"another blob":  {strings.Repeat("bl0b", 1000), "has the digest"},
		"empty":         {"", "4000 bytes short"},
		"very long":     {strings.Repeat("x", 1<<20), "longer than"},
	}
	for name, tt := range tests {
		for kind, r := range map[string]io.Reader{
			"": strings.NewReader(tt.content), " byte by byte": iotest.OneByteReader(strings.NewReader(tt.content)),
			" with end": iotest.DataErrReader(strings.NewReader(tt.content)),
		} {
			b, err := io.ReadAll(d.Verify(r))
			if tt.want == "" {
				if err != nil || string(b) != content {
					t.Errorf("%s%s: %d bytes, %v", name, kind, len(b), err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s%s: error %v does not say %q", name, kind, err, tt.want)
			}
			if len(b) > len(content) {
				t.Errorf("%s%s: %d bytes came through, the blob has %d", name, kind, len(b), len(content))
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	b, d, _ := New(OCI, Descriptor{Digest: dA, Size: 5}, []Descriptor{{MediaType: OCILayer, Digest: dB}}, nil)
	f.Add(b, d.MediaType)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, outer string) {
		p, err := Parse(b, outer)
		if err != nil {
			return
		}
		if (p.Manifest == nil) == (p.Index == nil) || IsIndex(p.Descriptor.MediaType) != (p.Index != nil) {
			t.Errorf("%q is neither or both", b)
		}
	})
}
