package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGrowth(t *testing.T) {
	for live, want := range map[uint64]int{0: mostPercent, 1 << 20: mostPercent, garbage: 100, 2 * garbage: 50, 100 * garbage: leastPercent} {
		if got := growth(live); got != want {
			t.Errorf("growth(%d) = %d, want %d", live, got, want)
		}
	}
}

func TestGarbageIsBoundedWhenTheHeapIsLarge(t *testing.T) {
	t.Setenv("GOGC", "")
	boundGarbage()
	use := make([]byte, 300<<20)
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	var last uint64
	for range 50 { // the bound follows a collection, and holds from the next one on
		runtime.GC()
		metrics.Read(goal)
		if last = goal[0].Value.Uint64(); last < 400<<20 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if last >= 400<<20 {
		t.Errorf("a heap of %d MB may grow to %d MB", len(use)>>20, last>>20)
	}
	runtime.KeepAlive(use)
}
