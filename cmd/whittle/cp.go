package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
)

func (p *program) cpCommand() *cobra.Command {
	var o container.CopyOptions
	var quiet bool
	c := &cobra.Command{
		Use:   "cp [flags] CONTAINER:PATH DEST|-  |  SOURCE|- CONTAINER:PATH",
		Short: "Copy files out of a container, or into it; - is a tar on standard output or input",
		Example: "  whittle cp extract:/go/src/app ./app\n  whittle cp ./conf/. extract:/etc/conf\n" +
			"  tar c . | whittle cp - extract:/src",
		Args: args(2, 2, "a source and a destination"),
		RunE: func(c *cobra.Command, a []string) error {
			from, fromPath, out := containerPath(a[0])
			to, toPath, in := containerPath(a[1])
			switch {
			case in && out:
				return &usageError{errors.New("both paths are of containers"), fmt.Sprintf("through a pipe: %s cp %s - | %s cp - %s", p.name, a[0], p.name, a[1])}
			case out:
				return p.withContainer(from, func(w *whittle.Whittle, ct *container.Container) error {
					return p.copyFrom(w, ct, fromPath, a[1], o)
				})
			case in && a[0] == "-":
				return p.withContainer(to, func(w *whittle.Whittle, ct *container.Container) error {
					return w.Containers().ArchiveTo(c.Context(), ct, p.stdin, toPath)
				})
			case in:
				return p.withContainer(to, func(w *whittle.Whittle, ct *container.Container) error {
					return w.Containers().CopyTo(c.Context(), ct, a[0], toPath, o)
				})
			}
			return &usageError{errors.New("neither path is of a container"), "write CONTAINER:PATH on one side"}
		},
	}
	c.Flags().BoolVarP(&o.Follow, "follow-link", "L", false, "follow a symlink as source")
	c.Flags().BoolVarP(&o.Owner, "archive", "a", false, "keep the numbers of owner and group")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "accepted: no progress is shown")
	return c
}

func (p *program) copyFrom(w *whittle.Whittle, ct *container.Container, from, to string, o container.CopyOptions) error {
	set := w.Containers()
	if to == "-" {
		return p.tarOut(func(out io.Writer) error { return set.ArchiveFrom(ct, from, o.Follow, out) })
	}
	skipped, err := set.CopyFrom(ct, from, to, o)
	if skipped > 0 {
		fmt.Fprintf(p.stderr, "%s: %d devices, sockets and fifos were left out\n", p.name, skipped)
	}
	return err
}

// tarOut lets fn write a tar to standard output.
func (p *program) tarOut(fn func(io.Writer) error) error {
	if isTerminal(p.stdout) {
		return &usageError{errors.New("standard output is a terminal, and a tar is no text"), "send it to a file or a pipe"}
	}
	return fn(p.stdout)
}

func (p *program) exportCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "export [flags] CONTAINER", Short: "Write all files of a container as a tar",
		Example: "  whittle export app | whittle import - flat",
		Args:    args(1, 1, "one container"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withContainer(a[0], func(w *whittle.Whittle, ct *container.Container) error {
				export := func(out io.Writer) error { return w.Containers().Export(ct, out) }
				if file == "" {
					return p.tarOut(export)
				}
				return whittle.WriteFile(file, export)
			})
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "write to `FILE` instead of standard output")
	return c
}

// containerPath takes CONTAINER:PATH apart. What begins with / or . and what
// has a / before its colon is of the host, and so is -.
func containerPath(s string) (name, path string, ok bool) {
	name, path, ok = strings.Cut(s, ":")
	if !ok || name == "" || strings.ContainsRune(name, '/') || strings.HasPrefix(name, ".") {
		return "", s, false
	}
	return name, path, true
}
