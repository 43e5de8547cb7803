package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

var amd64 = Platform{OS: "linux", Arch: "amd64"}

// image is a base image with the given config; every image of a test that is
// not in its map is imageOf("A=base").
func image(c config.Config) *Base {
	return &Base{
		ID: digest.Of([]byte("base")),
		Config: &config.Image{
			OS: "linux", Architecture: "amd64", Config: c,
			DiffIDs: []digest.Digest{digest.Of([]byte("layer"))},
			History: []config.History{{CreatedBy: "base"}},
		},
	}
}

// plan makes a plan, giving each image that it asks for.
func plan(t *testing.T, src string, change func(*Request)) (*Plan, error) {
	t.Helper()
	return planWith(t, src, nil, change)
}

func planWith(t *testing.T, src string, images map[string]*Base, change func(*Request)) (*Plan, error) {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(src))
	if err != nil {
		return nil, err
	}
	r := Request{File: f, BuildPlatform: amd64, Images: map[Ref]*Base{}}
	if change != nil {
		change(&r)
	}
	for range 10 {
		p, err := New(r)
		var missing *Missing
		if !errors.As(err, &missing) {
			return p, err
		}
		for _, ref := range missing.Refs {
			r.Images[ref] = image(config.Config{Env: []string{"PATH=/bin"}})
			if img := images[ref.Name]; img != nil {
				r.Images[ref] = img
			}
		}
	}
	t.Fatal("New asks for images again and again")
	return nil, nil
}

func mustPlan(t *testing.T, src string) *Plan {
	t.Helper()
	p, err := plan(t, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mistakes plans and returns what is wrong, one line each, with hints.
func mistakes(t *testing.T, src string, change func(*Request)) []string {
	t.Helper()
	_, err := plan(t, src, change)
	var errs dockerfile.Errors
	if err != nil && !errors.As(err, &errs) {
		t.Fatalf("error is a %T: %v", err, err)
	}
	var out []string
	for _, e := range errs {
		out = append(out, fmt.Sprintf("%v | %s", e, e.Hint))
	}
	return out
}

// history is the created_by texts of the target, "!" before those without a
// layer.
func history(p *Plan) []string {
	var out []string
	for _, h := range p.Target.Config.History {
		if h.Comment != config.Comment {
			continue
		}
		s := h.CreatedBy
		if h.EmptyLayer {
			s = "!" + s
		}
		out = append(out, s)
	}
	return out
}

func stageNames(p *Plan) string {
	var out []string
	for _, s := range p.Stages {
		out = append(out, s.Display)
	}
	return strings.Join(out, " ")
}

func warnings(p *Plan, rule string) []dockerfile.Warning {
	var out []dockerfile.Warning
	for _, w := range p.Warnings {
		if w.Rule == rule {
			out = append(out, w)
		}
	}
	return out
}
