package dockerfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkParse reads the examples one after the other, and one file of a
// thousand stages.
func BenchmarkParse(b *testing.B) {
	names, err := filepath.Glob("../../examples/*/Dockerfile")
	if err != nil || len(names) < 6 {
		b.Fatalf("examples: %q, %v", names, err)
	}
	var texts [][]byte
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil {
			b.Fatal(err)
		}
		texts = append(texts, text)
	}
	wide := []byte(strings.Repeat("FROM scratch\nARG V=1\nENV A=$V\nRUN --mount=type=cache,target=/c make\nCOPY --chown=1:1 a b /c/\n", 1000))
	for what, list := range map[string][][]byte{"examples": texts, "1000-stages": {wide}} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, text := range list {
					if _, err := Parse("Dockerfile", text); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
