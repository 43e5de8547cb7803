package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
)

// withContainer runs fn with the container that ref means.
func (p *program) withContainer(ref string, fn func(*whittle.Whittle, *container.Container) error) error {
	return p.withStore(func(w *whittle.Whittle) error {
		ct, err := w.Containers().Find(ref)
		if err != nil {
			return err
		}
		return fn(w, ct)
	})
}

// eachContainer does something to several containers and prints the names it
// was done to; one failure does not keep it from the others.
func (p *program) eachContainer(ctx context.Context, refs []string, fn func(*whittle.Whittle, *container.Container) error) error {
	return p.withStore(func(w *whittle.Whittle) error {
		bad := false
		for _, ref := range refs {
			ct, err := w.Containers().Find(ref)
			if err == nil {
				err = fn(w, ct)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == nil {
				_, err = fmt.Fprintln(p.stdout, ref)
			}
			if err != nil {
				p.report(p.stderr, err)
				bad = true
			}
		}
		if bad {
			return codeError(exitFailed)
		}
		return nil
	})
}

func (p *program) rmCommand() *cobra.Command {
	var force, volumes bool
	c := &cobra.Command{
		Use: "rm [flags] CONTAINER...", Short: "Remove containers",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withStore(func(w *whittle.Whittle) error { return p.remove(c.Context(), w, a, force) })
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "kill running containers first, and do not fail over those that are not there")
	c.Flags().BoolVarP(&volumes, "volumes", "v", false, "accepted: all that a container wrote goes with it")
	return c
}

// remove removes containers. One that is not there is what rm -f wants, as it
// is for docker.
func (p *program) remove(ctx context.Context, w *whittle.Whittle, refs []string, force bool) error {
	bad := false
	for _, ref := range refs {
		ct, err := w.Containers().Find(ref)
		if err == nil {
			err = w.Containers().Remove(ctx, ct, force)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			_, err = fmt.Fprintln(p.stdout, ref)
		}
		if err != nil {
			p.report(p.stderr, err)
			bad = bad || !force || !errors.Is(err, container.ErrNotFound)
		}
	}
	if bad {
		return codeError(exitFailed)
	}
	return nil
}

func (p *program) stopCommand() *cobra.Command {
	var f stopFlags
	c := &cobra.Command{
		Use: "stop [flags] CONTAINER...", Short: "End running containers",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			if err := f.parse(); err != nil {
				return err
			}
			return p.eachContainer(c.Context(), a, func(w *whittle.Whittle, ct *container.Container) error {
				return f.stop(c, w, ct, false)
			})
		},
	}
	f.add(c)
	return c
}

func (p *program) restartCommand() *cobra.Command {
	var f stopFlags
	c := &cobra.Command{
		Use: "restart [flags] CONTAINER...", Short: "End containers if they run, and start them again",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			if err := f.parse(); err != nil {
				return err
			}
			return p.eachContainer(c.Context(), a, func(w *whittle.Whittle, ct *container.Container) error {
				if err := f.stop(c, w, ct, true); err != nil {
					return err
				}
				return unlessRuns(p.detached(w, ct))
			})
		},
	}
	f.add(c)
	return c
}

// stopFlags say how to end a container.
type stopFlags struct {
	seconds int
	signal  string
	number  unix.Signal
}

func (f *stopFlags) add(c *cobra.Command) {
	c.Flags().IntVarP(&f.seconds, "time", "t", 10, "seconds until it is killed; below 0 never")
	c.Flags().IntVar(&f.seconds, "timeout", 10, "the same as --time")
	_ = c.Flags().MarkHidden("timeout") // it was just defined
	c.Flags().StringVarP(&f.signal, "signal", "s", "", "send this instead of the image's STOPSIGNAL")
}

func (f *stopFlags) parse() (err error) {
	if f.signal != "" {
		f.number, err = parseSignal(f.signal)
	}
	return err
}

func (f *stopFlags) stop(c *cobra.Command, w *whittle.Whittle, ct *container.Container, keep bool) error {
	wait := time.Duration(f.seconds) * time.Second
	if !c.Flags().Changed("time") && !c.Flags().Changed("timeout") {
		wait = ct.StopWait()
	}
	return w.Containers().Stop(c.Context(), ct, container.Ending{Signal: f.number, Wait: wait, Keep: keep})
}

func parseSignal(s string) (unix.Signal, error) {
	if sig := container.ParseSignal(s); sig != 0 {
		return sig, nil
	}
	return 0, &usageError{fmt.Errorf("signal %q: there is no such signal", s), "for example SIGHUP, HUP or 1"}
}

func (p *program) killCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "kill [flags] CONTAINER...", Short: "Send a signal to running containers",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			sig, err := parseSignal(name)
			if err != nil {
				return err
			}
			return p.eachContainer(c.Context(), a, func(w *whittle.Whittle, ct *container.Container) error {
				if sig == unix.SIGKILL && ct.Running {
					return w.Containers().Kill(c.Context(), ct)
				}
				return w.Containers().Signal(c.Context(), ct, sig)
			})
		},
	}
	c.Flags().StringVarP(&name, "signal", "s", "KILL", "the signal")
	return c
}

