package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/image"
)

// imageTitles are the columns' names where they are not the fields' in capitals.
var imageTitles = [...][2]string{{"ID", "IMAGE ID"}, {"CreatedSince", "CREATED"}, {"CreatedAt", "CREATED AT"}}

func (p *program) imagesCommand() *cobra.Command {
	var v image.View
	var format string
	var filters []string
	var all bool
	c := &cobra.Command{
		Use: "images [flags] [NAME|PATTERN]", Short: "List images: names, ID, age, uncompressed size",
		Example: "  whittle images\n  whittle images app\n  whittle images --format json | jq .Size\n  whittle images --format '{{.Repository}}:{{.Tag}}'",
		Args:    args(0, 1, "at most one name"),
		RunE: func(c *cobra.Command, a []string) error {
			form, err := parseList(format, imageTitles[:])
			if err != nil {
				return err
			}
			if len(a) == 1 && strings.ContainsAny(a[0], `*?[\`) {
				filters, a = append(filters, "reference="+a[0]), nil
			}
			wanted, err := parseImageFilters(filters)
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				list, err := w.Images()
				if err != nil {
					return err
				}
				if len(a) == 1 {
					if list, err = named(list, a[0]); err != nil {
						return err
					}
				}
				if list, err = wanted.choose(w, list); err != nil {
					return err
				}
				v.Now = w.Now()
				if form != nil {
					return writeList(p.stdout, form, v.Rows(list))
				}
				return v.WriteList(p.stdout, list)
			})
		},
	}
	c.Flags().BoolVarP(&v.Quiet, "quiet", "q", false, "only IDs")
	c.Flags().BoolVar(&v.NoTrunc, "no-trunc", false, "whole IDs")
	c.Flags().BoolVar(&v.Digests, "digests", false, "a column with the digests that registries know")
	c.Flags().StringVar(&format, "format", "", formatHelp)
	c.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those with `KEY=VALUE`: dangling=true (no name), reference=PATTERN, label=K[=V], before=IMAGE or since=IMAGE")
	c.Flags().BoolVarP(&all, "all", "a", false, "all images (there are no hidden ones: steps have no image)")
	return c
}

// named keeps the images of one repository, or of one name.
func named(list []image.Summary, ref string) ([]image.Summary, error) {
	want, err := image.ParseName(ref)
	if err != nil {
		return nil, err
	}
	_, tagged, _ := strings.Cut(ref[strings.LastIndex(ref, "/")+1:], ":")
	var out []image.Summary
	for _, s := range list {
		var names []image.Name
		for _, n := range s.Names {
			if n.Repository() == want.Repository() && (tagged == "" || n.Tag == want.Tag) {
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			s.Names = names
			out = append(out, s)
		}
	}
	return out, nil
}

// historyTitles are the columns' names where they are not the fields' in
// capitals.
var historyTitles = [...][2]string{{"ID", "IMAGE"}, {"CreatedSince", "CREATED"}, {"CreatedAt", "CREATED AT"}, {"CreatedBy", "CREATED BY"}}

func (p *program) historyCommand() *cobra.Command {
	var v image.View
	var format string
	c := &cobra.Command{
		Use: "history [flags] IMAGE", Short: "Show what each instruction added to an image",
		Example: "  whittle history app:latest\n  whittle history --no-trunc app:latest",
		Args:    args(1, 1, "one image"),
		RunE: func(c *cobra.Command, a []string) error {
			form, err := parseList(format, historyTitles[:])
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				s, err := w.Image(a[0])
				if err != nil {
					return err
				}
				v.Now = w.Now()
				if form != nil {
					v.NoTrunc = v.NoTrunc || form.json
					return writeList(p.stdout, form, v.ChangeRows(s.Image))
				}
				return v.WriteHistory(p.stdout, s.Image)
			})
		},
	}
	c.Flags().BoolVarP(&v.Quiet, "quiet", "q", false, "only IDs")
	c.Flags().BoolVar(&v.NoTrunc, "no-trunc", false, "whole instructions")
	c.Flags().StringVar(&format, "format", "", formatHelp)
	return c
}

func (p *program) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME[:TAG]", Short: "Give an image another name",
		Example: "  whittle tag app:latest app:1.2\n  whittle tag app:latest registry.example/team/app:1.2",
		Args:    args(2, 2, "an image and a new name"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withStore(func(w *whittle.Whittle) error { return w.Tag(c.Context(), a[0], a[1]) })
		},
	}
}

func (p *program) rmiCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rmi [flags] IMAGE...", Short: "Remove names of images, and images with their last name",
		Example: "  whittle rmi app:1.2\n  whittle rmi -f 4a1f0c9e2b7d",
		Args:    args(1, -1, "an image"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				var missing, errs []error
				for _, ref := range a {
					done, err := w.RemoveImage(ref, force)
					if force && whittle.IsNotFound(err) {
						missing, err = append(missing, err), nil
					}
					errs = append(errs, p.writeRemoved(done), err)
				}
				// What is not there is what -f wants, as it is for docker.
				for _, err := range missing {
					p.report(p.stderr, err)
				}
				return errors.Join(errs...)
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also an image that has several names, or that a stopped container was made from; do not fail over those that are not there")
	return c
}

// writeRemoved tells what became of an image that was removed.
func (p *program) writeRemoved(done image.Removed) error {
	var b strings.Builder
	for _, n := range done.Untagged {
		fmt.Fprintln(&b, "Untagged:", n)
	}
	if !done.Deleted.IsZero() {
		fmt.Fprintln(&b, "Deleted:", done.Deleted)
	}
	_, err := io.WriteString(p.stdout, b.String())
	return err
}

func (p *program) importCommand() *cobra.Command {
	var changes []string
	var message string
	c := &cobra.Command{
		Use: "import [flags] FILE|- [NAME[:TAG]]", Short: "Make an image of a tar of a file system",
		Example: "  whittle import --change 'CMD [\"/bin/sh\"]' rootfs.tar.gz busybox\n  mmdebstrap bookworm - | whittle import - debian",
		Args:    args(1, 2, "a tar file (or -) and a name"),
		RunE: func(c *cobra.Command, a []string) error {
			in, err := p.input(a[0], "pack it: tar -C "+a[0]+" -c . | "+p.name+" import - NAME")
			if err != nil {
				return err
			}
			defer in.Close()
			name := ""
			if len(a) == 2 {
				name = a[1]
			}
			if message == "" {
				message = "Imported from " + filepath.Base(a[0]) // the folder is nobody else's business
			}
			return p.withStore(func(w *whittle.Whittle) error {
				id, err := w.Import(c.Context(), in, name, changes, message)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(p.stdout, id)
				return err
			})
		},
	}
	c.Flags().StringArrayVarP(&changes, "change", "c", nil, "apply the Dockerfile instruction `INSTR` to the image's config; may be repeated")
	c.Flags().StringVarP(&message, "message", "m", "", "`TEXT` of the comment in the image's history")
	return c
}

// input opens a file to read, or standard input for -. folder is what to do
// with a folder instead.
func (p *program) input(name, folder string) (*os.File, error) {
	if name == "-" || name == "" {
		return p.stdin, nil
	}
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		return nil, &usageError{fmt.Errorf("%s: is a directory", name), folder}
	}
	return os.Open(name)
}

func (p *program) saveCommand() *cobra.Command {
	var out, format string
	var form whittle.Compression
	c := &cobra.Command{
		Use: "save [flags] IMAGE...", Short: "Write images to an archive (docker's, which is an OCI layout as well)",
		Example: "  whittle save -o app.tar app:latest\n  whittle save app | docker load",
		Args:    args(1, -1, "an image"),
		RunE: func(c *cobra.Command, a []string) error {
			if format != "docker" && format != "oci" {
				return &usageError{fmt.Errorf("--format %q: there are docker and oci", format), ""}
			}
			if err := checkCompression(form); err != nil {
				return err
			}
			if form.Format != "uncompressed" && format != "oci" {
				return &usageError{errors.New("--compression: docker's archives have layers as they are"),
					"add --format oci, or send the archive through " + form.Format}
			}
			if out == "" && isTerminal(p.stdout) {
				return &usageError{errors.New("the archive would go to the terminal"), "write -o FILE, or send it through a pipe"}
			}
			return p.withStore(func(w *whittle.Whittle) error {
				if out == "" {
					return w.Save(c.Context(), p.stdout, a, format, form)
				}
				return whittle.WriteFile(out, func(f io.Writer) error { return w.Save(c.Context(), f, a, format, form) })
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "write to `FILE` instead of standard output")
	c.Flags().StringVar(&format, "format", "docker", "`FORM` of the archive: docker (which is an OCI layout too) or oci")
	compressionFlags(c, &form, "uncompressed", "written: uncompressed, or gzip or zstd with --format oci")
	return c
}

func (p *program) loadCommand() *cobra.Command {
	var in string
	var quiet bool
	c := &cobra.Command{
		Use: "load [flags]", Short: "Store the images of an archive (docker's or an OCI layout)",
		Example: "  whittle load -i app.tar\n  docker save app | whittle load",
		Args:    args(0, 0, "no operand (the archive comes from standard input or -i FILE)"),
		RunE: func(c *cobra.Command, a []string) error {
			if in == "" && isTerminal(p.stdin) {
				return &usageError{errors.New("there is no archive: standard input is a terminal"), "write -i FILE, or < FILE"}
			}
			f, err := p.input(in, "pack it, if it is an OCI layout: tar -C "+in+" -c . | "+p.name+" load")
			if err != nil {
				return err
			}
			defer f.Close()
			return p.withStore(func(w *whittle.Whittle) error {
				list, err := w.Load(c.Context(), f)
				if err != nil {
					return fmt.Errorf("%s: %w", cmp.Or(in, "standard input"), err)
				}
				for _, l := range list {
					if err := p.writeLoaded(l); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringVarP(&in, "input", "i", "", "read `FILE` instead of standard input")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress (there is none)")
	return c
}

// writeLoaded tells how an image that was loaded is called.
func (p *program) writeLoaded(l image.Loaded) error {
	if len(l.Names) == 0 {
		_, err := fmt.Fprintln(p.stdout, "Loaded image ID:", l.Image.ID)
		return err
	}
	for _, n := range l.Names {
		if _, err := fmt.Fprintln(p.stdout, "Loaded image:", n.Familiar()); err != nil {
			return err
		}
	}
	return nil
}
