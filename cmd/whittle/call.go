package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
)

// call is what --call asks of a Dockerfile instead of a build.
type call struct {
	name         string // build, check, outline or targets
	format       string // text, json or sarif
	ignoreStatus bool   // exit 0 in spite of warnings
}

// parseCall reads --call: as with docker, a name and its options, side by side.
func parseCall(s string) (got call, err error) {
	got.format = "text"
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil && !errors.Is(err, io.EOF) {
		return got, err
	}
	for _, field := range fields {
		key, value, option := strings.Cut(field, "=")
		switch {
		case !option && got.name == "":
			got.name = field
		case option && key == "format":
			got.format = value
		case option && key == "ignorestatus":
			if got.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return got, fmt.Errorf("ignorestatus=%s: want true or false", value)
			}
		case option:
			return got, fmt.Errorf("%s: there are the options format and ignorestatus", key)
		default:
			return got, fmt.Errorf("%s and %s: one of them", got.name, field)
		}
	}
	if got.name == "lint" {
		got.name = "check"
	}
	return got, got.valid()
}

func (c *call) valid() error {
	formats := map[string][]string{
		"": {"text"}, "build": {"text"}, "check": {"text", "json", "sarif"}, "outline": {"text", "json"}, "targets": {"text", "json"},
	}
	known, ok := formats[c.name]
	if !ok {
		return errors.New("there are build, check (or lint), outline and targets")
	}
	if !slices.Contains(known, c.format) {
		return fmt.Errorf("format=%s: %s knows %s", c.format, c.name, strings.Join(known, ", "))
	}
	return nil
}

func (f *buildFlags) addCallFlags(fl *pflag.FlagSet) {
	fl.StringVar(&f.call, "call", "build", "do `THIS` instead of building: check, outline or targets; with ,format=json for programs, check also with ,format=sarif")
	fl.StringVar(&f.call, "print", "build", "")
	fl.BoolVar(&f.check, "check", false, "tell what is wrong or unwise in the Dockerfile, and build nothing (as --call=check)")
	// An older name of --call, as docker has it.
	if err := fl.MarkHidden("print"); err != nil {
		panic(err) // the line above makes it
	}
}

// called answers what --call and --check ask; done is false when they ask for
// a build.
func (p *program) called(ctx context.Context, f *buildFlags) (done bool, err error) {
	c, err := parseCall(f.call)
	switch {
	case err != nil:
		return true, &usageError{fmt.Errorf("--call=%s: %w", f.call, err), "for example --check, --call=targets or --call=check,format=json"}
	case f.check && c.name != "build" && c.name != "check":
		return true, &usageError{fmt.Errorf("--check and --call=%s: one of them", c.name), "leave one out"}
	case f.check:
		c.name = "check"
	}
	if c.name == "check" || c.name == "outline" || c.name == "targets" {
		if err := f.one("--call=" + c.name); err != nil {
			return true, err
		}
	}
	switch c.name {
	case "check":
		return true, p.withStore(func(w *whittle.Whittle) error { return p.checkFile(ctx, w, f, c) })
	case "outline":
		return true, p.withStore(func(w *whittle.Whittle) error {
			o, src, err := w.Outline(ctx, f.request)
			if err != nil {
				return err
			}
			if c.format == "json" {
				return p.writeAnswer(outlineJSON(o, src))
			}
			return writeOutline(p.stdout, o)
		})
	case "targets":
		return true, p.withStore(func(w *whittle.Whittle) error {
			file, err := w.ReadFile(ctx, f.request)
			if err != nil {
				return err
			}
			if c.format == "json" {
				return p.writeAnswer(targetsJSON(file))
			}
			return writeTargets(p.stdout, file)
		})
	}
	return false, nil
}

