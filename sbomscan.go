package whittle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
)

// Where a generator of SBOMs finds what it scans, and leaves what it found (BuildKit's
// "SBOM scanning protocol").
const (
	scanSource      = "/run/src/core/sbom"
	scanExtras      = "/run/src/extras"
	scanDestination = "/run/out/"
	scanStage       = "scan"
	scanTarget      = "target"
	contextExtra    = "context"
)

// maxClaim bounds one document of a generator.
const maxClaim = 64 << 20

// findGenerator looks for the image that scans, before anything runs.
func (b *build) findGenerator(ctx context.Context) (err error) {
	if b.req.SBOMGenerator == "" {
		return nil
	}
	for name := range b.req.SBOMParameters {
		if err := checkParameter(name); err != nil {
			return err
		}
	}
	here := platform()
	b.generator, err = b.resolve(ctx, plan.Ref{Name: b.req.SBOMGenerator, Platform: here}, b.req.Pull, b.sink)
	if err != nil {
		return fmt.Errorf("sbom: generator: %w", err)
	}
	if c := b.generator.Config.Config; len(c.Entrypoint)+len(c.Cmd) == 0 {
		return &hinted{fmt.Errorf("sbom: generator %s: has no program to run", b.req.SBOMGenerator), "a generator is an image whose ENTRYPOINT scans: docker/buildkit-syft-scanner is one"}
	}
	return nil
}

// scanVariable begins the names of variables by which a generator is told things.
const scanVariable = "BUILDKIT_SCAN_"

// checkParameter refuses names that are none of variables, and those that the protocol
// itself has a use for.
func checkParameter(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	switch {
	case name == "" || bad:
		return &hinted{fmt.Errorf("sbom: parameter %q of the generator: it becomes the variable %s%s, whose name has letters, digits and _ only", name, scanVariable, name), ""}
	case name == "SOURCE" || name == "SOURCE_EXTRAS" || name == "DESTINATION":
		return &hinted{fmt.Errorf("sbom: parameter %s of the generator: %s%[1]s says where things are, and is set by the build", name, scanVariable), ""}
	}
	return nil
}

// generated is what the generator finds in m, and in stages and the build context where that is wanted: a
// document for each file that it leaves. It runs as a step of a build of its own, and so not
// again for the same images.
func (p *part) generated(ctx context.Context, m *image.Image) (claims []json.RawMessage, err error) {
	contexts := map[string]string{}
	for i, what := range append([]*plan.Stage{nil}, p.alsoScanned()...) {
		name := scanTarget
		if what != nil {
			at := *p.plan
			at.Target, name = what, scanExtra(i)
			if m, err = p.makeImage(ctx, &at, p.solved); err != nil {
				return nil, err
			}
		}
		forget, why := p.catalogued(m)
		if why != nil {
			return nil, why
		}
		defer join(&err, forget)
		contexts[name] = "docker-image://" + m.ID.String()
	}
	return p.scanned(ctx, contexts)
}

// scanned has the generator run on these images.
func (p *part) scanned(ctx context.Context, contexts map[string]string) (claims []json.RawMessage, err error) {
	tmp, err := p.store.Temp("sbom")
	if err != nil {
		return nil, err
	}
	defer join(&err, tmp.Remove)
	empty, out := filepath.Join(tmp.Path, "context"), filepath.Join(tmp.Path, "out")
	if err := errors.Join(os.Mkdir(empty, 0o755), os.Mkdir(out, 0o755)); err != nil {
		return nil, err
	}
	args := map[string]string{}
	for name, value := range p.req.SBOMParameters {
		args[scanVariable+name] = value
	}
	var files *execute.Context
	if p.hasContextToScan() {
		files = p.main.Context
	}
	text, err := p.scanFile(slices.Sorted(maps.Keys(args)))
	if err != nil {
		return nil, err
	}
	_, err = p.Build(ctx, Request{
		Context: empty, File: "-", In: strings.NewReader(text), files: files, Contexts: contexts, Args: args,
		Outputs: []Output{{Type: LocalOutput, Dest: out}},
		// What is attested is to be trusted as what is built.
		CacheSignKey: p.req.CacheSignKey, CacheVerifyKey: p.req.CacheVerifyKey,
		Network: p.req.Network, Hosts: p.req.Hosts, StepOptions: StepOptions{Ulimits: p.req.Ulimits, ShmSize: p.req.ShmSize, Resources: p.req.Resources},
		Sink: &scanSink{partSink{next: p.within.sink, part: scans + p.number, quiet: true, prefix: "sbom"}},
	})
	if err != nil {
		return nil, fmt.Errorf("generator %s: %w", p.req.SBOMGenerator, err)
	}
	return readClaims(out)
}

// scans is above the numbers of all parts.
const scans = 1 << 20

