package main

import (
	"encoding/json"
	"net/url"
	"slices"
	"testing"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// TestSARIFHasTheShapeThatItsSpecificationAsksFor reads the document back as
// plain JSON, and holds it against what SARIF 2.1.0 says of each part.
func TestSARIFHasTheShapeThatItsSpecificationAsksFor(t *testing.T) {
	file := dockerfile.Warning{Rule: "BuildArgNotUsed", Msg: "about no line", Own: true}
	b, err := json.Marshal(sarif(&whittle.Checked{
		File: "a b/Docker:file", Source: []byte("FROM a\nRUN b\n"),
		Warnings: []dockerfile.Warning{
			{Rule: "R1", Line: 1, EndLine: 2, Text: "FROM a", Msg: "m", About: "about", URL: "https://example.com/r1", Hint: "h"},
			{Rule: "R2", Line: 2, Text: "RUN b", Msg: "m"}, {Rule: "R1", Line: 2, EndLine: 2, Msg: "again"}, file,
		},
		Mistakes: dockerfile.Errors{{File: "f", Line: 2, EndLine: 2, Msg: "wrong"}},
	}, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	type text struct{ Text string }
	var doc struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID               string
						ShortDescription *text
						HelpURI          string
					}
				}
			}
			Artifacts []struct{ Location struct{ URI string } }
			Results   []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Message   text
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct {
							URI   string
							Index int
						}
						Region *struct{ StartLine, EndLine int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "2.1.0" || doc.Schema == "" || len(doc.Runs) != 1 {
		t.Fatalf("version %q, schema %q, %d runs", doc.Version, doc.Schema, len(doc.Runs))
	}
	run := doc.Runs[0]
	rules := run.Tool.Driver.Rules
	if run.Tool.Driver.Name == "" || len(rules) != 4 || len(run.Results) != 5 || len(run.Artifacts) != 1 {
		t.Fatalf("driver %+v, %d results, %d artifacts; want 4 rules, 5, 1", run.Tool.Driver, len(run.Results), len(run.Artifacts))
	}
	var levels []string
	for _, r := range run.Results {
		levels = append(levels, r.Level)
		if r.RuleIndex < 0 || r.RuleIndex >= len(rules) || rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("rule %q has the index %d of %+v", r.RuleID, r.RuleIndex, rules)
		}
		if r.Message.Text == "" || len(r.Locations) != 1 {
			t.Fatalf("result %+v", r)
		}
		at := r.Locations[0].PhysicalLocation
		if at.ArtifactLocation.URI != run.Artifacts[at.ArtifactLocation.Index].Location.URI {
			t.Errorf("artifact %+v is not in %+v", at.ArtifactLocation, run.Artifacts)
		}
		if u, err := url.Parse(at.ArtifactLocation.URI); err != nil || u.Scheme != "" {
			t.Errorf("%q is no reference to a file: %v", at.ArtifactLocation.URI, err)
		}
		if (at.Region == nil) != (r.RuleID == file.Rule) {
			t.Errorf("%s: region %+v", r.RuleID, at.Region)
		}
		if at.Region != nil && (at.Region.StartLine < 1 || at.Region.EndLine < at.Region.StartLine) {
			t.Errorf("%s: region %+v", r.RuleID, at.Region)
		}
	}
	if want := []string{"error", "warning", "warning", "warning", "note"}; !slices.Equal(levels, want) {
		t.Errorf("levels %v, want %v", levels, want)
	}
}
