package solve

import (
	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/plan"
)

// testBase is a base image of one layer.
func testBase() *plan.Base {
	return &plan.Base{ID: digest.Of([]byte("base")), Config: &config.Image{
		OS: "linux", Architecture: "amd64", DiffIDs: []digest.Digest{digest.Of([]byte("layer"))},
	}}
}