// scanSink tells the steps of a scan, and not where its files go, nor what could be better
// in a Dockerfile that the user never saw.
type scanSink struct{ partSink }

// Emit implements progress.Sink.
func (s *scanSink) Emit(e progress.Event) {
	if e.Kind != progress.Warned && (e.Kind != progress.Note || e.Vertex > 0) {
		s.partSink.Emit(e)
	}
}

// catalogued makes an image one that a Dockerfile can name by its ID, until forget is called.
func (p *part) catalogued(m *image.Image) (forget func() error, err error) {
	if err := p.store.Pin(m.ID); err != nil {
		return nil, err
	}
	if _, err := p.catalog.Get(m.ID); err == nil {
		return func() error { return nil }, nil
	}
	if err := p.catalog.Put(m); err != nil {
		return nil, err
	}
	return func() error {
		s, err := p.catalog.Summary(m.ID)
		if err == nil && len(s.Names) == 0 {
			_, err = p.catalog.Drop(s)
		}
		return err
	}, nil
}

// scanFile is the Dockerfile of a scan with these arguments.
func (p *part) scanFile(args []string) (string, error) {
	from := p.within.generator
	c := from.Config.Config
	program, err := json.Marshal(slices.Concat(c.Entrypoint, c.Cmd))
	if err != nil {
		return "", err
	}
	dir := c.WorkingDir
	if dir == "" {
		dir = "/"
	}
	text := fmt.Sprintf("FROM %s AS %s\nWORKDIR %s\nWORKDIR %s\nENV %sSOURCE=%s %[5]sDESTINATION=%[3]s\n",
		from.ID, scanStage, scanDestination, quoted(dir), scanVariable, scanSource)
	run := fmt.Sprintf("RUN --mount=type=bind,from=%s,target=%s --mount=type=tmpfs,target=/tmp", scanTarget, scanSource)
	also := p.alsoScanned()
	for i, s := range also {
		run += fmt.Sprintf(" --mount=type=bind,from=%s,target=%s/sbom-%s", scanExtra(i+1), scanExtras, s.Display)
	}
	context := p.hasContextToScan()
	if context && slices.ContainsFunc(also, func(s *plan.Stage) bool { return s.Display == contextExtra }) {
		p.note("sbom: the generator does not see the build context: a stage that it sees is called %q, as the context is for it", contextExtra)
		context = false
	}
	if context {
		run += fmt.Sprintf(" --mount=type=bind,target=%s/sbom-%s", scanExtras, contextExtra)
	}
	if context || len(also) > 0 {
		text += fmt.Sprintf("ENV %sSOURCE_EXTRAS=%s\n", scanVariable, scanExtras)
	}
	for _, name := range args {
		text += "ARG " + name + "\n"
	}
	return text + fmt.Sprintf("%s %s\nFROM scratch\nCOPY --from=%s %s /\n", run, program, scanStage, scanDestination), nil
}

// scanExtra is what a scan calls the n-th of the images that it has besides the target.
func scanExtra(n int) string { return fmt.Sprintf("extra-%d", n) }

// quoted is a path as one word of an instruction.
func quoted(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(path) + `"`
}

// readClaims reads what a generator left: statements about SPDX, or SPDX itself; that of
// the image comes first.
func readClaims(dir string) (claims []json.RawMessage, err error) {
	root, err := os.OpenRoot(dir) // what is in it somebody else's program made
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	files, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	core := filepath.Base(scanSource) + ".spdx.json"
	slices.SortStableFunc(files, func(a, b fs.DirEntry) int { // by name already
		if a, b := a.Name() == core, b.Name() == core; a != b {
			return map[bool]int{true: -1, false: 1}[a]
		}
		return 0
	})
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".spdx.json") {
			continue
		}
		claim, err := readClaim(root, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		claims = append(claims, claim)
	}
	if len(claims) == 0 {
		return nil, &hinted{errors.New("the generator left no document"), "it has to write $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json"}
	}
	return claims, nil
}

func readClaim(root *os.Root, name string) (json.RawMessage, error) {
	st, err := root.Lstat(name)
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxClaim) {
		err = fmt.Errorf("want a file of at most %d bytes", maxClaim)
	}
	if err != nil {
		return nil, err
	}
	b, err := root.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Type      string          `json:"predicateType"`
		Predicate json.RawMessage `json:"predicate"`
		Version   string          `json:"spdxVersion"`
	}
	switch err := json.Unmarshal(b, &doc); {
	case err != nil:
		return nil, err
	case doc.Type == attest.SPDXType && len(doc.Predicate) > 0:
		return doc.Predicate, nil
	case doc.Version != "":
		return b, nil
	}
	return nil, fmt.Errorf("is not SPDX, nor a statement about it (predicateType %q)", doc.Type)
}
