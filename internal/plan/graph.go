package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/whittle-build/whittle/internal/dockerfile"
)

const scratch = "scratch"

// from adds a stage: what its FROM names and for which platform. FROM sees the
// stages above it only.
func (p *planner) from(src *dockerfile.Stage) {
	s := &stage{src: src, platform: p.target, copies: map[*dockerfile.Instruction]*source{}, mounts: map[*dockerfile.Instruction][]*source{}}
	p.stages = append(p.stages, s)
	base, ok := p.globalWord(s, src.Base)
	if ok && base == "" {
		ok = p.badFrom(s, fmt.Sprintf("base name (%s) should not be blank", src.Base),
			"give the ARG above the first FROM a default, or pass --build-arg")
	}
	if ok {
		ok = p.fromPlatform(s)
	}
	if ok && !p.replace(s) {
		p.fromBase(s, base)
	}
	if src.Name != "" {
		p.byName[src.Name] = s
	}
}

func (p *planner) badFrom(s *stage, msg, hint string) bool {
	s.bad, s.fired = true, true
	p.fail(s.src.Pos, msg, hint)
	return false
}

func (p *planner) fromBase(s *stage, base string) {
	// Unlike COPY --from, FROM does not find a stage by its name in upper case.
	if above := p.byName[base]; above != nil {
		s.base, s.platform, s.bad = above, above.platform, above.bad
		return
	}
	if base == scratch {
		s.platform, s.fired = p.target, true
		return
	}
	if err := dockerfile.CheckImageName(base); err != nil {
		p.badFrom(s, fmt.Sprintf("failed to parse stage name %q: invalid reference format: %v", base, err), p.imageHint(s, base))
		return
	}
	if key, c, ok := p.named(base, s.platform); ok {
		s.take(p.replaced(key, c, s.platform))
		return
	}
	s.image = &Ref{Name: base, Platform: s.platform}
}

// globalWord expands a word of FROM, which sees the global ARGs only.
func (p *planner) globalWord(s *stage, word string) (string, bool) {
	out, ok := p.globalExpand(s, word)
	return out.Text, ok
}

func (p *planner) globalExpand(s *stage, word string) (dockerfile.Expanded, bool) {
	out, err := p.x.Word(word, p.global)
	for _, name := range out.Unset {
		if _, predefined := p.global.Get(name); !predefined && !p.declared[name] {
			p.lint.Report(s.src.Pos, s.src.Check, dockerfile.UndefinedArgInFrom(name, p.suggestVariable(name, func() []string { return slices.Concat(p.global.Recent(), slices.Sorted(maps.Keys(p.declared))) })))
		}
	}
	if err != nil {
		return out, p.badFrom(s, err.Error(), expansionHint(err))
	}
	s.fromArgs = append(s.fromArgs, out.Used...)
	return out, true
}

func (p *planner) fromPlatform(s *stage) bool {
	word := s.src.Platform
	if word == "" {
		return true
	}
	const hint = "write --platform=$BUILDPLATFORM, or os/arch such as linux/arm64"
	out, ok := p.globalExpand(s, word)
	if !ok {
		return false
	}
	text := out.Text
	if text == "" {
		return p.badFrom(s, "empty platform value from expression "+word, hint)
	}
	platform, err := ParsePlatform(text, p.req.BuildPlatform)
	if err != nil {
		return p.badFrom(s, fmt.Sprintf("failed to parse platform %s: %v", word, err), hint)
	}
	p.lintPlatform(s, out, platform)
	if platform.OS != "linux" {
		return p.badFrom(s, fmt.Sprintf("platform %s: this version builds Linux images only", platform), hint)
	}
	s.platform = platform
	return true
}

func (p *planner) lintPlatform(s *stage, out dockerfile.Expanded, platform Platform) {
	if len(out.Used)+len(out.Unset) == 0 {
		if !strings.Contains(s.src.Name, platform.OS) && !strings.Contains(s.src.Name, platform.Arch) {
			p.lint.Report(s.src.Pos, s.src.Check, dockerfile.FromPlatformFlagConstDisallowed(out.Text))
		}
		return
	}
	target, _ := p.global.Get("TARGETPLATFORM")
	if len(out.Unset) == 0 && slices.Equal(out.Used, []string{"TARGETPLATFORM"}) && out.Text == target {
		p.lint.Report(s.src.Pos, s.src.Check, dockerfile.RedundantTargetPlatform(s.src.Platform))
	}
}

// copySource finds what a COPY --from names: a stage by number or name, or an
// image. It returns whether there is one.
func (p *planner) copySource(s *stage, in *dockerfile.Instruction) bool {
	c, ok := in.Command.(*dockerfile.Copy)
	if !ok || c.From == "" {
		return false
	}
	src := &source{}
	s.copies[in] = src
	bad := func(msg, hint string) {
		src.bad = true
		p.fail(in.Pos, msg, hint)
	}
	out, err := p.x.Word(c.From, dockerfile.NewVars(nil))
	if err != nil || out.Text != c.From {
		bad("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
			fmt.Sprintf("write ARG and FROM %s AS name above, and here --from=name", c.From))
		return true
	}
	if n, err := strconv.Atoi(c.From); err == nil {
		p.copyFromNumber(s, in, src, n, bad)
		return true
	}
	if *src, err = p.meaning(c.From); err != nil {
		bad(err.Error(), p.imageHint(s, c.From))
	}
	return true
}

