package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
)

// addOutputs adds the flags that say what a build leaves.
func (p *program) addOutputs(f *buildFlags, fl *pflag.FlagSet) {
	r := &f.request
	fl.VarP(&saying{f.said, "output"}, "output", "o",
		"leave the files of the stage in `DIR` (- is a tar on standard output), or type=image|registry|oci|docker|local|tar|none,KEY=VALUE…; may be repeated")
	fl.BoolVar(&r.Push, "push", false, "upload the image to the registries in its names, while it is made")
	if !p.docker { // whose store is whittle's
		fl.BoolVar(&r.Load, "load", false, "give the image to the Docker engine that is running: the layers that it lacks")
	}
	fl.StringVar(&f.provenance, "provenance", "false", "say beside an image that is pushed or in an OCI layout how it was made: `MODE` min or max (the Dockerfile, arguments and steps too)")
	fl.StringVar(&f.sbom, "sbom", "false", "say beside it what is in it, as SPDX: `true`, false, or generator=IMAGE[,PARAMETER=VALUE…] that finds it out")
	fl.StringArrayVar(&f.attests, "attest", nil, "the same in docker's words: `type=provenance`[,mode=max] or type=sbom[,generator=IMAGE[,PARAMETER=VALUE…]]; may be repeated")
	fl.Lookup("sbom").NoOptDefVal = "true"
	fl.StringVar(&f.signKey, "sign", "", "sign what is pushed with the key in `FILE`, as cosign does")
	fl.BoolVar(&r.Squash, "squash-final", false, "put what the final stage adds to its base image into one layer")
}

// outputOptions makes the request of them.
func (p *program) outputOptions(f *buildFlags) error {
	r := &f.request
	var err error
	if r.Outputs, err = parseOutputs(f.outputs); err != nil {
		return err
	}
	if len(f.stages) > 0 {
		return p.stageOptions(f)
	}
	l := f.leaves(r.Tags, r.Outputs)
	f.piped = slices.ContainsFunc(r.Outputs, func(o whittle.Output) bool { return o.Dest == "-" })
	switch {
	case r.Push && !l.named:
		return &usageError{errors.New("--push: the image has no name"), "say where it goes: -t HOST/NAME:TAG"}
	case r.AllowFailedOutput && !l.files:
		return &usageError{errors.New("--allow-failed-output: there is no output of files"), "say where the files go: --output DIR"}
	case f.idFile != "" && !l.images:
		return &usageError{errors.New("--iidfile: files and no image are to be left, so there is no ID"), "add -o type=image"}
	case r.Squash && !l.images:
		return &usageError{errors.New("--squash-final: files and no image are to be left, and files have no layers"), "leave it out, or add -o type=image"}
	case f.piped && isTerminal(p.stdout):
		return &usageError{errors.New("--output: a tar would go to the terminal"), "name a file: dest=FILE, or send it through a pipe"}
	}
	r.Out = p.stdout
	return nil
}

// leaving is what is left of a stage.
type leaving struct{ images, named, files bool }

// leaves is what the flags leave of a stage with these names and outputs.
func (f *buildFlags) leaves(tags []string, outputs []whittle.Output) leaving {
	l := leaving{named: len(tags) > 0}
	l.images = l.named || f.request.Push || f.request.Load || len(outputs) == 0
	for _, o := range outputs {
		l.images = l.images || o.HasImage()
		l.named = l.named || o.Type == whittle.ImageOutput && len(o.Names) > 0
		l.files = l.files || o.HasFiles()
	}
	return l
}

// stageOptions makes the targets of the request of several --target.
func (p *program) stageOptions(f *buildFlags) error {
	r := &f.request
	for _, s := range f.stages {
		outputs, err := parseOutputs(s.outputs)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(outputs, func(o whittle.Output) bool { return o.Dest == "-" }) {
			return &usageError{fmt.Errorf("--target %s: a tar does not go to standard output where there are several targets", s.stage), "name a file: dest=FILE"}
		}
		r.Targets = append(r.Targets, whittle.Target{Stage: s.stage, Tags: s.tags, Outputs: outputs})
	}
	if err := f.stagesFit(); err != nil {
		return err
	}
	for _, only := range []struct {
		set  bool
		flag string
	}{{r.OnFailure != "", "on-failure"}, {r.AllowFailedOutput, "allow-failed-output"}} {
		if only.set {
			return &usageError{fmt.Errorf("--%s: is for one target", only.flag), "build them one after the other"}
		}
	}
	return nil
}

