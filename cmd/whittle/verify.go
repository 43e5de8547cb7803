package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/compare"
	"github.com/whittle-build/whittle/internal/progress"
)

func (p *program) verifyCommand() *cobra.Command {
	var f buildFlags
	var format string
	c := &cobra.Command{
		Use: "verify [flags of build] CONTEXT", Short: "Build twice from nothing, and tell which step makes other files the second time",
		Long: `Run all steps twice without any cache, and compare what each made: which files, and from which byte on, differ. The second time
each step runs on what was made the first time, so that a step that is named differs by itself. No image is left, and cache mounts are as they were: here they begin empty, both times. The exit code is 1 when files differ. Times of files
do not count; with SOURCE_DATE_EPOCH they are compared as rewrite-timestamp would leave them.`,
		Example: "  whittle verify .\n  SOURCE_DATE_EPOCH=0 whittle verify --target app .\n  whittle verify --format json . | jq .steps",
		Args:    args(1, 1, "one build context (a folder; . is this one)"),
		RunE: func(c *cobra.Command, a []string) error {
			f.request.Context = a[0]
			if format != "text" && format != "json" {
				return &usageError{fmt.Errorf("--format %q: there are text and json", format), ""}
			}
			if err := checkUncached(c.Flags()); err != nil {
				return err
			}
			return p.verify(c.Context(), &f, format)
		},
	}
	fl := c.Flags()
	f.addSources(fl)
	for _, name := range uncached {
		fl.Lookup(name).Hidden = true
	}
	fl.StringVar(&format, "format", "text", "tell what was found as `FORM`: text or json")
	p.addIsolation(fl)
	c.SetFlagErrorFunc(buildFlagError)
	return c
}

// uncached are flags of build about caches, of which verify uses none.
var uncached = [...]string{"cache-from", "cache-verify-key", "no-cache", "no-cache-filter", "explain"}

func checkUncached(fl *pflag.FlagSet) error {
	for _, name := range uncached {
		if fl.Changed(name) {
			return &usageError{fmt.Errorf("verify: --%s: all steps run without a cache, twice", name), "leave it out"}
		}
	}
	return nil
}

func (p *program) verify(ctx context.Context, f *buildFlags, format string) error {
	if err := p.complete(f); err != nil {
		return err
	}
	if err := f.one("verify"); err != nil {
		return err
	}
	if f.request.Context == "-" || f.request.File == "-" {
		return &usageError{fmt.Errorf("verify: standard input can be read once, and there are two builds"), "name a folder and a file"}
	}
	display, err := p.display(f)
	if err != nil {
		return &usageError{fmt.Errorf("--%w", err), ""}
	}
	return p.withStore(func(w *whittle.Whittle) error {
		f.request.Sink = display
		v, err := w.Verify(ctx, f.request)
		display.Close()
		if err != nil {
			return err
		}
		if format == "json" {
			enc := json.NewEncoder(p.stdout)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			err = enc.Encode(v)
		} else {
			_, err = fmt.Fprint(p.stdout, verdict(v))
		}
		if err == nil && !v.Reproducible() {
			err = codeError(exitFailed)
		}
		return err
	})
}

// shownFiles is how many files of a step are told.
const shownFiles = 10

// verdict is what was found, for people.
func verdict(v *whittle.Verification) string {
	var b strings.Builder
	fmt.Fprintf(&b, "built twice from nothing, in %s and %s\n", progress.HumanDuration(v.Took[0]), progress.HumanDuration(v.Took[1]))
	for _, s := range v.Steps {
		fmt.Fprintf(&b, "\n%s:%d: %s\n", progress.Clean(s.File), s.Line, progress.Clean(s.Label))
		for i, d := range s.Files {
			if i == shownFiles {
				fmt.Fprintf(&b, "    and %d more\n", len(s.Files)-i+s.More)
				break
			}
			fmt.Fprintf(&b, "    %s: %s\n", progress.Clean(path.Clean("/"+d.Path)), differenceText(d))
		}
	}
	for _, l := range v.Layers {
		at := "the base image"
		if l.Label != "" {
			at = fmt.Sprintf("%s:%d: %s", progress.Clean(l.File), l.Line, progress.Clean(l.Label))
		}
		fmt.Fprintf(&b, "\n%s\n    the layer differs, though no file in it does: %s, %s\n", at, l.First, l.Second)
	}
	if v.Config {
		b.WriteString("\nthe configs of the images differ\n")
	}
	if !v.Reproducible() {
		b.WriteString("\n")
	}
	switch {
	case len(v.Steps) > 0:
		fmt.Fprintf(&b, "not reproducible: %s other files each time\n", plural(len(v.Steps), "step makes", "steps make"))
	case !v.Reproducible():
		fmt.Fprintf(&b, "not reproducible: %s, and %s the second time\n", v.ID, v.Second)
	case v.Same():
		fmt.Fprintf(&b, "reproducible: %s both times\n", v.ID)
	case v.Times > 0:
		fmt.Fprintf(&b, "reproducible but for the times of %s: SOURCE_DATE_EPOCH and -o type=image,rewrite-timestamp=true make the images the same\n", plural(v.Times, "file", "files"))
	default:
		b.WriteString("reproducible but for the times in the image's history: SOURCE_DATE_EPOCH sets those\n")
	}
	return b.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// differenceText is one difference in words.
func differenceText(d compare.Difference) string {
	switch d.Kind {
	case compare.OnlyFirst, compare.OnlySecond, compare.Attributes:
		return d.Kind
	case compare.Content:
		return fmt.Sprintf("differs from byte %d on: %q, %q", d.At, d.First, d.Second)
	case compare.Links:
		return fmt.Sprintf("is a hard link of /%s, /%s", progress.Clean(d.First), progress.Clean(d.Second))
	}
	return fmt.Sprintf("%s %s, %s", d.Kind, progress.Clean(d.First), progress.Clean(d.Second))
}