func (p *planner) copyFromNumber(s *stage, in *dockerfile.Instruction, src *source, n int, bad func(msg, hint string)) {
	if n < 0 || n >= len(p.stages) {
		hint := fmt.Sprintf("the file has stages 0 to %d; better name the stage, FROM image AS build, and write --from=build", len(p.stages)-1)
		if len(p.stages) == 1 {
			hint = "the file has only stage 0, this one; leave --from out to copy from the build context"
		}
		bad(fmt.Sprintf("invalid stage index %d", n), hint)
		return
	}
	src.stage = p.stages[n]
	p.lint.Report(in.Pos, in.Check, dockerfile.StageByNumber(n, src.stage.src.Base, src.stage.src.Name))
}

// reach marks what the target needs. Stages that become reachable fire the
// triggers of their base, which may need more stages.
func (p *planner) reach(target *stage) {
	todo := []*stage{target}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.reachable {
			continue
		}
		s.reachable = true
		p.fire(s)
		todo = append(todo, s.needs()...)
	}
}

// needs returns the stages that s reads.
func (s *stage) needs() []*stage {
	var out []*stage
	if s.base != nil {
		out = append(out, s.base)
	}
	for _, in := range s.instructions() {
		for _, from := range s.sources(in) {
			if from.stage != nil {
				out = append(out, from.stage)
			}
		}
	}
	return out
}

// fire reads the ONBUILD triggers of s's base, once it is known.
func (p *planner) fire(s *stage) {
	if s.fired || s.bad {
		return
	}
	var texts []string
	switch {
	case s.base != nil:
		for _, in := range s.base.src.Instructions {
			if ob, ok := in.Command.(*dockerfile.Onbuild); ok {
				texts = append(texts, ob.Trigger)
			}
		}
	case s.image != nil:
		base := p.req.Images[*s.image]
		if base == nil {
			return
		}
		texts = base.Config.Config.OnBuild
	}
	s.fired = true
	if len(texts) > dockerfile.MaxInstructions {
		p.fail(s.src.Pos, fmt.Sprintf("base has %d ONBUILD triggers; the most allowed is %d", len(texts), dockerfile.MaxInstructions), "choose another base")
		return
	}
	for _, text := range texts {
		in, mistake := p.file.ParseTrigger(text, s.src.Pos)
		if mistake != nil {
			p.errs = append(p.errs, mistake)
			continue
		}
		s.triggers = append(s.triggers, in)
		p.copySource(s, in)
		p.mountSources(s, in)
	}
}

// order finds what cannot be built in file order: a stage that needs itself,
// on any way, and a COPY from a stage below.
func (p *planner) order() {
	circles := sync.OnceValue(p.circles)
	for _, s := range p.stages {
		for _, in := range s.instructions() {
			for i, from := range s.sources(in) {
				if from.stage != nil && from.stage.src.Index >= s.src.Index {
					p.wrongOrder(s, in, i, from, circles)
				}
			}
		}
	}
}

// wrongOrder reports the source with this number of an instruction, which is
// the stage s itself or one below.
func (p *planner) wrongOrder(s *stage, in *dockerfile.Instruction, number int, from *source, circles func() map[*stage]int) {
	to, does, flag, msg := from.stage, "copies", "--from", ""
	switch c := in.Command.(type) {
	case *dockerfile.Copy:
		msg = fmt.Sprintf("cannot copy from stage %q, it needs to be defined before current stage %q", c.From, s.display())
	case *dockerfile.Run:
		does, flag, msg = "mounts files", "from=", lateMount(c, number)
	}
	switch {
	case to == s:
		hint := "name another stage, or leave " + flag + " out to take files from the build context"
		if other := slices.IndexFunc(p.stages, func(o *stage) bool {
			return o != s && o.src.Index < s.src.Index && o.src.Name == s.src.Name && s.src.Name != ""
		}); other >= 0 {
			hint = fmt.Sprintf("two stages are called %q, and %s means the last one: give each its own name", s.src.Name, flag)
		}
		p.fail(in.Pos, fmt.Sprintf("circular dependency detected on stage: %s: it %s from itself", s.display(), does), hint)
	case circles()[to] == circles()[s]:
		p.fail(in.Pos, fmt.Sprintf("circular dependency detected on stage: %s: it %s from %s, which needs %s", s.display(), does, to.display(), s.display()),
			fmt.Sprintf("move what both need into a stage of its own, above line %d", s.src.Line))
	case s.reachable:
		p.fail(in.Pos, msg,
			fmt.Sprintf("move stage %q (line %d) above stage %q (line %d)", to.display(), to.src.Line, s.display(), s.src.Line))
	default:
		return
	}
	from.bad = true
}
