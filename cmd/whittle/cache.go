package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/image"
)

// cacheCommand is the family of what is kept between builds and is no image.
func (p *program) cacheCommand() *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "Take the cache mounts of RUN steps to other machines and back", Args: cobra.ArbitraryArgs, RunE: p.needsVerb}
	m := &cobra.Command{Use: "mounts", Short: "The folders of RUN --mount=type=cache", Args: cobra.ArbitraryArgs, RunE: p.needsVerb}
	m.AddCommand(p.cacheListCommand(), p.cacheExportCommand(), p.cacheImportCommand(), p.cachePruneMountsCommand())
	c.AddCommand(m)
	return c
}

// needsVerb is for a word that stands before verbs.
func (p *program) needsVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	return p.unknown(c, args[0])
}

// cacheFilter chooses caches by their ids.
type cacheFilter struct{ list []string }

func (f *cacheFilter) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.list, "filter", nil, "only those with `id=ID`, in which * is any text; of several, any may hold")
}

// want is nil when there is no filter.
func (f *cacheFilter) want() (func(id string) bool, error) {
	var globs []string
	for _, text := range f.list {
		glob, ok := strings.CutPrefix(text, "id=")
		if !ok || glob == "" {
			return nil, &usageError{fmt.Errorf("--filter %q: unknown", text), "caches have id=ID, for example --filter 'id=*/go-build'"}
		}
		globs = append(globs, glob)
	}
	if len(globs) == 0 {
		return nil, nil
	}
	return func(id string) bool {
		for _, g := range globs {
			if matchGlob(g, id) {
				return true
			}
		}
		return false
	}, nil
}

// matchGlob reports whether text is glob, in which * is any text, slashes too.
func matchGlob(glob, text string) bool {
	parts := strings.Split(glob, "*")
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// cacheTitles are the columns' names where they are not the fields' in capitals.
var cacheTitles = [...][2]string{{"LastUsed", "LAST USED"}, {"InUse", "IN USE"}}

// cacheRow is a line of whittle cache mounts ls.
type cacheRow struct {
	ID, Size, LastUsed, InUse, From, Owner, Name string
	Bytes                                        int64
	UsedAt                                       string
}

func cacheRows(list []whittle.CacheMount, now time.Time) []cacheRow {
	var out []cacheRow
	for _, c := range list {
		r := cacheRow{
			ID: c.ID, Size: image.HumanSize(c.Bytes), LastUsed: image.HumanAge(now.Sub(c.Used)), InUse: "no", From: c.From, Owner: c.Owner,
			Name: c.Identity.Name().Short(), Bytes: c.Bytes, UsedAt: c.Used.UTC().Format(time.RFC3339),
		}
		switch {
		case c.ID == "":
			r.ID, r.Name = "<unknown>", ""
		case c.Number > 0:
			r.Name += fmt.Sprintf("-%d", c.Number)
		}
		switch {
		case c.InUse:
			r.InUse = "yes"
		case c.Retired:
			r.InUse = "replaced"
		}
		out = append(out, r)
	}
	return out
}

func (p *program) cacheListCommand() *cobra.Command {
	var f cacheFilter
	var format string
	c := &cobra.Command{
		Use: "ls [flags]", Short: "List them: id, size, when a step used them last, and whether one does now",
		Example: "  whittle cache mounts ls\n  whittle cache mounts ls --filter 'id=*/go-build' --format json",
		Args:    args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			form, err := parseList(format, cacheTitles[:])
			if err != nil {
				return err
			}
			want, err := f.want()
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				list, err := w.CacheMounts(want)
				if err != nil {
					return err
				}
				rows := cacheRows(list, w.Now())
				if form != nil {
					return writeList(p.stdout, form, rows)
				}
				return p.writeCaches(rows)
			})
		},
	}
	f.add(c)
	c.Flags().StringVar(&format, "format", "", formatHelp)
	return c
}

func (p *program) writeCaches(rows []cacheRow) error {
	t := tabwriter.NewWriter(p.stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tSIZE\tLAST USED\tIN USE\tFROM\tOWNER\tNAME")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Size, r.LastUsed, r.InUse, r.From, r.Owner, r.Name)
	}
	return t.Flush()
}

func (p *program) cacheExportCommand() *cobra.Command {
	var f cacheFilter
	c := &cobra.Command{
		Use: "export [flags] DIR", Short: "Make a folder hold them, for another machine to import",
		Long: `Make the folder DIR hold the chosen cache mounts and nothing else. It is made if need be.
Into the folder of an earlier export only what has changed is written, and what nothing
needs any more is removed: keep DIR between runs of CI, or copy it with rsync -a --delete.`,
		Example: "  whittle cache mounts export .cache/mounts\n  whittle cache mounts export --filter 'id=/root/.cache/*' .cache/mounts",
		Args:    args(1, 1, "a folder"),
		RunE: func(c *cobra.Command, a []string) error {
			want, err := f.want()
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				waited := map[string]bool{}
				done, err := w.ExportCacheMounts(c.Context(), a[0], want, func(id string) {
					if !waited[id] {
						fmt.Fprintf(p.stderr, "%s: the cache %s is in use: waiting for it\n", p.name, id)
					}
					waited[id] = true
				})
				if err != nil {
					return err
				}
				return p.sayExported(done)
			})
		},
	}
	f.add(c)
	return c
}

