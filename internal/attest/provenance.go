package attest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
)

// buildType says what the parts of a provenance mean.
const buildType = "https://github.com/whittle-build/whittle/blob/main/docs/attestations.md#provenance"

// builderID is the program by its module's path.
const builderID = "pkg:golang/github.com/whittle-build/whittle"

// Provenance is SLSA's, version 1: what an image was made from, how, and by what.
type Provenance struct {
	Definition Definition `json:"buildDefinition"`
	Details    Details    `json:"runDetails"`
}

// Definition is what the build depends on.
type Definition struct {
	Type     string         `json:"buildType"`
	External External       `json:"externalParameters"`
	Internal map[string]any `json:"internalParameters,omitempty"`
	Resolved []Material     `json:"resolvedDependencies,omitempty"`
}

// External is what whoever asked for the build said.
type External struct {
	Source  Source         `json:"configSource"`
	Request map[string]any `json:"request"`
}

// Source is where the Dockerfile is from.
type Source struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
	Path   string            `json:"path"`
}

// Material is something that was fetched.
type Material struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// SHA256 is a digest as statements have it; nil for none.
func SHA256(d digest.Digest) map[string]string {
	if d.IsZero() {
		return nil
	}
	return map[string]string{"sha256": d.Hex()}
}

// Commit is the id of one of git as statements have it; nil for none. Those of repositories
// with SHA-256 are longer.
func Commit(id string) map[string]string {
	switch len(id) {
	case 0:
		return nil
	case 64:
		return map[string]string{"sha256": id}
	}
	return map[string]string{"sha1": id}
}

// Sorted puts materials in order, each once.
func Sorted(list []Material) []Material {
	slices.SortFunc(list, func(a, b Material) int {
		return cmp.Or(cmp.Compare(a.URI, b.URI), cmp.Compare(fmt.Sprint(a.Digest), fmt.Sprint(b.Digest)))
	})
	return slices.CompactFunc(list, func(a, b Material) bool { return a.URI == b.URI && maps.Equal(a.Digest, b.Digest) })
}

// Details are of the one run that made the image.
type Details struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder is who ran it: this program, wherever that was. Nobody answers for the machine.
type Builder struct {
	ID string `json:"id"`
}

// Metadata is when.
type Metadata struct {
	Invocation string    `json:"invocationId"`
	Started    time.Time `json:"startedOn"`
	Finished   time.Time `json:"finishedOn"`
}

// Step is an instruction, in a provenance that has all.
type Step struct {
	Text   string   `json:"text"`
	Stage  string   `json:"stage"`
	Line   int      `json:"line"`
	Key    string   `json:"key"`
	Layer  string   `json:"layer"`
	Inputs []string `json:"inputs,omitempty"` // keys
	Cached bool     `json:"cached,omitempty"`
}

// New makes a provenance; what is fetched comes in the order in which it is told.
func New(external External, internal map[string]any, resolved []Material, m Metadata) Provenance {
	m.Started, m.Finished = m.Started.UTC().Truncate(time.Second), m.Finished.UTC().Truncate(time.Second)
	return Provenance{
		Definition: Definition{Type: buildType, External: external, Internal: internal, Resolved: resolved},
		Details:    Details{Builder: Builder{builderID}, Metadata: m},
	}
}
