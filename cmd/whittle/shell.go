package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/sandbox"
)

func (p *program) shellCommand() *cobra.Command {
	var f buildFlags
	var sh whittle.ShellRequest
	c := &cobra.Command{
		Use:   "shell [flags] CONTEXT [-- COMMAND [ARG...]]",
		Short: "Open a shell in a stage of a build, after any step",
		Long: `Open a shell, or run COMMAND, in the file system of a stage: at its end, or after the step that
--step numbers, as its label does ([builder 2/5]), with the variables, the user, the directory and
the mounts of that step. What is not in the cache is built first. What is done there is thrown away,
but what is done to cache mounts.

With a terminal it is interactive; without one the shell reads commands from standard input. The exit
code is that of the shell or COMMAND.`,
		Example: `  whittle shell .
  whittle shell --target builder --step 3 .
  whittle shell --target test . -- cat /src/report.xml > report.xml
  echo 'ls -l; env' | whittle shell .`,
		Args: func(c *cobra.Command, a []string) error {
			dash := c.ArgsLenAtDash()
			if dash < 0 && len(a) > 1 {
				return &usageError{fmt.Errorf("shell wants one build context, and got %d operands", len(a)),
					fmt.Sprintf("the command comes after --: whittle shell %s -- %s", a[0], strings.Join(a[1:], " "))}
			}
			if dash < 0 {
				dash = len(a)
			}
			return args(1, 1, "one build context (a folder; . is this one), and perhaps -- and a command")(c, a[:dash])
		},
		RunE: func(c *cobra.Command, a []string) error {
			f.request.Context, sh.Args = a[0], a[1:]
			if sh.Step < 0 || sh.Step == 0 && c.Flags().Changed("step") {
				return &usageError{fmt.Errorf("--step %d: want a number from 1", sh.Step), "labels of steps have it: [builder 2/5]"}
			}
			if err := p.checkIsolation(); err != nil {
				return err
			}
			return p.shell(c.Context(), &f, sh)
		},
	}
	fl := c.Flags()
	f.addSources(fl)
	fl.IntVar(&sh.Step, "step", 0, "stop after step `N` of the stage (default its end)")
	p.addIsolation(fl)
	return c
}

// shell builds what the shell needs and runs it.
func (p *program) shell(ctx context.Context, f *buildFlags, sh whittle.ShellRequest) error {
	if err := p.complete(f); err != nil {
		return err
	}
	if err := f.one("shell"); err != nil {
		return err
	}
	fromStdin := f.request.Context == "-" || f.request.File == "-"
	if fromStdin && len(sh.Args) == 0 {
		return &usageError{errors.New("standard input is the build context, so that a shell has nothing to read"),
			"name a command: whittle shell - -- COMMAND, or a folder as context"}
	}
	sh.TTY = !fromStdin && isTerminal(p.stdin) && isTerminal(p.stdout)
	display, err := p.display(f)
	if err != nil {
		return &usageError{fmt.Errorf("--%w", err), ""}
	}
	r := &f.request
	r.Sink, r.Term = display, p.getenv("TERM")
	// The display's part is over before the shell begins.
	over := func() func() { display.Close(); return func() {} }
	r.Lend = p.lender(p.stdout, over)
	if !sh.TTY {
		r.Lend = p.lendStreams(over, fromStdin, f.quiet)
	}
	return p.withStore(func(w *whittle.Whittle) error {
		st, err := w.Shell(ctx, *r, sh)
		display.Close()
		var start *sandbox.StartError
		if errors.As(err, &start) {
			p.report(p.stderr, err)
			return codeError(container.StartCode(err))
		}
		if err != nil {
			return err
		}
		return codeOrNil(st.Code)
	})
}

// lender lends our terminal to a shell; pause keeps the display from writing
// meanwhile. The keys go to the shell as they are, Ctrl-C among them.
func (p *program) lender(out *os.File, pause func() (resume func())) whittle.Lender {
	return func(story []string, run func(container.Streams) error) (err error) {
		defer pause()()
		p.tell(story)
		t, err := p.terminal(true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		return run(container.Streams{In: p.stdin, Out: out, Err: out, Sizes: t.Sizes()})
	}
}

// lendStreams lends our streams to a command.
func (p *program) lendStreams(pause func() (resume func()), noInput, quiet bool) whittle.Lender {
	return func(story []string, run func(container.Streams) error) error {
		defer pause()()
		if !quiet {
			p.tell(story)
		}
		std := container.Streams{Out: p.stdout, Err: p.stderr}
		if !noInput {
			std.In = p.stdin
		}
		return run(std)
	}
}

func (p *program) tell(story []string) {
	for _, line := range story {
		fmt.Fprintln(p.stderr, line)
	}
}

// failureOptions checks what is to be done with a step that fails, and what is
// left of the build.
func (p *program) failureOptions(f *buildFlags) error {
	r := &f.request
	switch r.OnFailure {
	case "", whittle.KeepOnFailure:
	case whittle.ShellOnFailure:
		if !isTerminal(p.stdin) || !isTerminal(p.stderr) {
			return &usageError{errors.New("--on-failure shell: needs a terminal, and standard input or standard error is none"),
				"--on-failure keep keeps the root of the step, and cp FAILED:/path . takes files out of it; shell . -- COMMAND runs a command after any step"}
		}
	default:
		return &usageError{fmt.Errorf("--on-failure %q: unknown", r.OnFailure), "there are shell and keep"}
	}
	return p.outputOptions(f)
}

// buildLog prints the log of a build.
func (p *program) buildLog(ctx context.Context, w *whittle.Whittle, ref string, v container.LogView) error {
	if v.Stamps || !v.Since.IsZero() || !v.Until.IsZero() {
		return &usageError{fmt.Errorf("logs %s: -t, --since and --until are for containers, and no container is called so", ref),
			"the log of a build says in front of each line how long its step has run; leave them out"}
	}
	if !v.Tail {
		return w.BuildLog(ctx, ref, p.stdout, v.Follow)
	}
	if v.Follow {
		return &usageError{fmt.Errorf("logs %s: --tail does not go with -f for a build", ref), "leave one of the two out"}
	}
	last := &lastLines{n: v.Last}
	if err := w.BuildLog(ctx, ref, last, false); err != nil {
		return err
	}
	_, err := io.WriteString(p.stdout, strings.Join(last.lines, ""))
	return err
}

// lastLines keeps the last n lines that are written to it.
type lastLines struct {
	n     int
	lines []string
	part  string
}

func (l *lastLines) Write(b []byte) (int, error) {
	for line := range strings.Lines(l.part + string(b)) {
		if l.part = line; !strings.HasSuffix(line, "\n") {
			break
		}
		l.part = ""
		l.lines = append(l.lines, line)
		l.lines = l.lines[max(0, len(l.lines)-l.n):]
	}
	return len(b), nil
}
