package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// planner is one call of New.
type planner struct {
	req    Request
	file   *dockerfile.File
	lint   *dockerfile.Linter
	x      *dockerfile.Expander
	target Platform // what stages are for that do not say
	stages []*stage
	byName map[string]*stage // the last stage of each name
	single bool              // labels do not name the only stage
	errs   dockerfile.Errors

	global   *dockerfile.Vars
	meta     map[string]definition // ARGs before the first FROM
	guesses  int                   // suggestions made so far
	declared map[string]bool       // names of all ARGs seen
	plan     *Plan
}

// stage is one stage while it is planned.
type stage struct {
	src   *dockerfile.Stage
	base  *stage // FROM a stage
	image *Ref   // FROM an image; with base nil too: scratch, or unknown if bad
	bad   bool   // its FROM is a mistake
	// context is the named context of files that FROM means, and replaced says
	// that a named context stands in the place of the whole stage.
	context  string
	replaced bool
	// platform is what the stage is for.
	platform  Platform
	triggers  []*dockerfile.Instruction // of its base
	fromArgs  []string                  // global ARGs that its FROM names
	defined   map[string]definition     // its own ARGs, for the outline
	fired     bool                      // triggers are known
	copies    map[*dockerfile.Instruction]*source
	mounts    map[*dockerfile.Instruction][]*source // one for each mount of a RUN
	reachable bool

	out *Stage
	// continued: a stage has gone on with the history of this one.
	continued bool
	given     bool              // image is a named context
	vars      *dockerfile.Vars  // after its last instruction
	args      *dockerfile.Vars  // names of ARGs in scope, in order of declaration
	scanArgs  map[string]string // ARGs for SBOMs, with their values
	unknown   bool              // the image below, of this stage or its base, could not be had
	// workdirSet: a WORKDIR of this file has been seen, here or below.
	workdirSet bool
}

// source is what a COPY --from names; with none of the three set: scratch, or
// a mistake if bad.
type source struct {
	stage   *stage
	image   *Ref
	context string // a named context of files
	given   bool   // the image is a named context
	bad     bool
}

// New makes the plan. Its error is a *Missing when it needs images, or a
// dockerfile.Errors with all mistakes; with these may come a plan that has
// nothing but steps which they do not change, to look for more mistakes in.
func New(r Request) (*Plan, error) {
	_, _, plan, err := run(r)
	return plan, err
}

func run(r Request) (*planner, *stage, *Plan, error) {
	p, target := prepare(r)
	if target == nil {
		return p, nil, &Plan{Warnings: p.warnings()}, p.errs.Sorted()
	}
	if m := p.missing(); m != nil {
		return p, target, nil, m
	}
	p.evaluateAll()
	p.unusedArgs()
	if m := p.lint.Error(); m != nil {
		p.errs = append(p.errs, m)
	}
	if len(p.errs) > 0 {
		return p, target, &Plan{Steps: p.certain(), Warnings: p.warnings()}, p.errs.Sorted()
	}
	p.finish(target)
	return p, target, p.plan, nil
}

// warnings is what was found unwise so far.
func (p *planner) warnings() []dockerfile.Warning {
	if p.lint == nil {
		return nil
	}
	return p.lint.Warnings()
}

// certain returns the steps of a file with mistakes that these do not change:
// those that name no variable and read no other stage.
func (p *planner) certain() []*Step {
	return slices.DeleteFunc(slices.Clone(p.plan.Steps), func(s *Step) bool {
		return strings.Contains(s.Line.Text, "$") || s.readsStage()
	})
}

// prepare does all that needs no image but those that r has: names, stages,
// triggers, and what is reachable. target is nil when there is nothing to go
// on with.
func prepare(r Request) (p *planner, target *stage) {
	p = &planner{req: r, file: r.File, x: r.File.NewExpander(), byName: map[string]*stage{}, declared: map[string]bool{}, plan: &Plan{}}
	p.req.BuildPlatform = r.BuildPlatform.Normalize()
	p.target = p.req.BuildPlatform
	if !r.Platform.IsZero() {
		p.req.Platform = r.Platform.Normalize()
		p.target = p.req.Platform
	}
	var check *string
	if v, ok := r.Args[dockerfile.CheckArg]; ok {
		check = &v
	}
	lint, mistake := p.file.NewLinter(check)
	if mistake != nil {
		p.errs = append(p.errs, mistake)
		return p, nil
	}
	p.lint = lint
	if len(p.file.Stages) == 0 {
		p.fail(dockerfile.Pos{}, "dockerfile contains no stages to build", "write at least a FROM line")
		return p, nil
	}
	if !p.globals() {
		return p, nil
	}
	for _, src := range p.file.Stages {
		p.from(src)
	}
	for _, s := range p.stages {
		for _, in := range s.instructions() {
			p.copySource(s, in)
			p.mountSources(s, in)
		}
	}
	p.single = len(p.stages) == 1 && !p.copiesImages()
	if target = p.findTarget(); target == nil {
		return p, nil
	}
	p.reach(target)
	if r.AllStages {
		for _, s := range p.stages {
			p.reach(s)
		}
	}
	p.order()
	return p, target
}

