package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/progress"
)

// exitEngine is the exit code of run and start when it is whittle that failed,
// and not the container.
const exitEngine = 125

func (p *program) createCommand() *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use: "create [flags] IMAGE [COMMAND [ARG...]]", Short: "Make a container without running it",
		Example: "  whittle create --name extract builder\n  whittle cp extract:/go/src/app ./app\n  whittle rm extract",
		Args:    args(1, -1, "an image"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.create(c, &f, a, func(_ *whittle.Whittle, ct *container.Container) error {
				_, err := fmt.Fprintln(p.stdout, ct.ID)
				return err
			})
		},
	}
	f.add(c)
	return c
}

// create makes a container and does something with it.
func (p *program) create(c *cobra.Command, f *createFlags, a []string, then func(*whittle.Whittle, *container.Container) error) error {
	req, err := p.request(c, f, a)
	if err != nil {
		return err
	}
	return p.withStore(func(w *whittle.Whittle) error {
		var ct *container.Container
		err := withIDFile(f.cidFile, func() (string, error) {
			err := p.transfer(f.quiet, func(sink progress.Sink) (err error) {
				ct, err = w.Create(c.Context(), req, sink)
				return err
			})
			if err != nil {
				return "", err
			}
			return ct.ID, nil
		})
		if err != nil && ct != nil {
			err = errors.Join(err, w.Containers().Remove(context.WithoutCancel(c.Context()), ct, false))
		}
		if err != nil {
			return err
		}
		return then(w, ct)
	})
}

// withIDFile writes the ID of what create makes to a new file, if name is not
// empty. The file is there before create begins, so that it does not begin when
// its ID cannot be told, and is removed again when it fails.
func withIDFile(name string, create func() (string, error)) (err error) {
	if name == "" {
		_, err = create()
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &usageError{fmt.Errorf("--cidfile %s: the file is there already", name), "remove it, or choose another name"}
	}
	if err != nil {
		return fmt.Errorf("--cidfile: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	id, err := create()
	if err == nil {
		_, err = f.WriteString(id)
	}
	return err
}

func (p *program) runCommand() *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use: "run [flags] IMAGE [COMMAND [ARG...]]", Short: "Run a command in a new container",
		Example: "  whittle run --rm -p 8080:80 http-server\n  whittle run --rm -it alpine sh",
		Args:    args(1, -1, "an image"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.engine(c.Context(), p.create(c, &f, a, func(w *whittle.Whittle, ct *container.Container) error {
				err := p.runMade(c.Context(), &f, w, ct)
				if err != nil && ct.Spec.Remove {
					// It may not have come to its monitor, which would have removed it.
					err = errors.Join(err, unlessRuns(w.Containers().Remove(context.WithoutCancel(c.Context()), ct, false)))
				}
				return err
			}))
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&f.detach, "detach", "d", false, "run in the background and print the ID")
	if p.docker {
		c.Flags().BoolVar(&f.sigProxy, "sig-proxy", true, "pass signals on (always)")
	}
	return c
}

// runMade runs the container that was made for run.
func (p *program) runMade(ctx context.Context, f *createFlags, w *whittle.Whittle, ct *container.Container) error {
	if !f.detach {
		return p.foreground(ctx, w, ct, f.attached(ct))
	}
	if err := p.detached(w, ct); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.stdout, ct.ID)
	return err
}

// engine tells a failure of whittle from that of a container: the exit code is
// that of docker, unless the call was wrong or interrupted. A monitor tells its
// own.
func (p *program) engine(ctx context.Context, err error) error {
	var code codeError
	var usage *usageError
	if err == nil || errors.As(err, &code) || errors.As(err, &usage) || errors.Is(context.Cause(ctx), errInterrupted) {
		return err
	}
	p.report(p.stderr, err)
	var start *startError
	if errors.As(err, &start) && start.Code != 0 {
		return codeError(start.Code)
	}
	return codeError(exitEngine)
}

func (p *program) startCommand() *cobra.Command {
	var attach, interactive bool
	c := &cobra.Command{
		Use: "start [flags] CONTAINER...", Short: "Run containers that were created or have ended",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			if !attach && !interactive {
				return p.eachContainer(c.Context(), a, func(w *whittle.Whittle, ct *container.Container) error {
					return unlessRuns(p.detached(w, ct))
				})
			}
			if len(a) > 1 {
				return &usageError{errors.New("-a and -i stay with one container, and there are several"), "leave them out, or name one"}
			}
			return p.engine(c.Context(), p.withContainer(a[0], func(w *whittle.Whittle, ct *container.Container) error {
				return p.foreground(c.Context(), w, ct, streams{in: interactive && ct.Spec.Stdin, out: true, err: true})
			}))
		},
	}
	c.Flags().BoolVarP(&attach, "attach", "a", false, "stay with it and pass its output and exit code on")
	c.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input on, too")
	return c
}

// streams are those of ours that a container is given. What it writes to
// another is in its log alone.
type streams struct{ in, out, err bool }

// foreground runs a container here; its exit code is ours. Signals to whittle
// are passed on.
func (p *program) foreground(ctx context.Context, w *whittle.Whittle, ct *container.Container, given streams) (err error) {
	signals, stop, err := p.signals.take(unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	if err != nil {
		return err
	}
	defer stop()
	// When nobody reads our output, the container is to hear of it, and not us.
	signal.Ignore(unix.SIGPIPE)
	std := container.Streams{Signals: signals}
	if given.in {
		std.In = p.stdin
	}
	if given.out {
		std.Out = p.stdout
	}
	if given.err {
		std.Err = p.stderr
	}
	if ct.Spec.TTY {
		t, err := p.terminal(given.in)
		if err != nil {
			return err
		}
		defer t.Close()
		std.Sizes = t.Sizes()
	}
	st, err := w.Containers().Run(ctx, ct, std, func() { p.signals.passOn.Store(true) })
	if errors.Is(err, errInterrupted) {
		return err // before it ran
	}
	if err != nil {
		p.report(p.stderr, container.Explain(err, ct.ImageName))
		return codeError(container.StartCode(err))
	}
	return codeOrNil(st.Code)
}

// terminal gives our terminal to a container: with its keys, or only to write
// to, which needs none to be there.
func (p *program) terminal(keys bool) (*container.Terminal, error) {
	if !keys {
		return container.WatchTerminal(p.stdout), nil
	}
	t, err := container.OpenTerminal(p.stdin)
	if err != nil {
		return nil, errNoTerminal
	}
	return t, nil
}
