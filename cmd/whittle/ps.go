package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/image"
)

// psRow is one container of the list, with docker's names for its columns.
type psRow struct {
	ID         string
	Image      string
	Command    string
	CreatedAt  string
	RunningFor string // since it was created
	Ports      string
	State      string
	Status     string
	Names      string
	Labels     string
	Networks   string
	Mounts     string
	Size       string // what it wrote, and with its image; 0B when it was not asked for
}

// psTitles are the columns' names where they are not the fields' in capitals.
var psTitles = [...][2]string{{"ID", "CONTAINER ID"}, {"RunningFor", "CREATED"}, {"CreatedAt", "CREATED AT"}}

type psFlags struct {
	all, quiet, whole, latest, size bool
	last                            int
	format                          string
	filters                         []string
}

func (p *program) psCommand() *cobra.Command {
	var f psFlags
	c := &cobra.Command{
		Use: "ps [flags]", Short: "List containers",
		Example: "  whittle ps -a\n  whittle ps -q --filter name=web\n  whittle ps -a --format '{{.Names}}: {{.Status}}'",
		Args:    args(0, 0, "no operand"),
		RunE: func(*cobra.Command, []string) error {
			filters, err := parseFilters(f.filters)
			if err != nil {
				return err
			}
			list, err := parseList(f.format, psTitles[:])
			if err != nil {
				return err
			}
			return p.withStore(func(w *whittle.Whittle) error {
				all, err := w.Containers().List()
				if err != nil {
					return err
				}
				chosen := f.choose(all, filters)
				rows := f.rows(chosen, w.Now())
				if f.size || list.has("Size") {
					if err := addSizes(w, chosen, rows); err != nil {
						return err
					}
				}
				return p.writeContainers(rows, &f, list)
			})
		},
	}
	c.Flags().BoolVarP(&f.all, "all", "a", false, "also those that do not run")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "only IDs")
	c.Flags().BoolVar(&f.whole, "no-trunc", false, "whole IDs and commands")
	c.Flags().IntVarP(&f.last, "last", "n", -1, "only the `N` youngest, whether they run or not")
	c.Flags().BoolVarP(&f.latest, "latest", "l", false, "only the youngest, whether it runs or not")
	c.Flags().StringArrayVarP(&f.filters, "filter", "f", nil, "only those with `KEY=VALUE`: name, id, status, label, ancestor or exited")
	c.Flags().BoolVarP(&f.size, "size", "s", false, "also how much each has written, and how much it is with its image")
	c.Flags().StringVar(&f.format, "format", "", formatHelp)
	return c
}

// choose picks the containers to list.
func (f *psFlags) choose(list []*container.Container, filters psFilters) []*container.Container {
	last := f.last
	if f.latest {
		last = 1
	}
	all := f.all || last >= 0 || filters["status"] != nil || filters["exited"] != nil
	var out []*container.Container
	for _, c := range list {
		if (all || c.Running) && filters.match(c) {
			out = append(out, c)
		}
	}
	if last >= 0 && len(out) > last {
		out = out[:last]
	}
	return out
}

// psFilters are values by key: of one key any may fit, of all keys one must.
type psFilters map[string][]string

// matchers tell whether a container fits a value.
var matchers = map[string]func(c *container.Container, v string) bool{
	"name":   func(c *container.Container, v string) bool { return matchName(c.Name, v) },
	"id":     func(c *container.Container, v string) bool { return strings.HasPrefix(c.ID, v) },
	"status": func(c *container.Container, v string) bool { return c.State() == v },
	"exited": func(c *container.Container, v string) bool {
		return c.State() == container.Exited && strconv.Itoa(c.ExitCode) == v
	},
	"ancestor": func(c *container.Container, v string) bool { return matchImage(c, v) },
	"label":    func(c *container.Container, v string) bool { return matchLabel(c.Spec.Labels, v) },
}

