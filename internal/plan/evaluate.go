package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
)

// state is one stage while its instructions are carried out on its config.
type state struct {
	p    *planner
	s    *stage
	out  *Stage
	c    *config.Image // &out.Config
	vars *dockerfile.Vars
	line *Line // the current one
	in   *dockerfile.Instruction
	sum  digest.Digest // State of the last line

	// The last CMD, ENTRYPOINT and HEALTHCHECK of this stage itself.
	cmd, entrypoint, health *dockerfile.Instruction

	index, total int // of shown steps, for labels
	copied       int // entries of history that were copied for it
}

// evaluateAll carries out all stages that are needed. File order is an order
// of needs: FROM and COPY --from name earlier stages only.
func (p *planner) evaluateAll() {
	for _, s := range p.stages {
		if !s.reachable || s.bad {
			continue
		}
		if s.base != nil && s.base.out == nil {
			continue
		}
		p.evaluate(s)
	}
}

func (p *planner) evaluate(s *stage) {
	st := &state{p: p, s: s, out: &Stage{Index: s.src.Index, Name: s.src.Name, Display: s.display(), Platform: s.platform}}
	st.c = &st.out.Config
	s.out = st.out
	st.inherit()
	st.begin()
	if err := p.x.Spend(32*len(st.c.Config.Env) + 128*st.copied); err != nil {
		p.fail(s.src.Pos, err.Error(), "the base's environment or history is too large to copy into this stage")
	}
	for _, in := range s.instructions() {
		st.in = in
		st.line = st.newLine(in.Text, in.Pos)
		st.line.Trigger = in.Trigger
		st.line.Label = upperKeyword(in.Text)
		st.apply()
		st.line.State = st.sum
	}
	s.vars = st.vars
	st.out.ScanStage, st.out.ScanContext = st.scans(scanStageArg), st.scans(scanContextArg)
}

// inherit takes config, variables and file system from what FROM names.
func (st *state) inherit() {
	s := st.s
	switch {
	case s.base != nil:
		st.inheritConfig(s.base)
		st.vars = s.base.vars.Clone()
		s.args, s.scanArgs = s.base.args.Clone(), maps.Clone(s.base.scanArgs)
		s.workdirSet, s.unknown = s.base.workdirSet, s.base.unknown
		st.out.Base = s.base.out.Root
	case s.image != nil:
		image := st.p.req.Images[*s.image]
		*st.c, s.unknown = image.Config.Clone(), image.Unknown
		st.copied = len(st.c.History)
		st.c.Extra = nil // how the base was made (container_config, docker_version) is not how this image was
		st.out.Base = Root{Image: s.image}
		st.p.lintPlatformOf(s.image, s.given, s.src.Pos)
	default:
		*st.c = config.Image{OS: s.platform.OS, Architecture: s.platform.Arch, Variant: s.platform.Variant}
		st.c.Config.WorkingDir = "/"
	}
	st.out.Root = st.out.Base
	st.c.Created = nil
	st.c.Config.OnBuild = nil
	if _, ok := st.c.Config.Getenv("PATH"); !ok && (!s.replaced || s.image == nil) {
		st.c.Config.Env = append(st.c.Config.Env, "PATH="+config.DefaultPath)
	}
	if s.base == nil {
		st.vars, s.args, s.scanArgs = dockerfile.NewVars(st.c.Config.Env), dockerfile.NewVars(nil), map[string]string{}
	}
	if s.base != nil {
		// An ARG of the stage below that hid an ENV there no longer does: the
		// environment of the config is set anew in every stage.
		for _, kv := range st.c.Config.Env {
			k, v, _ := strings.Cut(kv, "=")
			st.vars.Set(k, v)
		}
	}
	if wd := st.c.Config.WorkingDir; wd != "" {
		st.c.Config.WorkingDir = joinDir("/", wd)
	}
}

// inheritConfig takes the config of a stage. Its history is not copied but gone
// on with by the first stage that builds on it, or a chain of stages would cost
// the square of its length; no entry is ever changed.
func (st *state) inheritConfig(base *stage) {
	c := &base.out.Config
	history := c.History
	c.History = nil
	*st.c = c.Clone()
	c.History = slices.Clip(history)
	if !base.continued {
		base.continued = true
		st.c.History = history
		return
	}
	st.c.History = c.History
	st.copied = len(history)
}

// begin makes the line of FROM.
func (st *state) begin() {
	src := st.s.src
	st.total = st.count()
	st.line = st.newLine(src.Text, src.Pos)
	st.out.Line = st.line
	st.line.Label = upperKeyword(src.Text)
	if st.s.image != nil {
		name := st.p.req.Images[*st.s.image].Name
		if name == "" {
			name = st.s.image.Name
		}
		st.line.Label = st.prefix() + "FROM " + name
	}
	if st.s.context != "" {
		st.contextStep()
	}
	if st.s.base != nil {
		lines := st.s.base.out.Lines
		st.sum = lines[len(lines)-1].State
	} else {
		st.sum = st.baseSum()
	}
	st.line.State = st.sum
}

// baseSum is a digest over what the config of an image says.
func (st *state) baseSum() digest.Digest {
	k := digest.NewKey("config")
	b, err := json.Marshal(*st.c)
	if err != nil {
		// Only an invalid Extra can fail, and config.Parse has read it.
		b = []byte(err.Error())
	}
	k.Text("base", string(b))
	return k.Sum()
}

