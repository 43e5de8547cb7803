package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/image"
)

// pruneFlags are those of every prune.
type pruneFlags struct {
	force   bool
	filters []string
}

func (f *pruneFlags) add(c *cobra.Command) {
	c.Flags().BoolVarP(&f.force, "force", "f", false, "do not ask (whittle never does)")
	c.Flags().StringArrayVar(&f.filters, "filter", nil, "only what is so old: `until=TIME`, as until=24h")
}

// age sets how old a thing must be to go; what the filters say goes before
// what stands there.
func (f *pruneFlags) age(old *time.Duration) error {
	now := time.Now()
	for _, filter := range f.filters {
		value, ok := strings.CutPrefix(filter, "until=")
		if !ok || value == "" {
			return &usageError{fmt.Errorf("--filter %q: unknown", filter), "prune has until=TIME, for example --filter until=24h"}
		}
		t, err := parseTime("--filter until=", value, now)
		if err != nil {
			return err
		}
		*old = max(now.Sub(t), 1) // 0 is any age, as with none
	}
	return nil
}

// takeCacheFilter takes docker's filter for cache mounts out of the list.
func takeCacheFilter(filters []string) (rest []string, found bool) {
	for _, f := range filters {
		if f == "type=exec.cachemount" {
			found = true
			continue
		}
		rest = append(rest, f)
	}
	return rest, found
}

func (p *program) pruneCommand() *cobra.Command { return p.prune(whittle.DanglingImages) }

// cachePruneCommand is docker builder prune: images are none of its business.
func (p *program) cachePruneCommand() *cobra.Command { return p.prune(whittle.NoImages) }

func (p *program) prune(images whittle.PruneImages) *cobra.Command {
	req := whittle.PruneRequest{Images: images}
	var keep string
	var f pruneFlags
	c := &cobra.Command{
		Use: "prune [flags]", Short: "Give disk space back",
		Long: `Remove what nobody can use any more: images without a name that no container was made
from, layers that no image, container or build cache knows, and what died with a process.
The flags choose build cache to go too, the least recently used first. What an image with
a name, a container or a running build needs always stays.`,
		Example: "  whittle prune --keep-storage 10GB\n  whittle prune --unused 168h\n  whittle prune -a\n  whittle prune --filter type=exec.cachemount",
		Args:    args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if req.MaxBytes, err = parseSize("--keep-storage", keep, container.KiloDisk); err != nil {
				return err
			}
			f.filters, req.CacheMounts = takeCacheFilter(f.filters)
			if err := f.age(&req.Unused); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.pruneStore(c.Context(), w, req) })
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&req.All, "all", "a", false, "all build cache that nothing needs")
	c.Flags().DurationVar(&req.Unused, "unused", 0, "build cache that was not used for the `TIME` (72h)")
	c.Flags().StringVar(&keep, "keep-storage", "", "build cache until the store takes at most `SIZE` (10GB)")
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

func (p *program) containerPruneCommand() *cobra.Command {
	var f pruneFlags
	c := &cobra.Command{
		Use: "prune [flags]", Short: "Remove all containers that do not run",
		Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			var age time.Duration
			if err := f.age(&age); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.removeEnded(c.Context(), w, age) })
		},
	}
	f.add(c)
	return c
}

// imagePruneCommand is docker image prune.
func (p *program) imagePruneCommand() *cobra.Command {
	c := p.pruneImagesCommand("all images that no container was made from, also those with a name", p.pruneStore)
	c.Short = "Remove images that have no name and no container"
	return c
}

// systemPruneCommand is docker system prune: containers, images and, with -a,
// build cache that are not in use.
func (p *program) systemPruneCommand() *cobra.Command {
	c := p.pruneImagesCommand("all images that no container was made from, and all build cache that nothing needs",
		func(ctx context.Context, w *whittle.Whittle, req whittle.PruneRequest) error {
			req.All = req.Images == whittle.UnusedImages && req.Unused == 0
			if err := p.removeEnded(ctx, w, req.Unused); err != nil {
				return err
			}
			return p.pruneStore(ctx, w, req)
		})
	c.Short = "Remove containers that do not run and images without a name"
	c.Flags().Bool("volumes", false, "accepted: a volume goes with its container")
	return c
}

// pruneImagesCommand prunes images without a name or, with -a, all that are not
// in use.
func (p *program) pruneImagesCommand(all string, prune func(context.Context, *whittle.Whittle, whittle.PruneRequest) error) *cobra.Command {
	var every bool
	var f pruneFlags
	c := &cobra.Command{
		Use: "prune [flags]", Args: args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			var req whittle.PruneRequest
			if every {
				req.Images = whittle.UnusedImages
			}
			if err := f.age(&req.Unused); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return prune(c.Context(), w, req) })
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&every, "all", "a", false, all)
	return c
}

// removeEnded removes the containers that do not run and were made so long
// ago. What was started or removed while it was at it is none of its business.
func (p *program) removeEnded(ctx context.Context, w *whittle.Whittle, age time.Duration) error {
	list, err := w.Containers().List()
	if err != nil {
		return err
	}
	for _, ct := range list {
		if ct.Running || time.Since(ct.Created) < age {
			continue
		}
		err := w.Containers().Remove(ctx, ct, false)
		if errors.Is(err, container.ErrRunning) {
			continue
		}
		if err == nil {
			_, err = fmt.Fprintln(p.stdout, ct.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
