package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// NamedContext is what the caller puts in the place of a stage or an image of
// some name. The zero value is a file system of files.
type NamedContext struct {
	// Image is the image that the name means, as Ref.Name has it, or "scratch";
	// "" means that the context is files.
	Image string
}

// ContextName is the form in which a name is looked up in Request.Contexts: an
// image's familiar name without the tag latest. Names of stages are as they
// are.
func ContextName(name string) string {
	name = strings.TrimPrefix(name, "docker.io/")
	name = strings.TrimPrefix(name, "index.docker.io/")
	if rest, ok := strings.CutPrefix(name, "library/"); ok && !strings.Contains(rest, "/") {
		name = rest
	}
	if base, ok := strings.CutSuffix(name, ":latest"); ok && !strings.Contains(base, "@") {
		return base
	}
	return name
}

// named finds the context that replaces name for a platform. What is for that
// platform alone comes first. scratch and context are never replaced.
func (p *planner) named(name string, platform Platform) (key string, c NamedContext, ok bool) {
	if len(p.req.Contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return "", c, false
	}
	return LookUpContext(p.req.Contexts, name, platform)
}

// LookUpContext finds what is given for a name: that for the platform alone
// first. Keys are as in Request.Contexts.
func LookUpContext[T any](given map[string]T, name string, platform Platform) (key string, c T, ok bool) {
	name = ContextName(name)
	for _, key := range []string{name + "::" + platform.Normalize().String(), name} {
		if c, ok = given[key]; ok {
			return key, c, true
		}
	}
	return "", c, false
}

// meaning is what a name in COPY --from and in from= of a mount stands for: a
// stage, which a named context may have replaced, a named context, or an
// image. The error is of a name that can be none of them. It has no numbers:
// those are for COPY --from alone.
func (p *planner) meaning(name string) (source, error) {
	if s := p.byName[strings.ToLower(name)]; s != nil {
		return source{stage: s}, nil
	}
	if key, c, ok := p.named(name, p.target); ok {
		return p.replaced(key, c, p.target), nil
	}
	if name == scratch {
		return source{}, nil
	}
	if err := dockerfile.CheckImageName(name); err != nil {
		return source{}, fmt.Errorf("failed to parse stage name %q: invalid reference format: %v", name, err)
	}
	return source{image: &Ref{Name: name, Platform: p.target}}, nil
}

// replaced is what a named context stands for.
func (p *planner) replaced(key string, c NamedContext, platform Platform) source {
	switch c.Image {
	case "":
		return source{context: key}
	case scratch:
		return source{}
	}
	return source{image: &Ref{Name: c.Image, Platform: platform}, given: true}
}

// replace makes the stage s what the named context of its own name is. Its
// instructions are not carried out. It reports whether there is one.
func (p *planner) replace(s *stage) bool {
	if s.src.Name == "" {
		return false
	}
	key, c, ok := p.named(s.src.Name, s.platform)
	if ok {
		s.replaced = true
		s.take(p.replaced(key, c, s.platform))
	}
	return ok
}

// take makes what a context stands for the base of s.
func (s *stage) take(from source) {
	s.image, s.context, s.given = from.image, from.context, from.given
	s.fired = s.image == nil || s.replaced
}

// contextStep is the step that makes a layer of a context of files, for the
// stage whose FROM names it.
func (st *state) contextStep() {
	s := st.s
	st.line.Label = st.prefix() + "FROM " + s.src.Base
	if s.replaced {
		st.line.Label = fmt.Sprintf("[context %s] load files", s.src.Name)
	}
	step := &Step{
		ID: len(st.p.plan.Steps), Stage: st.out, Line: st.line,
		Copy: &Copy{Sources: []string{"/"}, Dest: "/", From: &Root{Context: s.context}, FromText: s.context},
	}
	st.line.Step = step
	// As the reference's exporter says it of a layer that no instruction made.
	st.line.History = len(st.c.History)
	st.c.History = append(st.c.History, config.History{
		CreatedBy: fmt.Sprintf("[context %s] load from client", s.context), Comment: "buildkit.exporter.image.v0",
	})
	st.p.plan.Steps = append(st.p.plan.Steps, step)
	st.out.Base = Root{Step: step}
	st.out.Root = st.out.Base
}

// GlobalArg is the value that a build argument has before the first FROM: what
// was given, or the default there. ok is false when it has none.
func GlobalArg(r Request, name string) (value string, ok bool) {
	if v, ok := r.Args[name]; ok {
		return v, true
	}
	if len(r.File.Stages) == 0 || !slices.ContainsFunc(r.File.Args, func(in *dockerfile.Instruction) bool {
		return slices.ContainsFunc(in.Command.(*dockerfile.Arg).Items, func(i dockerfile.ArgItem) bool { return i.Key == name })
	}) {
		return "", false
	}
	p := &planner{req: r, file: r.File, x: r.File.NewExpander(), declared: map[string]bool{}, target: cmp.Or(r.Platform, r.BuildPlatform)}
	vars := p.metaArgs(r.Args, func(*dockerfile.Instruction, error) {}) // New tells the mistakes
	return vars.Get(name)
}
