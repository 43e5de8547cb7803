package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/progress"
)

// versionInfo has the shape of docker version's: whittle is both sides.
type versionInfo struct{ Client, Server versionPart }

type versionPart struct{ Version, GoVersion, Os, Arch string }

func (p *program) versionCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "version [flags]", Short: "Print the version",
		Example: "  whittle version\n  whittle version --format '{{.Client.Version}}'",
		Args:    args(0, 0, "no operand"),
		RunE: func(*cobra.Command, []string) error {
			list, err := parseList(format, nil)
			if err != nil {
				return err
			}
			if list == nil {
				return p.printVersion()
			}
			me := versionPart{p.version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return writeList(p.stdout, list, []versionInfo{{me, me}})
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "json, or fields: '{{.Client.Version}}'")
	return c
}

func (p *program) printVersion() error {
	_, err := fmt.Fprintf(p.stdout, "whittle %s %s/%s %s\n", p.version, runtime.GOOS, runtime.GOARCH, runtime.Version())
	return err
}

func (p *program) inspectCommand() *cobra.Command {
	var format, kind string
	c := &cobra.Command{
		Use: "inspect [flags] NAME|ID...", Short: "Show all that is known of images and containers, as JSON",
		Example: "  whittle inspect app\n  whittle inspect -f '{{.State.ExitCode}}' web",
		Args:    args(1, -1, "an image or a container"),
		RunE: func(c *cobra.Command, a []string) error {
			if kind != "" && kind != "image" && kind != "container" {
				return &usageError{fmt.Errorf("--type %q: unknown", kind), "there are image and container"}
			}
			if format == "json" {
				format = "{{json .}}"
			}
			f, err := parseFormat(format)
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.inspect(w, a, kind, f) })
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "print fields: '{{.State.ExitCode}}', '{{json .Config.Env}}'")
	c.Flags().StringVar(&kind, "type", "", "look only for an image or only for a container")
	return c
}

// inspect shows what it finds; what it does not find makes it fail at its end.
func (p *program) inspect(w *whittle.Whittle, refs []string, kind string, f format) error {
	out := []any{}
	var errs []error
	for _, ref := range refs {
		x, err := w.Inspect(ref, kind)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if f == nil {
			out = append(out, x)
			continue
		}
		s, err := f.renderInspected(x)
		if err == nil {
			_, err = fmt.Fprintln(p.stdout, s)
		}
		errs = append(errs, err)
	}
	if f == nil {
		errs = append(errs, p.writeJSON(out))
	}
	return errors.Join(errs...)
}

func (p *program) writeJSON(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (p *program) infoCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "info [flags]", Short: "Show the store, the root-file-system providers and why one was chosen",
		Args: args(0, 0, "no operand"),
		RunE: func(*cobra.Command, []string) error {
			list, err := parseList(format, nil)
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				info, err := w.Info()
				if err != nil {
					return err
				}
				if list == nil {
					return info.Write(p.stdout, p.version)
				}
				return writeList(p.stdout, list, []dockerInfo{{p.version, info.Chosen, info.Root, info.Images, runtime.GOOS, runtime.GOARCH}})
			})
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "json, or fields: '{{.ServerVersion}}', '{{.DockerRootDir}}'")
	return c
}

// dockerInfo is what there is of docker info, by its names.
type dockerInfo struct {
	ServerVersion, Driver, DockerRootDir string
	Images                               int
	OSType, Architecture                 string
}

func isTerminal(f *os.File) bool { return progress.IsTerminal(f) }
