package plan

import (
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/lazyre"
)

// Platform is an operating system and a kind of processor.
type Platform struct{ OS, Arch, Variant string }

// String returns os/arch or os/arch/variant.
func (p Platform) String() string {
	if p.Variant == "" {
		return p.OS + "/" + p.Arch
	}
	return p.OS + "/" + p.Arch + "/" + p.Variant
}

// IsZero reports whether p says nothing.
func (p Platform) IsZero() bool { return p == Platform{} }

var rePlatformPart = lazyre.New(`^[A-Za-z0-9_.-]+$`)

// ParsePlatform reads "linux/arm64", "linux/arm/v7", "arm64" or "linux"; here
// gives what is left out.
func ParsePlatform(s string, here Platform) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if !rePlatformPart.MatchString(part) {
			return Platform{}, fmt.Errorf("%q: invalid platform component %q", s, part)
		}
	}
	switch len(parts) {
	case 1:
		return parseOnePart(s, here)
	case 2, 3:
		p := Platform{OS: parts[0], Arch: parts[1]}
		if len(parts) == 3 {
			p.Variant = parts[2]
		}
		return p.Normalize(), nil
	}
	return Platform{}, fmt.Errorf("%q: a platform is os/arch or os/arch/variant", s)
}

func parseOnePart(s string, here Platform) (Platform, error) {
	p := Platform{OS: s}.Normalize()
	switch p.OS {
	case "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos", "aix", "plan9", "android", "wasip1", "js":
		p.Arch, p.Variant = here.Arch, here.Variant
		return p, nil
	}
	p = Platform{OS: here.OS, Arch: s}.Normalize()
	switch p.Arch {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm":
		return p, nil
	}
	return Platform{}, fmt.Errorf("%q: unknown operating system or architecture", s)
}

// Normalize returns p in the words that images use.
func (p Platform) Normalize() Platform {
	n := manifest.Platform{OS: p.OS, Architecture: p.Arch, Variant: p.Variant}.Normal()
	return Platform{OS: n.OS, Arch: n.Architecture, Variant: n.Variant}
}
