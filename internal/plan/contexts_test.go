package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
)

func TestContextName(t *testing.T) {
	for in, want := range map[string]string{
		"busybox": "busybox", "busybox:latest": "busybox", "docker.io/library/busybox:latest": "busybox",
		"index.docker.io/library/busybox:1": "busybox:1", "library/a": "a", "library/a/b": "library/a/b",
		"docker.io/me/app": "me/app", "quay.io/library/a:latest": "quay.io/library/a",
		"a:latest@sha256:0": "a:latest@sha256:0", "src": "src",
	} {
		if got := ContextName(in); got != want {
			t.Errorf("ContextName(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNamedContextsReplace(t *testing.T) {
	type contexts = map[string]NamedContext
	tests := map[string]struct {
		src      string
		contexts contexts
		images   string // that are asked for
		text     string // of all steps, and what they copy from
	}{
		"an image by files": {"FROM busybox\nRUN x", contexts{"busybox": {}}, "",
			"FROM busybox<busybox; RUN x"},
		"an image by its full name": {"FROM docker.io/library/busybox:latest\nRUN x", contexts{"busybox": {}}, "",
			"FROM docker.io/library/busybox:latest<busybox; RUN x"},
		"not by another tag":  {"FROM busybox:1\nRUN x", contexts{"busybox": {}}, "busybox:1", "RUN x"},
		"an image by another": {"FROM busybox\nRUN x", contexts{"busybox": {Image: "alpine:3"}}, "alpine:3", "RUN x"},
		"an image by nothing": {"FROM busybox\nRUN x", contexts{"busybox": {Image: "scratch"}}, "", "RUN x"},
		"a stage, whose steps are skipped": {"FROM busybox AS b\nRUN x\nCOPY --from=alpine /a /\nFROM b\nRUN y",
			contexts{"b": {Image: "debian"}}, "debian", "RUN y"},
		"a stage by files": {"FROM busybox AS B\nRUN x\nFROM scratch\nCOPY --from=B /a /", contexts{"b": {}}, "",
			"FROM busybox AS B<b; COPY --from=B /a /"},
		"what COPY --from names": {"FROM scratch\nCOPY --from=src /a /\nCOPY --from=busybox:latest /b /\nCOPY --from=other /c /",
			contexts{"src": {}, "busybox": {Image: "scratch"}}, "other",
			"COPY --from=src /a /<src; COPY --from=busybox:latest /b /<; COPY --from=other /c /"},
		"for one platform": {"FROM scratch\nCOPY --from=src /a /", contexts{"src": {Image: "one"}, "src::linux/amd64": {}}, "",
			"COPY --from=src /a /<src::linux/amd64"},
		"of FROM's platform": {"FROM --platform=linux/arm64 src\nRUN x", contexts{"src": {Image: "one"}, "src::linux/arm64": {Image: "arm"}}, "arm", "RUN x"},
		"not scratch":        {"FROM scratch\nCOPY --from=scratch / /", contexts{"scratch": {}}, "", "COPY --from=scratch / /<"},
		"not context":        {"FROM context\nRUN x", contexts{"context": {}}, "context", "RUN x"},
		"nothing":            {"FROM busybox\nRUN x", contexts{"src": {Image: "one"}}, "busybox", "RUN x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var asked []string
			p, err := plan(t, tt.src, func(r *Request) { r.Contexts = tt.contexts })
			if err != nil {
				t.Fatal(err)
			}
			var text []string
			for _, s := range p.Steps {
				one := s.Line.Text
				if s.Copy != nil && s.Copy.From != nil && s.Copy.From.Image == nil && s.Copy.From.Step == nil {
					one += "<" + s.Copy.From.Context
				}
				text = append(text, one)
			}
			for _, st := range p.Stages {
				if st.Base.Image != nil {
					asked = append(asked, st.Base.Image.Name)
				}
			}
			for _, s := range p.Steps {
				if s.Copy != nil && s.Copy.From != nil && s.Copy.From.Image != nil && !slices.Contains(asked, s.Copy.From.Image.Name) {
					asked = append(asked, s.Copy.From.Image.Name)
				}
			}
			slices.Sort(asked)
			if got := strings.Join(slices.Compact(asked), " "); got != tt.images {
				t.Errorf("images %q, want %q", got, tt.images)
			}
			got := strings.Join(text, "; ")
			// A copy from the root of a stage of files reads that stage's step.
			if got != tt.text {
				t.Errorf("steps %s\nwant  %s", got, tt.text)
			}
		})
	}
}

func TestReplacedStageHasItsContextsConfig(t *testing.T) {
	base := image(config.Config{Env: []string{"A=1"}, OnBuild: []string{"RUN never"}})
	p, err := planWith(t, "FROM busybox AS b\nARG X\nENV A=2\nFROM b\nENV B=$A", map[string]*Base{"img": base}, func(r *Request) {
		r.Contexts = map[string]NamedContext{"b": {Image: "img"}}
		r.Args = map[string]string{"X": "1"}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Target.Config.Config.Getenv("B"); got != "1" {
		t.Errorf("B is %q, want the context's A", got)
	}
	if len(p.Steps) != 0 || len(p.Warnings) != 0 {
		t.Errorf("steps %v, warnings %v: want none", p.Steps, p.Warnings)
	}
}
