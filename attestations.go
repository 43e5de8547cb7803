package whittle

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/attest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/registry"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sbom"
)

// Modes of a provenance.
const (
	MinProvenance = "min" // what was fetched, from where, for what
	MaxProvenance = "max" // the Dockerfile, its arguments and steps besides
)

// attests says whether something is to be said of the image beside it.
func (r *Request) attests() bool { return r.Provenance != "" || r.SBOM }

// checkAttestations finds what would keep an attestation or a signature from being made.
func (b *build) checkAttestations() error {
	if b.req.Provenance != "" && b.req.Provenance != MinProvenance && b.req.Provenance != MaxProvenance {
		return &hinted{fmt.Errorf("provenance %q: there are min and max", b.req.Provenance), ""}
	}
	leaves := b.wants(func(o *Output) bool { return o.Push || o.Type == OCIOutput })
	if b.req.attests() && !leaves {
		return &hinted{errors.New("provenance, sbom: they stand beside an image in its index, and none is written"), "push the image, or add -o type=oci,dest=FILE"}
	}
	if b.req.SignKey == nil {
		return nil
	}
	if !b.wants(func(o *Output) bool { return o.Push }) {
		return &hinted{errors.New("sign: a signature lies beside an image in its registry, and none is pushed"), "add --push"}
	}
	var err error
	if b.key, err = attest.ParseKey(b.req.SignKey); err != nil {
		return &hinted{fmt.Errorf("sign: %w", err), "openssl ecparam -name prime256v1 -genkey -noout -out key.pem makes one"}
	}
	return nil
}

// attestations are what is said of the manifest d of p's image, which has these names.
func (p *part) attestations(ctx context.Context, d manifest.Descriptor, m *image.Image, names []image.Name) (attest.Document, error) {
	var purls []string
	for _, n := range names {
		purls = append(purls, purl(n.FamiliarRepository(), n.Tag, m.Platform()))
	}
	var list []attest.Statement
	if p.req.SBOM {
		claims, err := p.contents(ctx, d, m, purls)
		if err != nil {
			return attest.Document{}, fmt.Errorf("sbom: %w", err)
		}
		for _, claim := range claims {
			list = append(list, attest.About(d.Digest, purls, attest.SPDXType, claim))
		}
	}
	if p.req.Provenance != "" {
		claim := attest.New(p.external(), p.internal(), p.materials(), attest.Metadata{Invocation: p.invocation(), Started: p.began, Finished: p.opt.Now()})
		list = append(list, attest.About(d.Digest, purls, attest.ProvenanceType, claim))
	}
	return attest.Attestation(d, list)
}

// contents is what is in the image, and in stages of which that is wanted, by their merged
// views, with the stage that each file is from. It has the time of the image, so that the
// same image has the same.
func (p *part) contents(ctx context.Context, d manifest.Descriptor, m *image.Image, purls []string) (claims []any, err error) {
	if p.req.SBOMGenerator != "" {
		found, err := p.generated(ctx, m)
		for _, claim := range found {
			claims = append(claims, claim)
		}
		return claims, err
	}
	if err := p.lookInside(ctx); err != nil {
		return nil, err
	}
	name := "image"
	if len(purls) > 0 {
		name = purls[0]
	}
	for _, in := range p.inside {
		of, part, origin := name, "", func(path string) string { return in.from[path] }
		switch in.stage {
		case p.plan.Target:
		case nil:
			of, part = "build context of "+name, "/.context" // which is no stage's name
			origin = func(string) string { return fromContext }
		default:
			of, part = "stage "+in.stage.Display+" of "+name, "/"+in.stage.Display
		}
		doc := in.found.SPDX(of, d.Digest, m.Created, origin)
		doc.Namespace += part
		claims = append(claims, doc)
	}
	return claims, nil
}

// inside is what the file system of a stage has, and where each of its files is from.
type inside struct {
	stage *plan.Stage // nil is the build context
	found *sbom.Inventory
	from  map[string]string
}

// lookInside does so, once for all outputs and names: into the target, then into the other
// stages that an SBOM is to have, and the build context.
func (p *part) lookInside(ctx context.Context) error {
	if p.inside != nil {
		return nil
	}
	var list []inside
	for _, s := range append([]*plan.Stage{p.plan.Target}, p.alsoScanned()...) {
		chain := p.solved.Chain(s.Root)
		fsys, err := p.rootFS().View(ctx, chain)
		if err != nil {
			return err
		}
		found, err := sbom.Scan(ctx, fsys)
		if err != nil {
			return err
		}
		from, err := p.origins(ctx, s.Root, chain)
		if err != nil {
			return err
		}
		for _, gap := range found.Gaps() {
			p.note("sbom: stage %s: incomplete: %s", s.Display, gap)
		}
		list = append(list, inside{s, found, from})
	}
	if found := p.within.inContext; found != nil && p.hasContextToScan() {
		list = append(list, inside{found: found})
	}
	p.inside = list
	return nil
}

