package main

import (
	"strings"
	"testing"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/digest"
)

func TestTheVerdictOnImagesIsAboutTheirDigests(t *testing.T) {
	a, b := digest.Of([]byte("a")), digest.Of([]byte("b"))
	for want, v := range map[string]whittle.Verification{
		"\nreproducible: " + a.String() + " both times\n":                                         {ID: a, Second: a},
		"\nreproducible but for the times in the image's history: ":                               {ID: a, Second: b},
		"\nreproducible but for the times of 2 files: ":                                           {ID: a, Second: b, Times: 2},
		"\nthe configs of the images differ\n\nnot reproducible: " + a.String() + ", and ":        {ID: a, Second: b, Config: true},
		"\nthe base image\n    the layer differs, though no file in it does: " + a.String():       {ID: a, Second: b, Layers: []whittle.LayerVerification{{First: a, Second: b}}},
		"\nDockerfile:2: [app 1/2] RUN x\n    the layer differs, though no file in it does: sha2": {ID: a, Second: b, Layers: []whittle.LayerVerification{{Label: "[app 1/2] RUN x", File: "Dockerfile", Line: 2, First: a, Second: b}}},
	} {
		if got := verdict(&v); !strings.Contains(got, want) {
			t.Errorf("%+v:\n%s\nwant in it %q", v, got, want)
		}
	}
}
