package plan

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// chain is n stages, each on the one above it.
func chain(n int) string {
	var b strings.Builder
	b.WriteString("FROM scratch AS s0\nARG V=1\nENV A=$V\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "FROM s%d AS s%d\nENV B=%d C=$A\nRUN make $B\nCOPY f%d /f\n", i-1, i, i, i)
	}
	return b.String()
}

// fanIn is n stages, of which the last copies from all others.
func fanIn(n int) string {
	var b strings.Builder
	for i := range n - 1 {
		fmt.Fprintf(&b, "FROM scratch AS s%d\nARG V=1\nENV A=$V\nRUN make %d\n", i, i)
	}
	b.WriteString("FROM scratch\n")
	for i := range n - 1 {
		fmt.Fprintf(&b, "COPY --from=s%d /f /f%d\n", i, i)
	}
	return b.String()
}

func planOf(tb testing.TB, src string) *Plan {
	tb.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(src))
	if err != nil {
		tb.Fatal(err)
	}
	p, err := New(Request{File: f, BuildPlatform: amd64})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func BenchmarkPlan1000Stages(b *testing.B) {
	for name, src := range map[string]string{"chain": chain(1000), "fanin": fanIn(1000)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				planOf(b, src)
			}
		})
	}
}

// fanOut is n stages on one, which has a history of its own.
func fanOut(n int) string {
	var b strings.Builder
	b.WriteString("FROM scratch AS base\n" + strings.Repeat("ENV A=1\n", 20))
	for i := range n - 2 {
		fmt.Fprintf(&b, "FROM base AS s%d\nRUN make\n", i)
	}
	b.WriteString("FROM base\n")
	for i := range n - 2 {
		fmt.Fprintf(&b, "COPY --from=s%d /f /f%d\n", i, i)
	}
	return b.String()
}

// backwards is n stages that each copy from the one below: all are mistakes.
func backwards(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "FROM scratch AS s%d\nCOPY --from=s%d /f /\n", i, min(i+1, n-1))
	}
	return b.String()
}

// TestPlanningIsLinearInStages counts what planning allocates, in bytes and in
// pieces: four times the stages may cost little more than four times as much.
// A loop over all stages inside another, or a copy of what grows with each
// stage, costs sixteen times as much.
func TestPlanningIsLinearInStages(t *testing.T) {
	const small, factor, most = 250, 4, 5.5
	for name, source := range map[string]func(int) string{"chain": chain, "fan in": fanIn, "fan out": fanOut, "backwards": backwards} {
		t.Run(name, func(t *testing.T) {
			bytes, pieces := planningCosts(t, source(small))
			moreBytes, morePieces := planningCosts(t, source(factor*small))
			if r := float64(moreBytes) / float64(bytes); r > most {
				t.Errorf("%d stages allocate %d bytes, %d allocate %d: %.1f times as much", small, bytes, factor*small, moreBytes, r)
			}
			if r := float64(morePieces) / float64(pieces); r > most {
				t.Errorf("%d stages make %d allocations, %d make %d: %.1f times as many", small, pieces, factor*small, morePieces, r)
			}
		})
	}
}

func planningCosts(t *testing.T, src string) (bytes, pieces uint64) {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := New(Request{File: f, BuildPlatform: amd64, AllStages: true}); err != nil && !errors.As(err, &dockerfile.Errors{}) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, after.Mallocs - before.Mallocs
}
