package plan

import (
	"slices"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// lintPlatformOf tells an image, of FROM, COPY --from or a mount at pos, that is
// for another platform than was asked for. As in the reference, what has no
// layers or is given by name (a named context) is for any.
func (p *planner) lintPlatformOf(ref *Ref, given bool, pos dockerfile.Pos) {
	base := p.req.Images[*ref]
	if given || base.Unknown || hasNoLayers(base.Config) {
		return
	}
	c := base.Config
	want, is := ref.Platform, Platform{c.OS, c.Architecture, c.Variant}
	if want.OS == is.OS && want.Arch == is.Arch {
		return
	}
	actual := is.Normalize().String()
	if is.OS == "" || is.Arch == "" {
		actual = orLinux(is.OS)
	}
	p.lint.Report(pos, "", dockerfile.InvalidBaseImagePlatform(ref.Name, want.Normalize().String(), actual))
}

func hasNoLayers(c *config.Image) bool {
	return len(c.DiffIDs) == 0 && !slices.ContainsFunc(c.History, func(h config.History) bool { return !h.EmptyLayer })
}

func orLinux(os string) string {
	if os == "" {
		return "linux"
	}
	return os
}
