package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/sandbox"
)

var reNumbers = lazyre.New(`^(?:\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)?$`)

// checkLimits refuses what no kernel takes, before anything is built: a step
// that ran before would hide it.
func checkLimits(r *sandbox.Resources) error {
	bad := func(flag string, value any, msg, way string) error {
		return &usageError{fmt.Errorf("%s %q: %s", flag, fmt.Sprint(value), msg), way}
	}
	switch {
	case r.Pids < -1:
		return bad("--pids-limit", r.Pids, "want a number from 1", "-1 is no limit")
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

// wholeCPUs reads --cpus, docker's short form of --cpu-period and --cpu-quota.
func wholeCPUs(text string, r *sandbox.Resources) error {
	if text == "" {
		return nil
	}
	const period = 100_000
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0.01 && n <= 1<<20) {
		return &usageError{fmt.Errorf("--cpus %q: want a number of processors from 0.01", text), "for example --cpus 1.5"}
	}
	if r.CPUQuota != 0 || r.CPUPeriod != 0 {
		return &usageError{fmt.Errorf("--cpus %q: --cpu-quota and --cpu-period say the same in another way", text), "leave them out, or --cpus"}
	}
	r.CPUPeriod, r.CPUQuota = period, int64(math.Round(n*period))
	return nil
}
