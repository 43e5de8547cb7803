package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
)

type execFlags struct {
	container.Spec
	env, envFiles []string
	detach        bool
}

func (p *program) execCommand() *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use: "exec [flags] CONTAINER COMMAND [ARG...]", Short: "Run another command in a running container",
		Example: "  whittle exec -it web sh\n  whittle exec -u 1000 -w /srv web ls -l",
		Args:    args(2, -1, "a container and a command"),
		RunE: func(c *cobra.Command, a []string) error {
			if f.Dir != "" && !path.IsAbs(f.Dir) {
				return &usageError{fmt.Errorf("-w %q: is not an absolute path", f.Dir), "it is one of the container: -w /" + f.Dir}
			}
			env, err := p.variables(f.envFiles, f.env)
			if err != nil {
				return err
			}
			if f.TTY && f.Stdin && !f.detach && !isTerminal(p.stdin) {
				return errNoTerminal
			}
			return p.withContainer(a[0], func(w *whittle.Whittle, ct *container.Container) error {
				return p.exec(c.Context(), w, ct, f.spec(ct, a[1:], env), f.detach)
			})
		},
	}
	fl := c.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&f.Stdin, "interactive", "i", false, "keep standard input open")
	fl.BoolVarP(&f.TTY, "tty", "t", false, "give it a terminal")
	fl.BoolVarP(&f.detach, "detach", "d", false, "do not wait for its end, nor show its output")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set a variable: `K=V`, or K to pass on")
	fl.StringArrayVar(&f.envFiles, "env-file", nil, "read variables from `FILE`")
	fl.StringVarP(&f.Dir, "workdir", "w", "", "working directory")
	fl.StringVarP(&f.User, "user", "u", "", "user, as USER in a Dockerfile")
	c.SetFlagErrorFunc(createFlagError)
	return c
}

// spec is the container's own with the flags' changes.
func (f *execFlags) spec(ct *container.Container, command, env []string) container.Spec {
	s := container.Spec{Args: command, Env: ct.Spec.Env, Dir: ct.Spec.Dir, User: ct.Spec.User, TTY: f.TTY, Stdin: f.Stdin}
	if f.TTY && !ct.Spec.TTY {
		s.Env = container.Setenv(s.Env, "TERM=xterm")
	}
	s.Env = container.Setenv(s.Env, env...)
	if f.Dir != "" {
		s.Dir = f.Dir
	}
	if f.User != "" {
		s.User = f.User
	}
	return s
}

// exec hands our streams to a process in a container.
func (p *program) exec(ctx context.Context, w *whittle.Whittle, ct *container.Container, s container.Spec, detach bool) (err error) {
	in, out, errOut := p.stdin, p.stdout, p.stderr
	if detach || !s.Stdin {
		if in, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
			return err
		}
		defer in.Close()
	}
	if detach {
		out, errOut = in, in
	}
	var sizes <-chan container.Size
	if s.TTY && !detach {
		t, err := p.terminal(s.Stdin)
		if err != nil {
			return err
		}
		defer t.Close()
		sizes = t.Sizes()
	}
	if in == p.stdin && isTerminal(in) {
		if in, err = throughPipe(in); err != nil {
			return err
		}
		defer in.Close()
	}
	code, err := w.Containers().Exec(ctx, ct, s, detach, in, out, errOut, sizes)
	var bad *container.ExecError
	if errors.As(err, &bad) {
		p.report(p.stderr, err)
		return codeError(bad.Code)
	}
	if err != nil {
		return err
	}
	return codeOrNil(code)
}

// throughPipe reads our terminal here and passes it on: a read of it in the
// monitor would outlive us.
func throughPipe(terminal *os.File) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		io.Copy(w, terminal) // ends with the program
		w.Close()
	}()
	return r, nil
}
