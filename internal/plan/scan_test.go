package plan

import (
	"strings"
	"testing"
)

// TestScans: which stages an SBOM is to have is said by ARGs, as the reference reads them: of
// the stage, of the stage that it is from, of the file; true, or a list of names.
func TestScans(t *testing.T) {
	const rest = "RUN a\nFROM build AS more\nRUN b\nFROM scratch AS other\nCOPY --from=more /x /\nFROM scratch\nCOPY --from=other /x /\n"
	for name, c := range map[string]struct {
		text, arg string
		want      string // stages, and context
	}{
		"nothing":           {"FROM a AS build\n" + rest, "", ""},
		"a stage":           {"FROM a AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n" + rest, "", "build more"},
		"names":             {"FROM a AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=x,more\n" + rest, "", "more"},
		"the file":          {"ARG BUILDKIT_SBOM_SCAN_STAGE=1\nFROM a AS build\n" + rest, "", "build more other stage-3"},
		"not here":          {"ARG BUILDKIT_SBOM_SCAN_STAGE=1\nFROM a AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=false\n" + rest, "", "other stage-3"},
		"the build's":       {"FROM a AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n" + rest, "other,build", "build"},
		"an ARG without":    {"FROM a AS build\nARG BUILDKIT_SBOM_SCAN_STAGE\n" + rest, "", ""},
		"the file's number": {"ARG BUILDKIT_SBOM_SCAN_STAGE=stage-3\nFROM a AS build\n" + rest, "", "stage-3"},
		"the context":       {"ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nFROM a AS build\n" + rest, "", "context"},
		"another's context": {"FROM a AS build\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n" + rest, "", ""},
	} {
		p, err := plan(t, c.text, func(r *Request) {
			if c.arg != "" {
				r.Args = map[string]string{"BUILDKIT_SBOM_SCAN_STAGE": c.arg}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range p.Stages {
			if s.ScanStage {
				got = append(got, s.Display)
			}
		}
		if p.Target.ScanContext {
			got = append(got, "context")
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