func (p *program) sayExported(done cachemount.Exported) error {
	if done.Caches == 0 {
		fmt.Fprintf(p.stderr, "%s: the store has no such cache, so the folder holds none: cache mounts ls lists them\n", p.name)
	}
	if done.LeftOut > 0 {
		fmt.Fprintf(p.stderr, "%s: %d left out: sockets, pipes, devices, and files that were written to all the time\n", p.name, done.LeftOut)
	}
	caches := "1 cache"
	if done.Caches != 1 {
		caches = fmt.Sprintf("%d caches", done.Caches)
	}
	_, err := fmt.Fprintf(p.stdout, "Exported %s: %d files, %s; %s in the folder, %s of it new\n",
		caches, done.Files, image.HumanSize(done.Bytes), image.HumanSize(done.Stored), image.HumanSize(done.Written))
	return err
}

func (p *program) cacheImportCommand() *cobra.Command {
	var f cacheFilter
	var req whittle.CacheImport
	c := &cobra.Command{
		Use: "import [flags] DIR", Short: "Take those of an export into the store",
		Long: `Take the chosen cache mounts of an export into the store, where steps find them as on
the machine that they come from. Each is checked, and is there whole or not at all. One that
the store has already is replaced, unless a step uses it at that moment: then it stays. A DIR
that is not there, or empty, is nothing to import, and no mistake.`,
		Example: "  whittle cache mounts import .cache/mounts\n  whittle cache mounts import --if-absent .cache/mounts",
		Args:    args(1, 1, "a folder"),
		RunE: func(c *cobra.Command, a []string) (err error) {
			if req.Want, err = f.want(); err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error { return p.importCaches(c.Context(), w, a[0], req) })
		},
	}
	f.add(c)
	c.Flags().BoolVar(&req.IfAbsent, "if-absent", false, "keep those that the store has already")
	return c
}

func (p *program) importCaches(ctx context.Context, w *whittle.Whittle, dir string, req whittle.CacheImport) error {
	done, err := w.ImportCacheMounts(ctx, dir, req)
	if errors.Is(err, fs.ErrNotExist) {
		if there, err := whittle.FindExport(dir); err == nil && !there {
			fmt.Fprintf(p.stderr, "%s: %s is not there: nothing to import\n", p.name, dir)
			return nil
		}
	}
	if err == nil && len(done) == 0 {
		fmt.Fprintf(p.stderr, "%s: %s has no such cache: nothing to import\n", p.name, dir)
	}
	for _, one := range done {
		switch {
		case one.Busy:
			fmt.Fprintf(p.stderr, "%s: the cache %s is in use: it stays as it is\n", p.name, one.ID)
			continue
		case one.Present:
			fmt.Fprintf(p.stderr, "%s: the cache %s is there: it stays as it is\n", p.name, one.ID)
			continue
		case one.Lacking > 0:
			fmt.Fprintf(p.stderr, "%s: the cache %s: %d owners or attributes of files could not be set here: they have this user's\n", p.name, one.ID, one.Lacking)
		}
		if _, werr := fmt.Fprintf(p.stdout, "%s: %d files, %s\n", one.ID, one.Files, image.HumanSize(one.Bytes)); werr != nil {
			return werr
		}
	}
	return err
}

func (p *program) cachePruneMountsCommand() *cobra.Command {
	var f cacheFilter
	var unused time.Duration
	c := &cobra.Command{
		Use: "prune [flags]", Short: "Remove them, but for those that a step uses now",
		Example: "  whittle cache mounts prune --unused 336h\n  whittle cache mounts prune --filter id=/root/.npm",
		Args:    args(0, 0, "no operand"),
		RunE: func(c *cobra.Command, _ []string) error {
			want, err := f.want()
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				removed, busy, err := w.PruneCacheMounts(want, unused)
				if err != nil {
					return err
				}
				return p.sayPruned(removed, busy, w.Now())
			})
		},
	}
	f.add(c)
	c.Flags().DurationVar(&unused, "unused", 0, "only those that no step used for the `TIME` (72h)")
	return c
}

func (p *program) sayPruned(removed []whittle.CacheMount, busy int, now time.Time) error {
	var bytes int64
	for _, r := range cacheRows(removed, now) {
		bytes += r.Bytes
		if _, err := fmt.Fprintln(p.stdout, r.ID); err != nil {
			return err
		}
	}
	if busy > 0 {
		fmt.Fprintf(p.stderr, "%s: %d are in use, and stay\n", p.name, busy)
	}
	_, err := fmt.Fprintf(p.stdout, "Total reclaimed space: %s\n", image.HumanSize(bytes))
	return err
}