// stagesFit finds flags for images where a target leaves none.
func (f *buildFlags) stagesFit() error {
	r := &f.request
	for _, t := range r.Targets {
		l := f.leaves(t.Tags, t.Outputs)
		switch {
		case r.Push && !l.named:
			return &usageError{fmt.Errorf("--push: the image of --target %s has no name", t.Stage), "say where it goes: -t HOST/NAME:TAG after it"}
		case f.idFile != "" && !l.images:
			return &usageError{fmt.Errorf("--iidfile: of --target %s files and no image are to be left, so there is no ID", t.Stage), "add -o type=image after it"}
		case r.Squash && !l.images:
			return &usageError{fmt.Errorf("--squash-final: of --target %s files and no image are to be left, and files have no layers", t.Stage), "build it alone"}
		}
	}
	return nil
}

func parseOutputs(texts []string) (list []whittle.Output, err error) {
	for _, text := range texts {
		o, err := parseOutput(text)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

// said is a flag with its value, in the order of the command line.
type said struct{ flag, value string }

// saying is the value of a flag whose place among others counts.
type saying struct {
	all  *[]said
	flag string
}

// Set implements pflag.Value.
func (s *saying) Set(value string) error {
	*s.all = append(*s.all, said{s.flag, value})
	return nil
}

// String implements pflag.Value: there is no default.
func (s *saying) String() string { return "" }

// Type implements pflag.Value.
func (s *saying) Type() string { return "string" }

// stageFlags are those of one of several --target.
type stageFlags struct {
	stage         string
	tags, outputs []string
}

func (f *stageFlags) add(s said) {
	if s.flag == "tag" {
		f.tags = append(f.tags, s.value)
	} else {
		f.outputs = append(f.outputs, s.value)
	}
}

// one refuses several targets or platforms for what is about one.
func (f *buildFlags) one(what string) error {
	if len(f.stages) > 0 || strings.Contains(f.request.Platform, ",") {
		return &usageError{fmt.Errorf("%s: is about one target and one platform", what), "name one --target and one --platform"}
	}
	return nil
}

// arrange gives -t and -o to the --target before them; with one target, or none, their order
// does not count.
func (f *buildFlags) arrange() error {
	var list []stageFlags
	all := stageFlags{}
	for _, s := range *f.said {
		if s.flag == "target" {
			all.stage = s.value
			list = append(list, stageFlags{stage: s.value})
			continue
		}
		all.add(s)
		if last := len(list) - 1; last >= 0 {
			list[last].add(s)
		}
	}
	r := &f.request
	if len(list) < 2 {
		r.Target, r.Tags, f.outputs = all.stage, all.tags, all.outputs
		return nil
	}
	n := 0
	for i, s := range list {
		n += len(s.tags) + len(s.outputs)
		if slices.ContainsFunc(list[:i], func(o stageFlags) bool { return strings.EqualFold(o.stage, s.stage) }) {
			return &usageError{fmt.Errorf("--target %s: is given twice", s.stage), "-t and -o may be repeated after it"}
		}
	}
	if n < len(all.tags)+len(all.outputs) {
		return &usageError{errors.New("-t or -o before the first of several --target"), "write them after the --target that they are of"}
	}
	f.stages = list
	return nil
}

// allTags are those of all targets.
func (f *buildFlags) allTags() []string {
	tags := f.request.Tags
	for _, s := range f.stages {
		tags = append(tags, s.tags...)
	}
	return tags
}

// parseOutput reads docker's --output.
func parseOutput(text string) (o whittle.Output, err error) {
	bad := func(msg, way string) (whittle.Output, error) {
		return whittle.Output{}, &usageError{fmt.Errorf("--output %q: %s", text, msg), way}
	}
	const form = "for example -o DIR, -o type=oci,dest=app.tar or -o type=registry,name=HOST/NAME:TAG"
	fields, err := csvFields(text)
	switch {
	case text == "-":
		return whittle.Output{Type: whittle.TarOutput, Dest: "-"}, nil
	case err != nil || text == "":
		return bad("want DIR or KEY=VALUE,KEY=VALUE…", form)
	case len(fields) == 1 && !strings.HasPrefix(text, "type=") && !strings.HasPrefix(text, "dest="):
		return whittle.Output{Type: whittle.LocalOutput, Dest: fields[0]}, nil
	}
	seen := map[string]bool{}
	slices.SortStableFunc(fields, func(a, b string) int { return cmp.Compare(keyRank(a), keyRank(b)) })
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if k = strings.TrimSpace(k); seen[k] {
			return bad(k+" is given twice", "write the flag once more for another output")
		}
		seen[k] = true
		if !ok {
			return bad(fmt.Sprintf("%q: want KEY=VALUE", field), form)
		}
		if err := setOutput(&o, k, v); err != nil {
			return bad(err.Error(), whittle.Hint(err))
		}
	}
	if !seen["type"] {
		return bad("has no type", form)
	}
	if o.Dest == "" && !o.Folder && (o.Type == whittle.TarOutput || o.Type == whittle.OCIOutput) {
		o.Dest = "-" // as docker's client has it, where that is no terminal
	}
	if err := o.Check(); err != nil {
		return bad(err.Error(), whittle.Hint(err))
	}
	return o, nil
}

// keyRank puts keys before others of an output that mean something else with them: the order in
// which they are written does not count.
func keyRank(field string) int {
	k, _, _ := strings.Cut(field, "=")
	switch strings.TrimSpace(k) {
	case "type":
		return 0
	case "push-by-digest":
		return 1
	}
	return 2
}

// idleOutputs are options of the reference's exporters that say how its daemon keeps an
// image, with the one value that is true here.
var idleOutputs = map[string]string{
	"unpack": "false", "store": "true", "dangling-name-prefix": "", "buildinfo": "false", "oci-artifact": "true",
}

// setOutput sets one option of --output.
func setOutput(o *whittle.Output, k, v string) (err error) {
	flag := func(into *bool, yes bool) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%s %q: want true or false", k, v)
		}
		*into = b == yes
		return nil
	}
	switch k {
	case "type":
		return setType(o, v)
	case "dest":
		o.Dest = v
	case "name":
		for name := range strings.SplitSeq(v, ",") {
			o.Names = append(o.Names, strings.TrimSpace(name))
		}
	case "push":
		return flag(&o.Push, true)
	case "push-by-digest":
		return flag(&o.ByDigest, true)
	case "tar":
		return flag(&o.Folder, false)
	case "compression":
		o.Form.Format = v
	case "compression-level":
		if o.Form.Level, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("compression-level %q: want a number", v)
		}
	case "force-compression":
		return flag(&o.Force, true)
	case "oci-mediatypes":
		return flag(&o.DockerTypes, false)
	case "platform-split":
		err := flag(&o.Split, true)
		o.Together = !o.Split
		return err
	case "rewrite-timestamp":
		return flag(&o.RewriteTimes, true)
	default:
		if kind, key, ok := annotated(k); ok {
			o.Annotations = append(o.Annotations, kind+":"+key+"="+v)
			return nil
		}
		return setIdle(o, k, v)
	}
	return nil
}

