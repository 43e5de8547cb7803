package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/store"
)

func (p *program) duCommand() *cobra.Command {
	return &cobra.Command{
		Use: "du", Short: "Show what the store holds and how much of it could go",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				list, err := w.Usage(c.Context())
				if err != nil {
					return err
				}
				return whittle.WriteUsage(p.stdout, list)
			})
		},
	}
}

func (p *program) pruneCommand() *cobra.Command { return p.prune(whittle.DanglingImages) }

// cachePruneCommand is docker builder prune: images are none of its business.
func (p *program) cachePruneCommand() *cobra.Command { return p.prune(whittle.NoImages) }

func (p *program) prune(images whittle.PruneImages) *cobra.Command {
	req := whittle.PruneRequest{Images: images}
	var keep string
	var force bool
	c := &cobra.Command{
		Use: "prune [flags]", Short: "Give disk space back",
		Long: `Remove what nobody can use any more: images without a name that no container was made
from, layers that no image, container or build cache knows, and what died with a process.
The flags choose build cache to go too, the least recently used first. What an image with
a name, a container or a running build needs always stays.`,
		Example: "  whittle prune --keep-storage 10GB\n  whittle prune --unused 168h\n  whittle prune -a",
		Args:    args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if req.MaxBytes, err = parseSize("--keep-storage", keep, container.KiloDisk); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.pruneStore(c.Context(), w, req) })
		},
	}
	c.Flags().BoolVarP(&req.All, "all", "a", false, "all build cache that nothing needs")
	c.Flags().DurationVar(&req.Unused, "unused", 0, "build cache that was not used for the `TIME` (72h)")
	c.Flags().StringVar(&keep, "keep-storage", "", "build cache until the store takes at most `SIZE` (10GB)")
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask (whittle never does)")
	return c
}

// imagePruneCommand is docker image prune.
func (p *program) imagePruneCommand() *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use: "prune [flags]", Short: "Remove images that have no name and no container",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			var req whittle.PruneRequest
			if all {
				req.Images = whittle.UnusedImages
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.pruneStore(c.Context(), w, req) })
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "all images that no container was made from, also those with a name")
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask (whittle never does)")
	return c
}

// pruneStore prunes and tells what went.
func (p *program) pruneStore(ctx context.Context, w *whittle.Whittle, req whittle.PruneRequest) error {
	done, err := w.Prune(ctx, req)
	for _, r := range done.Images {
		err = errors.Join(err, p.writeRemoved(r))
	}
	if err != nil {
		return err
	}
	if done.Busy {
		fmt.Fprintf(p.stderr, "%s: builds are running: what they use was kept\n", p.name)
	}
	_, err = fmt.Fprintf(p.stdout, "Total reclaimed space: %s (%d layers, %d records, %d blobs, %d caches, %d leftovers)\n",
		image.HumanSize(done.Bytes), done.Layers, done.Records, done.Blobs, done.Caches, done.Temps)
	return err
}

func (p *program) fsckCommand() *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use: "fsck [flags]", Short: "Check every promise of the store",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(func(w *whittle.Whittle) error {
				began := time.Now()
				problems, err := w.Fsck(c.Context(), repair)
				if err != nil {
					return err
				}
				return p.writeProblems(problems, time.Since(began))
			})
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "remove what is damaged, so that a build makes it again")
	return c
}

// writeProblems prints what fsck found; what is not repaired makes it fail.
// The leftovers of killed processes are told and are no problem.
func (p *program) writeProblems(problems []store.Problem, took time.Duration) error {
	count, open := 0, 0
	for _, x := range problems {
		if _, err := fmt.Fprintln(p.stdout, x); err != nil {
			return err
		}
		if x.Leftover() {
			continue
		}
		count++
		if !x.Repaired {
			open++
		}
	}
	if _, err := fmt.Fprintf(p.stdout, "%d problems, %d open (%.1fs)\n", count, open, took.Seconds()); err != nil {
		return err
	}
	if open > 0 {
		return codeError(exitFailed)
	}
	return nil
}