func (p *program) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER...", Short: "Wait until containers have ended, and print their exit codes",
		Args: args(1, -1, "a container"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withStore(func(w *whittle.Whittle) error { return p.wait(c.Context(), w, a) })
		},
	}
}

// wait prints the exit codes of containers, in the order of their names. All
// are watched from the first moment, since one may end and be removed while
// another is waited for.
func (p *program) wait(ctx context.Context, w *whittle.Whittle, refs []string) error {
	bad := false
	var watches []*container.Watch
	for _, ref := range refs {
		watch, err := p.watch(w, ref)
		if err != nil {
			p.report(p.stderr, err)
			bad = true
			continue
		}
		defer watch.Close()
		watches = append(watches, watch)
	}
	for _, watch := range watches {
		if err := watch.Wait(ctx, 0); err != nil {
			return err
		}
		code, err := watch.Code()
		if err != nil {
			p.report(p.stderr, err)
			bad = true
			continue
		}
		if _, err := fmt.Fprintln(p.stdout, code); err != nil {
			return err
		}
	}
	if bad {
		return codeError(exitFailed)
	}
	return nil
}

func (p *program) watch(w *whittle.Whittle, ref string) (*container.Watch, error) {
	ct, err := w.Containers().Find(ref)
	if err != nil {
		return nil, err
	}
	return w.Containers().Watch(ct)
}

func (p *program) portCommand() *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PORT]", Short: "Print which ports of the host lead into a container",
		Args: args(1, 2, "a container and perhaps one of its ports"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withContainer(a[0], func(_ *whittle.Whittle, ct *container.Container) error {
				return p.writePorts(ct, a[1:])
			})
		},
	}
}

// writePorts lists all published ports, or where the one asked for leads.
func (p *program) writePorts(ct *container.Container, asked []string) error {
	var out strings.Builder
	for _, b := range ct.Bound {
		switch {
		case len(asked) == 0:
			fmt.Fprintf(&out, "%d/tcp -> %s\n", b.Container, b.Address())
		case strings.TrimSuffix(asked[0], "/tcp") == strconv.Itoa(b.Container):
			fmt.Fprintln(&out, b.Address())
		}
	}
	if len(asked) > 0 && out.Len() == 0 {
		return &container.Error{Msg: fmt.Sprintf("container %s: no port of the host leads to its port %s", ct.Name, asked[0]),
			Way: "run it with -p, and see ps for those that there are"}
	}
	_, err := io.WriteString(p.stdout, out.String())
	return err
}

func (p *program) logsCommand() *cobra.Command {
	var v container.LogView
	var tail, since, until string
	c := &cobra.Command{
		Use: "logs [flags] CONTAINER|BUILD", Short: "Print what a container wrote, or the steps of a build",
		Long: `Print what a container wrote so far. When no container is called so, print what the steps of
the build with that id wrote: all of it, as build --progress plain shows it. A build tells its
id when it fails. The logs of the last 100 builds that ran steps are kept, and prune takes them.
-t, --since and --until are for containers.`,
		Example: "  whittle logs -f --tail 20 web\n  whittle logs k7m2qx4d",
		Args:    args(1, 1, "one container or build"),
		RunE: func(c *cobra.Command, a []string) error {
			now := time.Now()
			if err := parseLogView(&v, tail, since, until, now); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				ct, err := w.Containers().Find(a[0])
				if errors.Is(err, container.ErrNotFound) {
					return p.buildLog(c.Context(), w, a[0], v)
				}
				if err != nil {
					return err
				}
				return w.Containers().Logs(c.Context(), ct, p.stdout, p.stderr, v)
			})
		},
	}
	c.Flags().BoolVarP(&v.Follow, "follow", "f", false, "go on until it ends")
	c.Flags().BoolVarP(&v.Stamps, "timestamps", "t", false, "show when each line was written")
	c.Flags().StringVarP(&tail, "tail", "n", "all", "show only so many lines from the end")
	c.Flags().StringVar(&until, "until", "", "show only what was written before a `TIME`, or longer ago than that (10m)")
	c.Flags().StringVar(&since, "since", "", "show only what was written since a `TIME` (2026-01-02T15:04:05Z) or for so long (10m)")
	return c
}

func parseLogView(v *container.LogView, tail, since, until string, now time.Time) (err error) {
	if tail != "all" && tail != "" {
		n, err := strconv.Atoi(tail)
		if err != nil {
			return &usageError{fmt.Errorf("--tail %q: is no number", tail), "for example --tail 20"}
		}
		v.Tail, v.Last = n >= 0, n
	}
	if v.Since, err = parseTime("--since", since, now); err != nil {
		return err
	}
	v.Until, err = parseTime("--until", until, now)
	return err
}

// parseTime reads docker's times: one on the clock, so long before now, or
// seconds since 1970. None is the zero time.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	return time.Time{}, &usageError{fmt.Errorf("%s %q: is no time", flag, s), "for example " + flag + " 10m or " + flag + " 2026-01-02T15:04:05Z"}
}