// count is how many steps labels count: the image of FROM, what makes layers,
// and every trigger.
func (st *state) count() int {
	n := len(st.s.triggers)
	if st.s.image != nil || st.s.context != "" {
		n++
	}
	for _, in := range st.s.src.Instructions {
		switch in.Command.(type) {
		case *dockerfile.Run, *dockerfile.Copy, *dockerfile.Workdir:
			n++
		}
	}
	return n
}

func (st *state) newLine(text string, pos dockerfile.Pos) *Line {
	l := &Line{Stage: st.out, Text: text, Pos: pos, History: -1}
	st.out.Lines = append(st.out.Lines, l)
	return l
}

// prefix counts one more shown step and returns "[build 2/5] ".
func (st *state) prefix() string {
	st.index++
	name := ""
	if !st.p.single {
		name = st.s.display() + " "
	}
	width := int(1 + math.Log10(float64(max(st.total, 1))))
	return fmt.Sprintf("[%s%*d/%d] ", name, width, st.index, st.total)
}

// step adds the step of the current line. text is what the label says.
func (st *state) step(s *Step, text string, run bool) {
	s.ID, s.Stage, s.Line, s.Below = len(st.p.plan.Steps), st.out, st.line, st.out.Root
	if s.Below.Step != nil {
		s.Deps = append(s.Deps, s.Below.Step)
	}
	for _, from := range s.Reads() {
		if from.Step != nil && !slices.Contains(s.Deps, from.Step) {
			s.Deps = append(s.Deps, from.Step)
		}
	}
	trigger := ""
	st.line.Label = st.prefix()
	if st.in.Trigger {
		trigger = "ONBUILD "
	}
	st.line.Label += trigger + address.Redact(upperKeyword(st.p.x.Title(text, st.vars, run)))
	st.line.Step = s
	st.p.plan.Steps = append(st.p.plan.Steps, s)
	st.out.Root = Root{Step: s}
}

// commit adds the history entry of the current line. said is what the line
// says, word by word, for its State.
func (st *state) commit(text string, layer bool, said ...string) {
	st.line.History = len(st.c.History)
	st.c.History = append(st.c.History, config.History{CreatedBy: text, Comment: config.Comment, EmptyLayer: !layer})
	st.advance(text, said)
}

func (st *state) advance(text string, said []string) {
	k := digest.NewKey("config")
	k.Digest("before", st.sum)
	k.Text("line", text)
	k.List("said", said)
	st.sum = k.Sum()
}

func (st *state) fail(msg, hint string) {
	st.p.fail(st.in.Pos, msg, hint)
}

func (st *state) report(f dockerfile.Finding) {
	st.p.lint.Report(st.in.Pos, st.in.Check, f)
}

// word expands one word of the current instruction. A mistake is noted and
// gives false.
func (st *state) word(word string) (string, bool) {
	out, err := st.p.x.Word(word, st.vars)
	return st.expanded(out, err)
}

func (st *state) expanded(out dockerfile.Expanded, err error) (string, bool) {
	for _, name := range out.Unset {
		if _, declared := st.s.args.Get(name); !declared && !st.s.unknown && !isScanArg(name) {
			st.report(dockerfile.UndefinedVar(name, st.p.suggestVariable(name, st.vars.Recent)))
		}
	}
	if err != nil {
		st.fail(err.Error(), expansionHint(err))
		return "", false
	}
	return out.Text, true
}

// words expands each of several words.
func (st *state) words(in []string) ([]string, bool) {
	out, ok := make([]string, len(in)), true
	for i, w := range in {
		text, good := st.word(w)
		out[i], ok = text, ok && good
	}
	return out, ok
}

// upperKeyword writes the instruction's name in upper case.
func upperKeyword(text string) string {
	keyword, rest, ok := strings.Cut(text, " ")
	if !ok {
		return strings.ToUpper(keyword)
	}
	return strings.ToUpper(keyword) + " " + rest
}

// apply carries out the current instruction.
func (st *state) apply() {
	switch c := st.in.Command.(type) {
	case *dockerfile.Run:
		st.run(c)
	case *dockerfile.Copy:
		st.copy(c)
	case *dockerfile.Workdir:
		st.workdir(c)
	case *dockerfile.Arg:
		st.arg(c)
	case *dockerfile.Env:
		st.env(c)
	case *dockerfile.Label:
		st.label(c)
	case *dockerfile.Cmd:
		st.setCmd(c)
	case *dockerfile.Entrypoint:
		st.setEntrypoint(c)
	case *dockerfile.Healthcheck:
		st.healthcheck(c)
	case *dockerfile.Expose:
		st.expose(c)
	case *dockerfile.User:
		st.user(c)
	case *dockerfile.Volume:
		st.volume(c)
	case *dockerfile.Shell:
		st.c.Config.Shell = slices.Clone(c.Shell)
		st.commit(fmt.Sprintf("SHELL %v", c.Shell), false, c.Shell...)
	case *dockerfile.StopSignal:
		st.stopSignal(c)
	case *dockerfile.Onbuild:
		st.c.Config.OnBuild = append(st.c.Config.OnBuild, c.Trigger)
		st.advance("ONBUILD", []string{c.Trigger})
	case *dockerfile.Maintainer:
		st.c.Author = c.Name
		st.commit("MAINTAINER "+c.Name, false)
	}
}
