package registry

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/whittle-build/whittle/internal/image/manifest"
)

// around puts an index that has the manifest or index inner alone under the same reference.
func around(t *testing.T, ref Ref, inner manifest.Descriptor) manifest.Descriptor {
	t.Helper()
	raw, d, err := manifest.NewIndex(manifest.OCI, []manifest.Descriptor{inner}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client().open(t.Context(), ref, transport.PushScope)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.putManifest(t.Context(), ref, raw, d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAnIndexMayBeInAnother(t *testing.T) {
	arm := manifest.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	for name, platform := range map[string]*manifest.Platform{"of a platform": &arm, "alone": nil} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			ref := f.ref("team/multi", "1")
			index(t, f, ref, "amd64", "arm/v7")
			r, err := client().Resolve(t.Context(), ref, arm)
			if err != nil {
				t.Fatal(err)
			}
			inner := *r.Index
			inner.Platform = platform
			outer := around(t, ref, inner)
			again, err := client().Resolve(t.Context(), ref, arm)
			if err != nil || again.Manifest.Digest != r.Manifest.Digest || again.Index.Digest != outer.Digest {
				t.Fatalf("%+v, %v; want the manifest %s of the index %s", again, err, r.Manifest.Digest, outer.Digest)
			}
			outer.Platform = platform
			around(t, ref, outer)
			if _, err := client().Resolve(t.Context(), ref, arm); err == nil || !strings.Contains(err.Error(), "an index within an index within an index") {
				t.Errorf("three in one another: %v", err)
			}
		})
	}
}
