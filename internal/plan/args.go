package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/lazyre"
)

// globals evaluates the ARGs before the first FROM. Without them no FROM can
// be read, so a mistake here ends the planning.
func (p *planner) globals() bool {
	before := len(p.errs)
	p.defaultsInFrom()
	p.global = p.metaArgs(p.req.Args, func(in *dockerfile.Instruction, err error) {
		p.fail(in.Pos, err.Error(), expansionHint(err))
	})
	return len(p.errs) == before
}

// metaArgs is the global scope under the given build arguments.
func (p *planner) metaArgs(given map[string]string, fail func(*dockerfile.Instruction, error)) *dockerfile.Vars {
	vars := p.predefined()
	p.meta = map[string]definition{}
	for _, in := range p.file.Args {
		arg := in.Command.(*dockerfile.Arg)
		p.declare(arg)
		for _, item := range arg.Items {
			def := definition{item: item, pos: in.Pos}
			if v, ok := given[item.Key]; ok {
				vars.Set(item.Key, v)
				def.value = v
			} else if item.Default != nil {
				out, err := p.x.Word(*item.Default, vars)
				if err != nil {
					fail(in, err)
					continue
				}
				vars.Set(item.Key, out.Text)
				def.value, def.needs = out.Text, out.Used
				if slices.Contains(out.Used, item.Key) {
					def.needs = slices.Concat(out.Used, p.meta[item.Key].needs)
				}
			}
			p.meta[item.Key] = def
		}
	}
	return vars
}

// predefined is what the global scope has without any ARG.
func (p *planner) predefined() *dockerfile.Vars {
	stage := p.req.Target
	if stage == "" {
		stage = p.file.Stages[len(p.file.Stages)-1].Name
	}
	if stage == "" {
		stage = "default"
	}
	build, target := p.req.BuildPlatform, p.target
	vars := dockerfile.NewVars(nil)
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", build.String()},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", ""},
		{"BUILDARCH", build.Arch},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", target.String()},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", ""},
		{"TARGETARCH", target.Arch},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	} {
		v := kv[1]
		if given, ok := p.req.Args[kv[0]]; ok {
			v = given
		}
		vars.Set(kv[0], v)
	}
	return vars
}

// reImageID is a text that can be an image's ID and so cannot be its name.
var reImageID = lazyre.New(`^[a-f0-9]{64}$`)

// defaultsInFrom warns of stages that have an image only when the right build
// arguments are given.
func (p *planner) defaultsInFrom() {
	ok := true
	vars := p.metaArgs(nil, func(*dockerfile.Instruction, error) { ok = false })
	if !ok {
		return
	}
	for _, s := range p.file.Stages {
		out, err := p.x.Word(s.Base, vars)
		if err != nil {
			return
		}
		// A comment above does not silence it, and a stage's name in upper case
		// is none either: the reference looks at the text alone.
		if dockerfile.CheckImageName(out.Text) != nil || reImageID.MatchString(out.Text) {
			p.lint.Report(s.Pos, "", dockerfile.InvalidDefaultArgInFrom(s.Base))
		}
	}
}

// IsProxy says whether name is that of a build argument which tells RUN of a proxy.
func IsProxy(name string) bool {
	return slices.Contains([]string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}, strings.ToLower(name))
}

// proxies is the environment of every RUN that stays out of its key: both
// spellings of each proxy among the build arguments.
func (p *planner) proxies() []string {
	values := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.req.Args)) {
		if IsProxy(name) {
			values[strings.ToLower(name)] = p.req.Args[name]
		}
	}
	var out []string
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		if v := values[name]; v != "" {
			out = append(out, strings.ToUpper(name)+"="+v, name+"="+v)
		}
	}
	return out
}

// expansionHint is the way out of a word that cannot be expanded.
func expansionHint(err error) string {
	msg := err.Error()
	switch {
	case strings.Contains(msg, "matching single-quote"), strings.Contains(msg, "matching double-quote"):
		return "close the quote; a quote that is meant literally needs \\ before it"
	case strings.Contains(msg, "missing '}'"):
		return "words are split at blanks first: put the whole word into double quotes, \"${a:-b c}\", or close the brace"
	case strings.Contains(msg, "bad substitution"), strings.Contains(msg, "unsupported modifier"):
		return "the forms are ${v} ${v:-word} ${v:+word} ${v:?message} ${v#pattern} ${v%pattern} ${v/pattern/text}"
	case strings.Contains(msg, "invalid pattern"):
		return "patterns know * and ? only, and \\ before them"
	case strings.Contains(msg, "more than 64 MB"):
		return "variables double each other"
	case strings.Contains(msg, "is not allowed to be"):
		return "give it a value: --build-arg NAME=value, or ENV NAME=value above"
	}
	return ""
}
