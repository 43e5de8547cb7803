package plan

import (
	"strings"
	"testing"
)

// TestFrontendArguments: of the arguments that the reference reads itself,
// each has its effect here, is refused, or is told to have none.
func TestFrontendArguments(t *testing.T) {
	for name, c := range map[string]struct{ value, rule, says string }{
		"BUILDKIT_SYNTAX":            {"docker/dockerfile:1", "", ""},
		"BUILDKIT_SANDBOX_HOSTNAME":  {"h", "", ""},
		"BUILDKIT_INLINE_CACHE":      {"1", "BuildArgIdle", "carry no cache"},
		"BUILDKIT_MULTI_PLATFORM":    {"true", "BuildArgIdle", "one platform"},
		"BUILDKIT_ATTEST_SBOM":       {"generator=x", "BuildArgIdle", "attestations"},
		"BUILDKIT_ATTEST_PROVENANCE": {"false", "", ""},
		"BUILDKIT_CACHE_MOUNT_NZ":    {"x", "BuildArgNotUsed", ""},
		"BUILDKIT_DISABLE_FILEOP":    {"0", "BuildArgNotUsed", ""},
	} {
		p, err := plan(t, "FROM a", func(r *Request) { r.Args = map[string]string{name: c.value} })
		if err != nil {
			t.Fatal(err)
		}
		rule, says := "", ""
		for _, w := range p.Warnings {
			rule, says = w.Rule, w.Msg
		}
		if rule != c.rule || !strings.Contains(says, c.says) {
			t.Errorf("%s=%s: %q: %q, want %q: …%q", name, c.value, rule, says, c.rule, c.says)
		}
	}
	_, err := plan(t, "FROM a", func(r *Request) { r.Args = map[string]string{"BUILDKIT_DISABLE_FILEOP": "1"} })
	if err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("BUILDKIT_DISABLE_FILEOP=1: %v", err)
	}
}