// setIdle takes what says how the reference's daemon keeps an image, with the value that is true
// here.
func setIdle(o *whittle.Output, k, v string) error {
	only, idle := idleOutputs[k]
	switch {
	case idle && v == only, k == "name-canonical" && (v == "false" || v == "true" && o.ByDigest):
		return nil // of what is pushed by digest there is no other name
	case k == "name-canonical":
		return fmt.Errorf("name-canonical %q: goes with push-by-digest=true", v)
	case k == "registry.insecure":
		return errors.New("registry.insecure: how a registry is reached stands in whittle.toml: [registry.\"HOST\"] http = true, or insecure = true")
	case idle:
		return fmt.Errorf("%s %q: there is %s only", k, v, only)
	}
	return fmt.Errorf("unknown key %q", k)
}

func setType(o *whittle.Output, v string) error {
	switch v {
	case "registry":
		o.Type, o.Push = whittle.ImageOutput, true
	case "cacheonly":
		o.Type = whittle.NoOutput
	case whittle.ImageOutput, whittle.OCIOutput, whittle.DockerOutput, whittle.LocalOutput, whittle.TarOutput, whittle.NoOutput:
		o.Type = v
	default:
		return fmt.Errorf("type %q: there are image, registry, oci, docker, local, tar and none", v)
	}
	return nil
}

// annotated takes annotation-KIND[PLATFORM].KEY apart. The kind may be missing.
func annotated(k string) (kind, key string, ok bool) {
	rest, ok := strings.CutPrefix(k, "annotation")
	if !ok {
		return "", "", false
	}
	at := 0
	if i := strings.IndexByte(rest, ']'); i >= 0 {
		at = i // a platform may have a dot
	}
	dot := strings.IndexByte(rest[at:], '.')
	if dot < 0 || at+dot+1 == len(rest) {
		return "", "", false
	}
	kind, key = strings.TrimPrefix(rest[:at+dot], "-"), rest[at+dot+1:]
	if kind == "" || kind[0] == '[' {
		kind = "manifest" + kind
	}
	return kind, key, true
}
