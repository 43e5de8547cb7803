package whittle

import (
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/plan"
)

var reAnnotationKind = lazyre.New(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)

// CheckNames says what is wrong with the platform and the annotations, by their
// form alone.
func (r *Request) CheckNames() error {
	target, err := r.wanted()
	if err == nil {
		_, err = annotationsOf(r.Annotations, target)
	}
	return err
}

// annotationsOf reads what is said of the manifest: KEY=VALUE, before it perhaps
// kinds of documents, each perhaps with a platform, and a colon.
func annotationsOf(texts []string, target plan.Platform) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range texts {
		full, value, ok := strings.Cut(text, "=")
		kinds, key, typed := strings.Cut(full, ":")
		if !typed {
			kinds, key = "manifest", full
		}
		if !ok || key == "" {
			return nil, &hinted{fmt.Errorf("--annotation %q: want KEY=VALUE", text), "for example --annotation org.opencontainers.image.source=https://example.com/app"}
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			mine, err := forManifest(text, kind, target)
			if err != nil {
				return nil, err
			}
			if mine {
				out[key] = value
			}
		}
	}
	return out, nil
}

// forManifest reports whether a kind is the manifest of the platform target.
func forManifest(text, kind string, target plan.Platform) (bool, error) {
	m := reAnnotationKind.FindStringSubmatch(kind)
	if m == nil {
		return false, &hinted{fmt.Errorf("--annotation %q: %q is no kind of document", text, kind), "write manifest:KEY=VALUE or manifest[linux/amd64]:KEY=VALUE"}
	}
	switch m[1] {
	case "manifest":
	case "index", "index-descriptor", "manifest-descriptor":
		return false, &hinted{fmt.Errorf("--annotation %q: an image for one platform has no index, and so no %s to annotate", text, m[1]),
			"leave the prefix out: it goes into the manifest"}
	default:
		return false, &hinted{fmt.Errorf("--annotation %q: unknown kind %q", text, m[1]), "the kind that there is is manifest; leave it out"}
	}
	if m[2] == "" {
		return true, nil
	}
	p, err := plan.ParsePlatform(m[2], platform())
	if err != nil {
		return false, &hinted{fmt.Errorf("--annotation %q: %w", text, err), "write manifest[linux/amd64]:KEY=VALUE"}
	}
	if target.IsZero() {
		target = platform()
	}
	return p.Normalize() == target.Normalize(), nil
}