// checkFile prints what there is to say of the Dockerfile. As with docker's
// --check, warnings make the exit code 1, and whittle's own notes do not.
func (p *program) checkFile(ctx context.Context, w *whittle.Whittle, f *buildFlags, c call) error {
	got, err := w.Check(ctx, f.request)
	if err != nil {
		return err
	}
	warnings, notes := split(got.Warnings)
	switch c.format {
	case "json":
		err = p.writeAnswer(checkJSON(got, warnings, notes))
	case "sarif":
		err = p.writeAnswer(sarif(got, p.version))
	default:
		err = writeCheck(p.stdout, got, warnings, notes)
	}
	switch {
	case err != nil:
		return err
	case len(got.Mistakes) > 0:
		return got.Mistakes
	case len(warnings) > 0 && !c.ignoreStatus:
		return codeError(exitFailed)
	}
	return nil
}

// split tells the reference's warnings from whittle's own.
func split(all []dockerfile.Warning) (warnings, notes []dockerfile.Warning) {
	for _, w := range all {
		if w.Own {
			notes = append(notes, w)
		} else {
			warnings = append(warnings, w)
		}
	}
	return warnings, notes
}

// writeCheck is docker's own text, with whittle's notes below it.
func writeCheck(w io.Writer, got *whittle.Checked, warnings, notes []dockerfile.Warning) error {
	b := &strings.Builder{}
	switch n := len(warnings); {
	case n > 1:
		fmt.Fprintf(b, "Check complete, %d warnings have been found!\n", n)
	case n == 1:
		b.WriteString("Check complete, 1 warning has been found!\n")
	}
	for _, one := range warnings {
		fmt.Fprintf(b, "\nWARNING: %s", one.Rule)
		if one.URL != "" {
			fmt.Fprintf(b, " - %s", one.URL)
		}
		fmt.Fprintf(b, "\n%s\n", progress.CleanLines(one.Msg))
		b.WriteString(whittle.Excerpt(got.File, got.Source, one.Line, one.EndLine))
	}
	if len(warnings) == 0 && len(got.Mistakes) == 0 {
		b.WriteString("Check complete, no warnings found.\n")
	}
	for _, one := range notes {
		fmt.Fprintf(b, "\nNOTE: %s\n%s\n", one.Rule, progress.CleanLines(one.Msg))
		b.WriteString(whittle.Excerpt(got.File, got.Source, one.Line, one.EndLine))
		if one.Hint != "" {
			fmt.Fprintf(b, "hint: %s\n", progress.Clean(one.Hint))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeTargets(w io.Writer, file *dockerfile.File) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "TARGET\tDESCRIPTION")
	for i, s := range file.Stages {
		name := s.Name
		if i == len(file.Stages)-1 {
			name = strings.TrimLeft(name+" (default)", " ")
		}
		fmt.Fprintf(t, "%s\t%s\n", name, progress.Clean(s.Doc))
	}
	return t.Flush()
}

// writeOutline is docker's own text.
func writeOutline(w io.Writer, o *plan.Outline) error {
	b := &strings.Builder{}
	table := func(gap int, rows [][]string) {
		t := tabwriter.NewWriter(b, 0, 0, gap, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
		t.Flush() // into memory
		b.WriteByte('\n')
	}
	if o.Name != "" || o.Doc != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		rows := [][]string{{"TARGET:", name}}
		if o.Doc != "" {
			rows = append(rows, []string{"DESCRIPTION:", progress.Clean(o.Doc)})
		}
		table(1, rows)
	}
	if len(o.Args) > 0 {
		rows := [][]string{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
		for _, a := range o.Args {
			rows = append(rows, []string{a.Name, progress.Clean(a.Value), progress.Clean(a.Doc)})
		}
		table(3, rows)
	}
	mounts := func(title string, list []plan.OutlineMount) {
		if len(list) == 0 {
			return
		}
		rows := [][]string{{title, "REQUIRED"}}
		for _, m := range list {
			required := ""
			if m.Required {
				required = "true"
			}
			rows = append(rows, []string{progress.Clean(m.ID), required})
		}
		table(3, rows)
	}
	mounts("SECRET", o.Secrets)
	mounts("SSH", o.SSH)
	_, err := io.WriteString(w, b.String())
	return err
}
