package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/progress"
)

func (p *program) pullCommand() *cobra.Command {
	var quiet bool
	var platform string
	c := &cobra.Command{
		Use: "pull [flags] NAME[:TAG]", Short: "Bring an image from its registry into the store",
		Example: "  whittle pull alpine:3.20\n  whittle pull localhost:5000/app",
		Args:    args(1, 1, "one image"),
		RunE: func(c *cobra.Command, a []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				return p.transfer(quiet, func(sink progress.Sink) error {
					s, err := w.Pull(c.Context(), a[0], platform, sink)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(p.stdout, s.Image.ID)
					return err
				})
			})
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the image ID")
	c.Flags().StringVar(&platform, "platform", "", "`OS/ARCH` of the image (default this machine's)")
	return c
}

func (p *program) pushCommand() *cobra.Command {
	var quiet bool
	var form whittle.Compression
	c := &cobra.Command{
		Use: "push [flags] NAME[:TAG]", Short: "Upload an image to the registry in its name",
		Example: "  whittle tag app localhost:5000/app\n  whittle push localhost:5000/app",
		Args:    args(1, 1, "one image"),
		RunE: func(c *cobra.Command, a []string) error {
			if err := checkCompression(form); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				return p.transfer(quiet, func(sink progress.Sink) error {
					d, err := w.Push(c.Context(), a[0], form, sink)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(p.stdout, d)
					return err
				})
			})
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the manifest's digest")
	compressionFlags(c, &form, "gzip", "sent: gzip, zstd or uncompressed; a pulled one that the registry has, or lends, stays what it is")
	return c
}

func compressionFlags(c *cobra.Command, form *whittle.Compression, preset, what string) {
	c.Flags().StringVar(&form.Format, "compression", preset, "`FORM` of the layers that are "+what)
	c.Flags().IntVar(&form.Level, "compression-level", 0, "`N` from 1 to 9 for gzip, to 22 for zstd (default the form's own)")
}

func checkCompression(form whittle.Compression) error {
	if form.Format == "" {
		return &usageError{errors.New("--compression is empty: there are gzip, zstd and uncompressed"), ""}
	}
	if err := form.Check(); err != nil {
		return &usageError{err, "for example --compression zstd --compression-level 3"}
	}
	return nil
}

// transfer shows the progress of a pull or a push.
func (p *program) transfer(quiet bool, fn func(progress.Sink) error) error {
	mode := "auto"
	if quiet {
		mode = "quiet"
	}
	display, err := progress.New(mode, p.stderr, p.displayOptions())
	if err != nil {
		return err
	}
	return errors.Join(fn(display), display.Close())
}
