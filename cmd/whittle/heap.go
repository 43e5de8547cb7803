package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Garbage may take this much memory, or a seventh of what is in use where that
// is more: a context of a million files takes as much as it has to, and not
// twice that.
const (
	garbage      = 48 << 20
	leastPercent = 15
	mostPercent  = 400
)

// boundGarbage sets after each collection how far the heap may grow until the
// next, unless the environment does.
func boundGarbage() {
	if os.Getenv("GOGC") != "" {
		return
	}
	type tick [64]byte // which nothing refers to, so that a collection ends it
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var collected func(*tick)
	collected = func(*tick) {
		metrics.Read(live)
		debug.SetGCPercent(growth(live[0].Value.Uint64()))
		runtime.SetFinalizer(new(tick), collected)
	}
	debug.SetGCPercent(mostPercent)
	runtime.SetFinalizer(new(tick), collected)
}

// growth is by how many hundredths a heap of so many bytes may grow.
func growth(live uint64) int {
	return int(min(max(100*garbage/max(live, 1), leastPercent), mostPercent))
}
