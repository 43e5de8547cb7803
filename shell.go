package whittle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
)

// ShellRequest says where in a build to open a shell, or to run a command. The
// zero value is the end of the target stage, and a shell that is there.
type ShellRequest struct {
	// Step is a step of the target stage, as its label counts: 2 is
	// "[builder 2/5]". The command sees what the step saw, its mounts too, and
	// what it left.
	Step int
	Args []string
	TTY  bool
}

// shell is a build that ends in a shell.
type shell struct {
	ShellRequest
	step  *plan.Step // a RUN that stands for it
	where string     // for people
}

// Shell builds what req says as far as sh does, most of it or all from the
// cache, and runs a shell or a command there. What that writes is thrown away,
// but what it writes to cache mounts. The status is that of the process.
func (w *Whittle) Shell(ctx context.Context, req Request, sh ShellRequest) (st sandbox.Status, err error) {
	b := w.newBuild(req)
	b.shell = &shell{ShellRequest: sh}
	defer b.end(&err)
	if err := b.read(ctx); err != nil {
		return st, err
	}
	err = b.opened(ctx, func(ctx context.Context) error {
		_, solved, err := b.solve(ctx)
		if err == nil {
			err = b.store.Sync()
		}
		if err == nil {
			st, err = b.openShell(ctx, solved)
		}
		return err
	})
	return st, err
}

// openShell runs the shell on top of what was solved.
func (b *build) openShell(ctx context.Context, solved *solve.Result) (st sandbox.Status, err error) {
	s := b.shell.step
	job := solve.Job{Step: s, Below: solved.Chain(s.Below), Mounts: make([]rootfs.Chain, len(s.Run.Mounts)), InRoot: true}
	for i, m := range s.Run.Mounts {
		if m.From != nil {
			job.Mounts[i] = solved.Chain(*m.From)
		}
	}
	local := b.local()
	defer join(&err, local.Close)
	place, err := local.Place(ctx, job)
	if err != nil {
		return st, err
	}
	defer join(&err, place.Close)
	story := []string{fmt.Sprintf("After %s. What is done here is thrown away%s.", progress.Clean(b.shell.where), sharedCaches(place))}
	err = b.req.Lend(story, func(std container.Streams) error {
		st, err = place.Run(ctx, execute.Session{Args: b.shell.Args, TTY: b.shell.TTY, Term: b.req.Term, Streams: std})
		return err
	})
	return st, err
}

// reNumber takes the number of a step out of its label.
var reNumber = lazyre.New(`^\[(?:.* )?\s*(\d+)/\d+\] `)

func numberOf(l *plan.Line) int {
	m := reNumber.FindStringSubmatch(l.Label)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // digits, and few
	return n
}

// cut plans once more what the shell needs: the target stage up to its step,
// and a RUN in the place of what comes after it. So the shell has the
// variables, the user and the folder that a RUN there would have.
func (b *build) cut(ctx context.Context, p *plan.Plan) (*plan.Plan, error) {
	line, err := b.shell.find(p)
	if err != nil {
		return nil, err
	}
	stage := *b.file.Stages[p.Target.Index]
	run := &dockerfile.Run{}
	end, pos := len(stage.Instructions), stage.Pos
	if line != nil {
		b.shell.where, pos = line.Label, line.Pos
		end = 1 + slices.IndexFunc(stage.Instructions, func(in *dockerfile.Instruction) bool { return in.Pos == line.Pos })
		if end > 0 {
			if was, ok := stage.Instructions[end-1].Command.(*dockerfile.Run); ok {
				*run = *was // with its mounts and rights
			}
		}
	} else {
		b.shell.where = "stage " + p.Target.Display
	}
	run.Words, run.Script = dockerfile.Words{Args: []string{"/bin/sh"}}, nil
	in := &dockerfile.Instruction{Pos: pos, Keyword: "RUN", Text: "RUN the shell", Command: run}
	stage.Instructions = append(slices.Clone(stage.Instructions[:end]), in)
	file := *b.file
	file.Stages = slices.Clone(file.Stages)
	file.Stages[p.Target.Index] = &stage
	b.file = &file
	p, b.images, err = b.planned(ctx, b.planRequest(), false, b.sink)
	if err != nil {
		return p, err
	}
	p.Warnings = nil
	last := p.Target.Lines[len(p.Target.Lines)-1]
	if last.Step == nil || last.Step.Run == nil {
		return nil, errors.New("shell: its step is not in the plan")
	}
	b.shell.step = last.Step
	return p, nil
}

// find is the line of the target stage whose number was asked for; nil stands
// for its end.
func (s *shell) find(p *plan.Plan) (*plan.Line, error) {
	if s.Step == 0 {
		return nil, nil
	}
	var labels []string
	for _, l := range p.Target.Lines {
		if n := numberOf(l); n == s.Step && !l.Trigger {
			return l, nil
		} else if n > 0 && !l.Trigger {
			labels = append(labels, l.Label)
		}
	}
	return nil, &hinted{fmt.Errorf("--step %d: stage %s has no such step", s.Step, p.Target.Display),
		"there are " + strings.Join(labels, "; ") + "; --target chooses the stage"}
}

// takeOut takes the shell's step out of the plan, for nothing of it is to be
// looked up or recorded.
func (s *shell) takeOut(p *plan.Plan) {
	mine := func(l *plan.Line) bool { return l.Step == s.step }
	p.Target.Lines = slices.DeleteFunc(p.Target.Lines, mine)
	p.Lines = slices.DeleteFunc(p.Lines, mine)
	p.Steps = slices.DeleteFunc(p.Steps, func(t *plan.Step) bool { return t == s.step })
	p.Target.Root = s.step.Below
}
