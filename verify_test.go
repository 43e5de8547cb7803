package whittle_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/whittle-build/whittle"
)

// Whether images are the same their digests say: also where no step of the two builds made
// another file.
func TestVerifyTellsOfImagesThatDifferWithoutAFile(t *testing.T) {
	for name, tt := range map[string]struct {
		env    func(n int32) string
		change bool // of the base, between the builds
		ok     func(v *whittle.Verification) bool
	}{
		"nothing": {func(int32) string { return "same" }, false, func(v *whittle.Verification) bool {
			return v.Same() && v.Reproducible()
		}},
		"the config": {func(n int32) string { return fmt.Sprint(n) }, false, func(v *whittle.Verification) bool {
			return !v.Same() && !v.Reproducible() && v.Config && len(v.Layers) == 0
		}},
		"the base": {func(int32) string { return "same" }, true, func(v *whittle.Verification) bool {
			return !v.Same() && !v.Reproducible() && !v.Config && len(v.Layers) == 1 && v.Layers[0].Label == "" && v.Layers[0].First != v.Layers[0].Second
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newWorkshop(t, "tree")
			base := func(text string) {
				if _, err := h.Import(t.Context(), bytes.NewReader(tarOf(t, map[string]string{"bin/x": text})), "base", nil, ""); err != nil {
					t.Error(err)
				}
			}
			base("one")
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := asked.Add(1)
				if tt.change && n == 2 {
					base("two")
				}
				fmt.Fprintf(w, "FROM base\nENV A=%s\nWORKDIR /made\n", tt.env(n))
			}))
			defer s.Close()
			v, err := h.Verify(t.Context(), whittle.Request{Context: s.URL + "/Dockerfile", SourceDateEpoch: "1000000000"})
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Steps) > 0 || !tt.ok(v) {
				t.Errorf("%+v", v)
			}
		})
	}
}
