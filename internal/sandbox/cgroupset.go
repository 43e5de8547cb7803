package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
)

// Resources are limits that a control group sets. Zero values set none.
type Resources struct {
	Memory     int64  // bytes
	MemorySwap int64  // bytes, memory included; 0 is twice Memory, -1 is no limit
	CPUShares  uint64 // 2 to 262144; 1024 is the usual weight
	CPUPeriod  uint64 // microseconds
	CPUQuota   int64  // microseconds in each period
	CPUs, Mems string // lists of numbers, as "0-2,4"
	Pids       int64  // processes and threads; -1 is no limit
}

// setting is one file of a control group.
type setting struct {
	controller, file, value string
	optional                bool // nothing is set where the kernel has no such file
}

func (s *setting) write(dir string) error {
	err := writeSetting(dir, s.file, s.value)
	if s.optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pids is the limit of processes, as both versions have it.
func (r *Resources) pids() string {
	if r.Pids < 0 {
		return "max"
	}
	return strconv.FormatInt(r.Pids, 10)
}

func (r *Resources) v2() []setting {
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value, false}) }
	if r.Memory > 0 {
		add("memory", "memory.max", strconv.FormatInt(r.Memory, 10))
	}
	switch {
	case r.MemorySwap < 0:
		add("memory", "memory.swap.max", "max")
	case r.MemorySwap == 0 && r.Memory > 0: // as much again, as docker has it
		add("memory", "memory.swap.max", strconv.FormatInt(r.Memory, 10))
		out[len(out)-1].optional = true
	case r.MemorySwap > 0: // both together, in version 1
		add("memory", "memory.swap.max", strconv.FormatInt(max(r.MemorySwap-r.Memory, 0), 10))
	}
	if r.CPUShares > 0 {
		// As OCI runtimes do: 2…262144 onto 1…10000.
		add("cpu", "cpu.weight", strconv.FormatUint(1+(max(r.CPUShares, 2)-2)*9999/262142, 10))
	}
	if r.CPUQuota > 0 || r.CPUPeriod > 0 {
		quota, period := "max", uint64(100_000)
		if r.CPUQuota > 0 {
			quota = strconv.FormatInt(r.CPUQuota, 10)
		}
		if r.CPUPeriod > 0 {
			period = r.CPUPeriod
		}
		add("cpu", "cpu.max", fmt.Sprintf("%s %d", quota, period))
	}
	if r.CPUs != "" {
		add("cpuset", "cpuset.cpus", r.CPUs)
	}
	if r.Mems != "" {
		add("cpuset", "cpuset.mems", r.Mems)
	}
	if r.Pids != 0 {
		add("pids", "pids.max", r.pids())
	}
	return out
}

func (r *Resources) v1() []setting {
	var out []setting
	add := func(controller, file, value string) { out = append(out, setting{controller, file, value, false}) }
	if r.Memory > 0 {
		add("memory", "memory.limit_in_bytes", strconv.FormatInt(r.Memory, 10))
	}
	switch {
	case r.MemorySwap != 0:
		add("memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(r.MemorySwap, 10))
	case r.Memory > 0:
		add("memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(2*r.Memory, 10))
		out[len(out)-1].optional = true
	}
	if r.CPUShares > 0 {
		add("cpu", "cpu.shares", strconv.FormatUint(r.CPUShares, 10))
	}
	if r.CPUPeriod > 0 {
		add("cpu", "cpu.cfs_period_us", strconv.FormatUint(r.CPUPeriod, 10))
	}
	if r.CPUQuota > 0 {
		add("cpu", "cpu.cfs_quota_us", strconv.FormatInt(r.CPUQuota, 10))
	}
	if r.CPUs != "" {
		add("cpuset", "cpuset.cpus", r.CPUs)
	}
	if r.Mems != "" {
		add("cpuset", "cpuset.mems", r.Mems)
	}
	if r.Pids != 0 {
		add("pids", "pids.max", r.pids())
	}
	return out
}
