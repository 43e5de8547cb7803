package whittle

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Result is what a build leaves.
type Result struct {
	Stage string        // that was asked for; "" is the last one
	ID    digest.Digest // of the image: SHA-256 of its config; zero when none was wanted
	// Manifest names the manifest that was pushed, or if none was, written to an archive, with
	// its platform; nil when there is none. Of several it is the last.
	Manifest *manifest.Descriptor
	Names    []string // that it was given
	Size     int64    // bytes of its files, as Docker counts them
	Layers   int
	Behind   []Behind // what the other stages left behind
	Cached   int      // steps whose layer was there already
	Ran      int      // steps that were run
	Took     time.Duration
	// Platforms are the images of a stage for several platforms, and Parts the
	// results of several stages, of which only counts and time are then summed up here.
	Platforms []PlatformImage
	Parts     []*Result
}

// IDs are those of all images that were made, in the order of stages and platforms.
func (res *Result) IDs() []digest.Digest {
	var ids []digest.Digest
	for _, p := range res.Parts {
		ids = append(ids, p.IDs()...)
	}
	for _, p := range res.Platforms {
		ids = append(ids, p.ID)
	}
	if len(ids) == 0 && !res.ID.IsZero() {
		ids = append(ids, res.ID)
	}
	return ids
}

// counts is what a build has done that leaves nothing.
func (res *Result) counts() *Result {
	if res == nil {
		return nil
	}
	return &Result{Cached: res.Cached, Ran: res.Ran, Took: res.Took}
}

// manifestIs notes the manifest of what was written. Archives come before registries, so that
// what one of those has counts.
func (res *Result) manifestIs(d manifest.Descriptor) { res.Manifest = &d }

// Behind is a stage that is not part of the image.
type Behind struct {
	Stage string `json:"stage"`
	Bytes int64  `json:"bytes"` // of its layers that the image does not have
}

// metadata is the document of --metadata-file. The first keys are the reference
// builder's.
type metadata struct {
	ConfigDigest string    `json:"containerimage.config.digest,omitempty"`
	Descriptor   any       `json:"containerimage.descriptor,omitempty"`
	Digest       string    `json:"containerimage.digest,omitempty"`
	Names        string    `json:"image.name,omitempty"` // with commas
	Size         int64     `json:"whittle.image.size,omitempty"`
	Platforms    any       `json:"whittle.platforms,omitempty"`
	Behind       []Behind  `json:"whittle.left.behind,omitempty"`
	Cached       int       `json:"whittle.steps.cached"`
	Ran          int       `json:"whittle.steps.ran"`
	Error        *badBuild `json:"whittle.error,omitempty"`
}

type badBuild struct {
	Message  string   `json:"message"`
	ExitCode int      `json:"exitCode,omitempty"` // of the RUN that failed
	Args     []string `json:"args,omitempty"`
}

// document is what res has for --metadata-file.
func (res *Result) document() (m metadata) {
	if !res.ID.IsZero() {
		m.ConfigDigest = res.ID.String()
	}
	if res.Manifest != nil {
		m.Descriptor, m.Digest = res.Manifest, res.Manifest.Digest.String()
	}
	if len(res.Platforms) > 0 {
		m.ConfigDigest, m.Platforms = "", res.Platforms
	}
	m.Names, m.Size = strings.Join(res.Names, ","), res.Size
	m.Behind, m.Cached, m.Ran = res.Behind, res.Cached, res.Ran
	return m
}

// Metadata writes what a build did as JSON, also of one that failed; res is
// nil when it failed before a step was looked at. Several stages are below their names.
func Metadata(res *Result, failure error) ([]byte, error) {
	var m metadata
	if res != nil {
		m = res.document()
	}
	if failure != nil {
		m.Error = &badBuild{Message: failure.Error()}
		var exit *execute.ExitError
		if errors.As(failure, &exit) {
			m.Error.ExitCode = exit.Status.Code
			for _, a := range exit.Args {
				m.Error.Args = append(m.Error.Args, address.Redact(a))
			}
		}
	}
	var doc any = m
	if res != nil && failure == nil && len(res.Parts) > 1 {
		parts := map[string]metadata{}
		for _, p := range res.Parts {
			parts[p.Stage] = p.document()
		}
		doc = parts
	} else if res != nil && len(res.Parts) == 1 && failure == nil {
		doc = res.Parts[0].document()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a RUN's > and && stay readable
	enc.SetIndent("", "  ")
	err := enc.Encode(doc)
	return b.Bytes(), err
}