// fromContext is where files are from that nothing but the context has.
const fromContext = "the build context"

// scansContext says whether an SBOM of the build context is wanted.
func (b *build) scansContext(p *plan.Plan) bool { return b.req.SBOM && p.Target.ScanContext }

// hasContextToScan says so of p where there is a build context.
func (p *part) hasContextToScan() bool { return p.scansContext(p.plan) && p.main != nil }

// lookIntoContext finds out what the build context has, once for all parts, before anything runs:
// outputs may lie in it.
func (b *build) lookIntoContext(ctx context.Context, parts []*part) error {
	i := slices.IndexFunc(parts, (*part).hasContextToScan)
	if i < 0 || b.req.SBOMGenerator != "" {
		return nil
	}
	found, err := sbom.Scan(ctx, parts[i].main.FS)
	if err != nil {
		return fmt.Errorf("sbom: build context: %w", err)
	}
	for _, gap := range found.Gaps() {
		b.note("sbom: build context: incomplete: %s", gap)
	}
	b.inContext = found
	return nil
}

// alsoScanned are the stages besides the target of which the Dockerfile wants an SBOM.
func (p *part) alsoScanned() (list []*plan.Stage) {
	for _, s := range p.plan.Stages {
		if s.ScanStage && s != p.plan.Target && s.Root.Context == "" {
			list = append(list, s)
		}
	}
	return list
}

// origins tells of each file below root, whose layers are chain, where it is from: the base
// image, a stage, the context.
func (p *part) origins(ctx context.Context, root plan.Root, chain rootfs.Chain) (map[string]string, error) {
	names := make([]string, len(chain))
	i := len(chain) - 1
	for ; root.Step != nil; root = root.Step.Below {
		names[i] = originOf(root.Step)
		i--
	}
	for ; i >= 0; i-- {
		names[i] = "the base image"
		if root.Image != nil {
			names[i] += " " + root.Image.Name
		}
	}
	from := map[string]string{}
	for i, name := range names {
		l, err := p.rootFS().Layer(ctx, chain[:i+1])
		if err == nil {
			err = entry.Walk(l, ".", func(e entry.Entry) error {
				if e.Kind == entry.File {
					from[e.Path] = name
				}
				return nil
			})
		}
		if err != nil {
			return nil, err
		}
	}
	return from, nil
}

// originOf is where the files that a step writes are from.
func originOf(s *plan.Step) string {
	c := s.Copy
	switch {
	case c == nil:
		return "stage " + s.Stage.Display
	case c.FromStage != nil:
		return "stage " + c.FromStage.Display
	case c.From != nil:
		return c.FromText
	case len(c.Remotes) > 0 && len(c.Sources) == 0:
		return c.Remotes[0].Public()
	}
	return fromContext
}

// purl is the package URL of an image.
func purl(repository, tag string, p image.Platform) string {
	s := "pkg:docker/" + repository
	if tag != "" {
		s += "@" + tag
	}
	return s + "?platform=" + strings.ReplaceAll(p.String(), "/", "%2F")
}

// invocation names this run.
func (b *build) invocation() string {
	if id := b.log.name(); id != "" {
		return id
	}
	return rand.Text()
}

// external is what whoever asked for the build said. Of build arguments a provenance that
// is to have the least has none: they may be anything.
func (b *build) external() attest.External {
	x := attest.External{Source: attest.Source{Path: b.shortName()}, Request: map[string]any{"frontend": "dockerfile.v0"}}
	if b.kind == gitContext || b.kind == urlContext {
		x.Source.URI = address.Public(b.req.Context)
		if b.main != nil && b.main.from != nil {
			x.Source.URI, x.Source.Digest = b.main.from.URI, b.main.from.Digest
		}
	} else if b.kind == folderContext {
		x.Request["locals"] = []map[string]string{{"name": "context"}}
	}
	args := map[string]string{}
	if b.req.Target != "" {
		args["target"] = b.req.Target
	}
	if b.req.Platform != "" {
		args["platform"] = b.req.Platform
	}
	if b.req.Provenance == MaxProvenance {
		for k, v := range b.req.Args {
			if plan.IsProxy(k) {
				v = address.Proxy(v)
			}
			args["build-arg:"+k] = address.Redact(v)
		}
		for _, l := range b.req.Labels {
			k, v, _ := strings.Cut(l, "=")
			args["label:"+k] = address.Redact(v)
		}
		var secrets []map[string]string
		for _, s := range b.req.Secrets {
			secrets = append(secrets, map[string]string{"id": s.ID})
		}
		if secrets != nil {
			x.Request["secrets"] = secrets
		}
	}
	if len(args) > 0 {
		x.Request["args"] = args
	}
	return x
}