func parseFilters(list []string) (psFilters, error) {
	out := psFilters{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || matchers[k] == nil {
			return nil, &usageError{fmt.Errorf("--filter %q: unknown", s), "there are name=, id=, status=, label=, ancestor= and exited="}
		}
		if states := []string{container.Created, container.Running, container.Exited}; k == "status" && !slices.Contains(states, v) {
			return nil, &usageError{fmt.Errorf("--filter %q: there is no such status", s), "there are " + strings.Join(states, ", ")}
		}
		out[k] = append(out[k], v)
	}
	return out, nil
}

func (f psFilters) match(c *container.Container) bool {
	for k, values := range f {
		if !slices.ContainsFunc(values, func(v string) bool { return matchers[k](c, v) }) {
			return false
		}
	}
	return true
}

// matchName finds v in a name; ^ and $ bind it to the name's ends, and a slash
// in front, which docker's own names have, is left out.
func matchName(name, v string) bool {
	v, begin := strings.CutPrefix(v, "^")
	v = strings.TrimPrefix(v, "/")
	v, end := strings.CutSuffix(v, "$")
	switch {
	case begin && end:
		return name == v
	case begin:
		return strings.HasPrefix(name, v)
	case end:
		return strings.HasSuffix(name, v)
	}
	return strings.Contains(name, v)
}

// matchImage compares the image that a container was made from.
func matchImage(c *container.Container, v string) bool {
	if strings.HasPrefix(c.Image.String(), v) || len(v) >= 4 && strings.HasPrefix(c.Image.Hex(), v) {
		return true
	}
	want, err := image.ParseName(v)
	have, herr := image.ParseName(c.ImageName)
	return err == nil && herr == nil && want == have
}

func (f *psFlags) rows(list []*container.Container, now time.Time) []psRow {
	var rows []psRow
	for _, c := range list {
		rows = append(rows, f.row(c, now))
	}
	return rows
}

func (f *psFlags) row(c *container.Container, now time.Time) psRow {
	r := psRow{ID: c.ID, Image: c.ImageName, Command: strconv.Quote(strings.Join(c.Spec.Args, " ")),
		CreatedAt: c.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), RunningFor: image.HumanAge(now.Sub(c.Created)),
		State: c.State(), Status: c.Status(now, image.HumanAge), Names: c.Name, Networks: c.Spec.Network, Size: image.HumanSize(0)}
	if !f.whole {
		r.ID = r.ID[:12]
		if cmd := []rune(r.Command); len(cmd) > 22 {
			r.Command = string(cmd[:20]) + `…"`
		}
	}
	var ports, labels, mounts []string
	for _, b := range c.Bound {
		if c.Running {
			ports = append(ports, b.String())
		}
	}
	for k, v := range c.Spec.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	for _, m := range c.Spec.Mounts {
		mounts = append(mounts, m.Source)
	}
	r.Ports, r.Labels, r.Mounts = strings.Join(ports, ", "), strings.Join(labels, ","), strings.Join(mounts, ",")
	return r
}

func addSizes(w *whittle.Whittle, list []*container.Container, rows []psRow) error {
	for i, c := range list {
		written, whole, err := w.ContainerSize(c)
		if err != nil {
			return err
		}
		rows[i].Size = fmt.Sprintf("%s (virtual %s)", image.HumanSize(written), image.HumanSize(whole))
	}
	return nil
}

func (p *program) writeContainers(rows []psRow, f *psFlags, list *listFormat) error {
	switch {
	case list != nil: // docker's custom formats win over -q
		return writeList(p.stdout, list, rows)
	case f.quiet:
		return writeList(p.stdout, &listFormat{line: format{{path: []string{"ID"}, field: true}}}, rows)
	}
	t := tabwriter.NewWriter(p.stdout, 10, 1, 3, ' ', 0)
	title := "CONTAINER ID\tIMAGE\tCOMMAND\tCREATED\tSTATUS\tPORTS\tNAMES"
	if f.size {
		title += "\tSIZE"
	}
	fmt.Fprintln(t, title)
	for _, r := range rows {
		cells := []string{r.ID, r.Image, r.Command, r.RunningFor, r.Status, r.Ports, r.Names}
		if f.size {
			cells = append(cells, r.Size)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

var errFormat = errors.New("is not understood")
