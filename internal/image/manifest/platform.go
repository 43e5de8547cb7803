package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// Platform is what a manifest runs on.
type Platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`
}

// String returns the os/arch or os/arch/variant form.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// aliases are other names of architectures: uname's and Debian's. A name that
// says a variant goes before what a variant says itself, as containerd has it.
var aliases = map[string]Platform{
	"x86_64": {Architecture: "amd64"}, "x86-64": {Architecture: "amd64"},
	"i386": {Architecture: "386"}, "i686": {Architecture: "386"},
	"aarch64": {Architecture: "arm64"},
	"armhf":   {Architecture: "arm", Variant: "v7"},
	"armel":   {Architecture: "arm", Variant: "v6"},
}

// Normal returns p with Go's names in lower case and with a variant that says
// nothing left out: amd64/v1 is amd64 and arm64/v8 is arm64, while arm is
// arm/v7.
func (p Platform) Normal() Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	if a, ok := aliases[p.Architecture]; ok {
		p.Architecture = a.Architecture
		if a.Variant != "" || a.Architecture == "386" {
			p.Variant = a.Variant
		}
	}
	if len(p.Variant) == 1 && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch p.Architecture + "/" + p.Variant {
	case "amd64/v1", "arm64/v8":
		p.Variant = ""
	case "arm/":
		p.Variant = "v7"
	}
	return p
}

// variants lists, best first, the variants that a machine of platform p runs:
// its own, then what its instruction set contains.
func variants(p Platform) []string {
	var order []string
	switch p.Architecture {
	case "arm":
		order = []string{"v8", "v7", "v6", "v5"}
	case "amd64":
		order = []string{"v4", "v3", "v2", ""}
	case "arm64":
		order = []string{"v9", ""}
	}
	if i := slices.Index(order, p.Variant); i >= 0 {
		return order[i:]
	}
	if p.Variant != "" {
		return []string{p.Variant}
	}
	return []string{""}
}

// Runs reports whether an image for have runs on a machine of platform want;
// rank is 0 for the same platform and grows with the distance.
func Runs(want, have Platform) (rank int, ok bool) {
	want, have = want.Normal(), have.Normal()
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0, false
	}
	if want.OSVersion != "" && have.OSVersion != "" && want.OSVersion != have.OSVersion {
		return 0, false
	}
	rank = slices.Index(variants(want), have.Variant)
	return rank, rank >= 0
}

// isImage reports whether d is an image that says what it runs on, which
// attestations and artifacts do not.
func (d Descriptor) isImage() bool {
	return d.Platform != nil && d.Platform.OS != "unknown" && known(d.MediaType)
}

// Platforms lists what the images of the index run on, in its order.
func (x *Index) Platforms() []Platform {
	var out []Platform
	for _, d := range x.Manifests {
		if d.isImage() {
			out = append(out, d.Platform.Normal())
		}
	}
	return out
}

// Pick returns the manifest of the index that fits want best: the same
// variant, else the next lower one that want can run, and of equals the first.
// When none fits the error lists what there is.
func (x *Index) Pick(want Platform) (Descriptor, error) {
	best, bestRank := -1, 0
	for i, d := range x.Manifests {
		if !d.isImage() {
			continue
		}
		rank, ok := Runs(want, *d.Platform)
		if ok && (best < 0 || rank < bestRank) {
			best, bestRank = i, rank
		}
	}
	if best >= 0 {
		return x.Manifests[best], nil
	}
	if len(x.Manifests) == 1 && x.Manifests[0].Platform == nil && known(x.Manifests[0].MediaType) {
		return x.Manifests[0], nil // one manifest that does not say its platform
	}
	var have []string
	for _, p := range x.Platforms() {
		have = append(have, p.String())
	}
	slices.Sort(have)
	return Descriptor{}, &PlatformError{Want: want.Normal(), Have: slices.Compact(have)}
}

// PlatformError says that an index has no image for a platform.
type PlatformError struct {
	Want Platform
	Have []string
}

func (e *PlatformError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("no image for %s: the index lists no platform at all", e.Want)
	}
	return fmt.Sprintf("no image for %s; there is %s", e.Want, strings.Join(e.Have, ", "))
}

// Hint says what to do about it.
func (e *PlatformError) Hint() string {
	if len(e.Have) == 0 {
		return ""
	}
	return "ask for one of them with --platform " + e.Have[0]
}
