package whittle_test

import (
	"fmt"
	"testing"

	"github.com/whittle-build/whittle"
)

// BenchmarkNoOp is a build that finds everything done, in a store that is open:
// of a tiny context, and of one with 10 000 files.
func BenchmarkNoOp(b *testing.B) {
	for _, files := range []int{1, 10_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			h := newWorkshop(b, "tree")
			in := map[string]string{"Dockerfile": "FROM scratch\nWORKDIR /app\nCOPY src .\nFROM scratch\nCOPY --from=0 /app /app\nENTRYPOINT [\"/app/main\"]\n"}
			for i := range files {
				in[fmt.Sprintf("src/%02d/%03d", i/100, i%100)] = "content\n"
			}
			req := whittle.Request{Context: folder(b, in)}
			if _, err := h.Build(b.Context(), req); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				r, err := h.Build(b.Context(), req)
				if err != nil || r.Ran != 0 {
					b.Fatalf("%d steps ran (%v)", r.Ran, err)
				}
			}
		})
	}
}
