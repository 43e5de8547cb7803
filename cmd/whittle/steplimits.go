package main

import (
	"fmt"
	"regexp"

	"github.com/whittle-build/whittle/internal/sandbox"
)

var reNumbers = regexp.MustCompile(`^(?:\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)?$`)

// checkLimits refuses what no kernel takes, before anything is built: a step
// that ran before would hide it.
func checkLimits(r *sandbox.Resources) error {
	bad := func(flag string, value any, msg, way string) error {
		return &usageError{fmt.Errorf("%s %q: %s", flag, fmt.Sprint(value), msg), way}
	}
	switch {
	case r.MemorySwap > 0 && r.Memory == 0:
		return bad("--memory-swap", r.MemorySwap, "wants --memory too, which it includes", "for example --memory 512m --memory-swap 1g")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("--memory-swap", r.MemorySwap, "less than --memory, which it includes", "for example --memory 512m --memory-swap 1g; the same number for both is no swap")
	case r.CPUPeriod > 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1_000_000):
		return bad("--cpu-period", r.CPUPeriod, "want microseconds from 1000 to 1000000", "leave it out: 100000 is the usual one")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return bad("--cpu-quota", r.CPUQuota, "want microseconds from 1000", "for example --cpu-quota 50000: half a processor")
	case !reNumbers.MatchString(r.CPUs):
		return bad("--cpuset-cpus", r.CPUs, "want numbers of processors", "for example --cpuset-cpus 0-2,4")
	case !reNumbers.MatchString(r.Mems):
		return bad("--cpuset-mems", r.Mems, "want numbers of memory nodes", "for example --cpuset-mems 0,1")
	}
	return nil
}