func (p *planner) fail(pos dockerfile.Pos, msg, hint string) {
	p.errs = append(p.errs, p.file.Mistake(pos, msg, hint))
}

// instructions returns the triggers of the base and then the stage's own.
func (s *stage) instructions() []*dockerfile.Instruction {
	if s.replaced {
		return nil
	}
	return slices.Concat(s.triggers, s.src.Instructions)
}

// display is the name of a stage for people.
func (s *stage) display() string {
	if s.src.Name != "" {
		return s.src.Name
	}
	return fmt.Sprintf("stage-%d", s.src.Index)
}

func (p *planner) copiesImages() bool {
	for _, s := range p.stages {
		for _, c := range s.copies {
			if c.stage == nil {
				return true
			}
		}
		for _, list := range s.mounts {
			if slices.ContainsFunc(list, func(from *source) bool { return from.stage == nil }) {
				return true
			}
		}
	}
	return false
}

func (p *planner) findTarget() *stage {
	if p.req.Target == "" {
		return p.stages[len(p.stages)-1]
	}
	if s := p.byName[strings.ToLower(p.req.Target)]; s != nil {
		return s
	}
	names := p.file.StageNames()
	msg := fmt.Sprintf("target stage %q could not be found", p.req.Target)
	near := dockerfile.Suggest(strings.ToLower(p.req.Target), names)
	switch {
	case near != "":
		p.fail(p.byName[near].src.Pos, msg, fmt.Sprintf("did you mean %q?", near))
	case len(names) == 0:
		p.fail(dockerfile.Pos{}, msg, "no stage has a name: write FROM image AS "+strings.ToLower(p.req.Target)+" on the stage that you mean")
	default:
		p.fail(dockerfile.Pos{}, msg, "the stages are: "+strings.Join(names, ", "))
	}
	return nil
}

// finish gives the target what only the result has, and the lines their
// numbers.
func (p *planner) finish(target *stage) {
	for _, s := range p.stages {
		if !s.reachable {
			continue
		}
		p.plan.Stages = append(p.plan.Stages, s.out)
		p.plan.Lines = append(p.plan.Lines, s.out.Lines...)
	}
	for i, l := range p.plan.Lines {
		l.Number = i + 1
	}
	p.plan.Target = target.out
	p.plan.Warnings = p.lint.Warnings()

	c := &target.out.Config
	for _, kv := range p.req.Labels {
		k, v, _ := strings.Cut(kv, "=")
		if c.Config.Labels == nil {
			c.Config.Labels = map[string]string{}
		}
		c.Config.Labels[k] = v
	}
	p.forcePlatform(c)
}

// forcePlatform makes the result say what was asked for.
func (p *planner) forcePlatform(c *config.Image) {
	if want := p.req.Platform; !want.IsZero() {
		same := want.OS == c.OS && want.Arch == c.Architecture
		c.OS, c.Architecture = want.OS, want.Arch
		if want.Variant != "" || !same {
			c.Variant = want.Variant
		}
		if !same {
			c.OSVersion = ""
		}
	}
	n := Platform{c.OS, c.Architecture, c.Variant}.Normalize()
	c.OS, c.Architecture, c.Variant = n.OS, n.Arch, n.Variant
}

// suggest is dockerfile.Suggest for names that a file may have any number of.
func (p *planner) suggest(name string, options []string) string {
	p.guesses++
	if p.guesses > 100 {
		return ""
	}
	return dockerfile.Suggest(name, options)
}

// suggestVariable is suggest with the reference's own idea of what is near.
func (p *planner) suggestVariable(name string, options func() []string) string {
	p.guesses++
	if p.guesses > 100 {
		return ""
	}
	return dockerfile.SuggestVariable(name, options())
}

func (p *planner) declare(a *dockerfile.Arg) {
	for _, item := range a.Items {
		p.declared[item.Key] = true
	}
}
