package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/digest"
)

// platform reads OS/ARCH or OS/ARCH/VARIANT.
func platform(s string) Platform {
	parts := strings.Split(s+"/", "/")
	return Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}

func TestNormalUsesTheWordsOfImages(t *testing.T) {
	tests := map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "Linux/AMD64/v1": "linux/amd64", "macOS/arm64": "darwin/arm64",
		"linux/arm64/v8": "linux/arm64", "linux/arm64/8": "linux/arm64", "linux/aarch64": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "linux/arm/6": "linux/arm/v6",
		"linux/armel": "linux/arm/v6", "linux/armhf": "linux/arm/v7", "linux/armhf/v6": "linux/arm/v7",
		"linux/i386": "linux/386", "linux/i386/x": "linux/386", "windows/amd64": "windows/amd64",
		"linux/amd64/v3": "linux/amd64/v3", "linux/riscv64": "linux/riscv64",
	}
	for in, want := range tests {
		if got := platform(in).Normal().String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestPickTakesTheBestVariantThatRuns(t *testing.T) {
	tests := []struct{ have, want, pick string }{
		{"linux/amd64 linux/arm64/v8", "linux/amd64", "linux/amd64"},
		{"linux/amd64 linux/arm64/v8", "linux/arm64", "linux/arm64/v8"},
		{"linux/arm/v5 linux/arm/v7 linux/arm/v6", "linux/arm", "linux/arm/v7"},
		{"linux/arm/v5 linux/arm/v7 linux/arm/v6", "linux/arm/v6", "linux/arm/v6"},
		{"linux/arm/v5 linux/arm/v7", "linux/arm/v6", "linux/arm/v5"},
		{"linux/arm/v6", "linux/arm/v7", "linux/arm/v6"},
		{"linux/arm/v7", "linux/arm/v6", ""},
		{"linux/arm/v7", "linux/arm64", ""},
		{"linux/amd64/v3 linux/amd64", "linux/amd64", "linux/amd64"},
		{"linux/amd64/v3 linux/amd64", "linux/amd64/v4", "linux/amd64/v3"},
		{"linux/amd64/v3", "linux/amd64", ""},
		{"windows/amd64", "linux/amd64", ""},
		{"unknown/unknown linux/s390x", "linux/s390x", "linux/s390x"},
		{"unknown/unknown", "linux/amd64", ""},
	}
	for _, tt := range tests {
		var x Index
		for s := range strings.FieldsSeq(tt.have) {
			p := platform(s)
			x.Manifests = append(x.Manifests, Descriptor{MediaType: OCIManifest, Digest: digest.Of([]byte(s)), Platform: &p})
		}
		d, err := x.Pick(platform(tt.want))
		if tt.pick == "" {
			var e *PlatformError
			if !errors.As(err, &e) {
				t.Errorf("%s of %s: got %v, %v, want a PlatformError", tt.want, tt.have, d.Platform, err)
			}
			continue
		}
		if err != nil || d.Digest != digest.Of([]byte(tt.pick)) {
			t.Errorf("%s of %s: got %v, %v, want %s", tt.want, tt.have, d.Platform, err, tt.pick)
		}
	}
}

func TestPickSaysWhatTheIndexHas(t *testing.T) {
	x := Index{Manifests: []Descriptor{
		{MediaType: OCIManifest, Platform: &Platform{OS: "linux", Architecture: "s390x"}},
		{MediaType: OCIManifest, Platform: &Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}},
		{MediaType: OCIManifest, Platform: &Platform{OS: "unknown", Architecture: "unknown"}},
	}}
	_, err := x.Pick(Platform{OS: "linux", Architecture: "amd64"})
	want := "no image for linux/amd64; there is linux/arm64, linux/s390x"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
