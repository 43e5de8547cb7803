package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

// frontendArgs are the build arguments that the reference reads itself, and
// for those that change nothing here why that is so.
var frontendArgs = [...]struct{ name, idle string }{
	{dockerfile.SyntaxArg, ""},
	{dockerfile.CheckArg, ""},
	{"BUILDKIT_CONTEXT_KEEP_GIT_DIR", ""},
	{"BUILDKIT_CACHE_MOUNT_NS", ""},
	{"BUILDKIT_SANDBOX_HOSTNAME", ""},
	{"BUILDKIT_INLINE_CACHE", "steps come from the store, and images carry no cache"},
	{"BUILDKIT_MULTI_PLATFORM", "a build is for one platform"},
	{"BUILDKIT_BUILD_NAME", "builds have no names"},
	{"BUILDKIT_ATTEST_PROVENANCE", "attestations are asked for with --attest"},
	{"BUILDKIT_ATTEST_SBOM", "attestations are asked for with --attest"},
	{scanContextArg, "no ARG of the Dockerfile has this name"},
	{scanStageArg, "no ARG of the Dockerfile has this name"},
}

// unusedArgs warns of build arguments that have no effect.
func (p *planner) unusedArgs() {
	for _, s := range p.stages {
		for _, in := range slices.Concat(s.triggers, s.src.Instructions) {
			if a, ok := in.Command.(*dockerfile.Arg); ok {
				p.declare(a)
			}
		}
	}
	names := slices.Sorted(maps.Keys(p.declared))
	for _, name := range slices.Sorted(maps.Keys(p.req.Args)) {
		if p.declared[name] || IsProxy(name) || name == "SOURCE_DATE_EPOCH" {
			continue
		}
		if _, predefined := p.global.Get(name); predefined {
			continue
		}
		if strings.HasPrefix(name, "BUILDKIT_") {
			p.frontendArg(name, p.req.Args[name])
			continue
		}
		p.lint.Report(dockerfile.Pos{}, "", dockerfile.BuildArgNotUsed(name, p.suggest(name, names)))
	}
}

// frontendArg warns of an argument that is the frontend's by its name and has
// no effect here; one that the reference refuses is a mistake.
func (p *planner) frontendArg(name, value string) {
	on, err := strconv.ParseBool(value)
	off := value == "" || err == nil && !on
	if name == "BUILDKIT_DISABLE_FILEOP" && !off {
		p.fail(dockerfile.Pos{}, fmt.Sprintf("support for %q build-arg was removed in BuildKit 0.11", name), "leave the argument out")
		return
	}
	var known []string
	for _, a := range frontendArgs {
		if a.name != name {
			known = append(known, a.name)
			continue
		}
		if a.idle != "" && !off {
			p.lint.Report(dockerfile.Pos{}, "", dockerfile.BuildArgIdle(name, a.idle))
		}
		return
	}
	p.lint.Report(dockerfile.Pos{}, "", dockerfile.BuildArgNotUsed(name, p.suggest(name, known)))
}