// internal is how this builder did it.
func (p *part) internal() map[string]any {
	in := map[string]any{"builderPlatform": platform().String()}
	if p.req.Provenance != MaxProvenance {
		return in
	}
	in["dockerfile"] = base64.StdEncoding.EncodeToString([]byte(address.Redact(string(p.text))))
	var steps []attest.Step
	for _, s := range p.plan.Steps {
		done := p.solved.Steps[s]
		one := attest.Step{Text: address.Redact(s.Line.Text), Stage: s.Stage.Display, Line: s.Line.Pos.Line,
			Key: done.Key.String(), Layer: done.Layer.String(), Cached: done.Cached}
		for _, d := range s.Deps {
			one.Inputs = append(one.Inputs, p.solved.Steps[d].Key.String())
		}
		steps = append(steps, one)
	}
	in["steps"] = steps
	return in
}

// materials are what the build fetched: base images, contexts, and what ADD names. An address
// of which the public part is another's too stands there for each content.
func (p *part) materials() []attest.Material {
	var list []attest.Material
	for ref, m := range p.images {
		d := m.Manifest
		if d.IsZero() {
			d = m.ID
		}
		name := ref.Name
		if n, err := image.ParseName(ref.Name); err == nil {
			name = purl(n.FamiliarRepository(), n.Tag, m.Platform())
		}
		list = append(list, attest.Material{URI: name, Digest: attest.SHA256(d)})
	}
	contexts := []*buildContext{p.main}
	for _, c := range p.named {
		contexts = append(contexts, c)
	}
	for _, c := range contexts {
		if c != nil && c.from != nil {
			list = append(list, *c.from)
		}
	}
	for _, s := range p.plan.Steps {
		if s.Copy == nil {
			continue
		}
		for _, r := range s.Copy.Remotes {
			list = append(list, p.material(&r))
		}
	}
	return attest.Sorted(list)
}

// material is what r is, as it came in this build: also a step that is cached asks for that.
func (b *build) material(r *plan.Remote) attest.Material {
	m := attest.Material{URI: r.Public()}
	if r.Repo != nil {
		m.Digest = attest.Commit(b.fetcher().Commit(r.Repo))
		return m
	}
	if d, ok := b.fetcher().Digest(fetch.Download{URL: r.URL, Checksum: r.Checksum}); ok {
		m.Digest = attest.SHA256(d)
	} else if hex, ok := strings.CutPrefix(r.Checksum, "sha256:"); ok {
		m.Digest = map[string]string{"sha256": hex}
	}
	return m
}

// putDocument stores a document in the repository of n by its digest alone.
func putDocument(ctx context.Context, client *registry.Client, n image.Name, doc attest.Document) error {
	n.Tag = ""
	return client.PutDocuments(ctx, reference(n), documents(doc))
}

func documents(doc attest.Document) *registry.Documents {
	docs := &registry.Documents{Raw: doc.Data, Descriptor: doc.Descriptor}
	for _, p := range doc.Parts {
		docs.Blobs = append(docs.Blobs, p.Data)
	}
	return docs
}

// sign puts a signature over the manifest d beside it, if the request has a key.
func (b *build) sign(ctx context.Context, client *registry.Client, n image.Name, d manifest.Descriptor) error {
	if b.key == nil {
		return nil
	}
	s, err := b.key.Signature(d, n.Repository())
	if err == nil {
		err = putSignature(ctx, client, n, s)
	}
	if err != nil {
		return fmt.Errorf("sign %s: %w", n.Familiar(), err)
	}
	b.note("signed: %s@%s", n.FamiliarRepository(), d.Digest)
	return nil
}

// putSignature adds s to the signatures in the repository of n, under their tag and among
// what refers to what is signed.
func putSignature(ctx context.Context, client *registry.Client, n image.Name, s *attest.Signature) error {
	n.Tag = s.Tag()
	var all []manifest.Descriptor
	err := client.Amend(ctx, reference(n), func(_ []byte, there *manifest.Parsed) (_ *registry.Documents, err error) {
		var added bool
		if all, added, err = s.Beside(there); err != nil || !added {
			return nil, err
		}
		doc, err := s.Tagged(all)
		return documents(doc), err
	})
	if err != nil {
		return err
	}
	doc, err := s.Referrer(all)
	if err != nil {
		return err
	}
	return putDocument(ctx, client, n, doc)
}
