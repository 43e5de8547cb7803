package whittle

import (
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/plan"
)

var reAnnotationKind = lazyre.New(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)

// CheckNames says what is wrong with the platforms and the annotations, by their
// form alone.
func (r *Request) CheckNames() error {
	platforms := r.platforms()
	for _, name := range platforms {
		if name == "" && len(platforms) > 1 {
			return &hinted{fmt.Errorf("--platform %s: one of them is empty", r.Platform), "for example --platform linux/amd64,linux/arm64"}
		}
		one := *r
		one.Platform = name
		target, err := one.wanted()
		if err == nil {
			_, err = annotationsOf(r.Annotations, target, len(platforms) > 1 || r.attests())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// annotations are what is said of the documents of an image.
type annotations struct {
	manifest  map[string]string
	index     map[string]string // of an image for several platforms, or with an attestation
	described map[string]string // of the manifest's descriptor in that
}

// any says whether something is said.
func (a *annotations) any() bool { return len(a.manifest)+len(a.index)+len(a.described) > 0 }

// annotationsOf reads KEY=VALUE, before it perhaps kinds of documents, each perhaps with a
// platform, and a colon. index says that there is an index.
func annotationsOf(texts []string, target plan.Platform, index bool) (a annotations, err error) {
	a = annotations{map[string]string{}, map[string]string{}, map[string]string{}}
	for _, text := range texts {
		full, value, ok := strings.Cut(text, "=")
		kinds, key, typed := strings.Cut(full, ":")
		if !typed {
			kinds, key = "manifest", full
		}
		if !ok || key == "" {
			return a, &hinted{fmt.Errorf("--annotation %q: want KEY=VALUE", text), "for example --annotation org.opencontainers.image.source=https://example.com/app"}
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			of, err := a.of(text, kind, target, index)
			if err != nil {
				return a, err
			}
			if of != nil {
				of[key] = value
			}
		}
	}
	return a, nil
}

// of returns those of a kind of document; nil where that is another platform's.
func (a *annotations) of(text, kind string, target plan.Platform, index bool) (map[string]string, error) {
	m := reAnnotationKind.FindStringSubmatch(kind)
	if m == nil {
		return nil, &hinted{fmt.Errorf("--annotation %q: %q is no kind of document", text, kind), "write manifest:KEY=VALUE or manifest[linux/amd64]:KEY=VALUE"}
	}
	of, known := map[string]map[string]string{"manifest": a.manifest, "index": a.index, "manifest-descriptor": a.described, "index-descriptor": nil}[m[1]]
	switch {
	case !known:
		return nil, &hinted{fmt.Errorf("--annotation %q: unknown kind %q", text, m[1]), "the kind that there is is manifest; leave it out"}
	case m[1] != "manifest" && !index:
		return nil, &hinted{fmt.Errorf("--annotation %q: an image for one platform has no index, and so no %s to annotate", text, m[1]),
			"leave the prefix out: it goes into the manifest"}
	case m[1] == "index-descriptor":
		return nil, &hinted{fmt.Errorf("--annotation %q: nothing here has an index-descriptor to annotate", text), "write index: for the index itself"}
	case m[2] == "":
		return of, nil
	case m[1] == "index":
		return nil, &hinted{fmt.Errorf("--annotation %q: an index is of no platform", text), "leave [" + m[2] + "] out"}
	}
	p, err := plan.ParsePlatform(m[2], platform())
	if err != nil {
		return nil, &hinted{fmt.Errorf("--annotation %q: %w", text, err), "write manifest[linux/amd64]:KEY=VALUE"}
	}
	if target.IsZero() {
		target = platform()
	}
	if p.Normalize() != target.Normalize() {
		return nil, nil
	}
	return of, nil
}
