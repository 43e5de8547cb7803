package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A format is what scripts write after docker's --format: text with fields in
// it, {{.Names}} or {{.State.ExitCode}}. Of the language of Go templates only
// what picks a field is read: {{.A.B}}, {{json .A}} and {{index .A "key"}}.
// A whole template engine would keep the linker from leaving unused code out.
type format []formatPart

type formatPart struct {
	text  string   // if there is no path
	path  []string // nil: text; empty: the whole thing
	json  bool
	index bool // the last of path is a key
	field bool
}

const formatHint = "of Go templates there are fields, {{json .Field}} and {{index .Field \"key\"}}; for all else use --format json and jq"

// parseFormat reads a format. \t and \n are what they say.
func parseFormat(s string) (format, error) {
	bad := func(what string) (format, error) {
		return nil, &usageError{fmt.Errorf("--format: %q %w", what, errFormat), formatHint}
	}
	var f format
	rest := strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
	for {
		text, after, ok := strings.Cut(rest, "{{")
		if text != "" {
			f = append(f, formatPart{text: text})
		}
		if !ok {
			return f, nil
		}
		action, after, ok := strings.Cut(after, "}}")
		if !ok {
			return bad("{{" + after)
		}
		part, ok := parseAction(strings.TrimSpace(strings.Trim(action, "-")))
		if !ok {
			return bad("{{" + action + "}}")
		}
		f, rest = append(f, part), after
	}
}

func parseAction(s string) (formatPart, bool) {
	part := formatPart{field: true}
	words := strings.Fields(s)
	if len(words) > 1 && words[0] == "json" {
		part.json, words = true, words[1:]
	}
	if len(words) == 3 && words[0] == "index" && len(words[2]) > 2 && words[2][0] == '"' && strings.HasSuffix(words[2], `"`) {
		path, ok := fieldPath(words[1])
		part.path, part.index = append(path, words[2][1:len(words[2])-1]), true
		return part, ok
	}
	if len(words) != 1 {
		return part, false
	}
	var ok bool
	part.path, ok = fieldPath(words[0])
	return part, ok
}

func fieldPath(s string) ([]string, bool) {
	s, ok := strings.CutPrefix(s, ".")
	if !ok || strings.ContainsAny(s, `"()|$`) || strings.HasPrefix(s, ".") || strings.Contains(s, "..") || strings.HasSuffix(s, ".") {
		return nil, false
	}
	if s == "" {
		return []string{}, true
	}
	return strings.Split(s, "."), true
}

// render fills the format with the fields of v, by the names of its JSON.
func (f format) render(v any) (string, error) { return f.renderWith(v, nil) }

// renderInspected is render for what docker inspect shows: a field may be
// without a value.
func (f format) renderInspected(v any) (string, error) { return f.renderWith(v, zeroOf) }

func (f format) renderWith(v any, absent func(path []string) (zero, bool)) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return "", err
	}
	var out strings.Builder
	for _, p := range f {
		if !p.field {
			out.WriteString(p.text)
			continue
		}
		s, err := p.value(tree, absent)
		if err != nil {
			return "", err
		}
		out.WriteString(s)
	}
	return out.String(), nil
}

func (p *formatPart) value(v any, absent func(path []string) (zero, bool)) (string, error) {
	for i, name := range p.path {
		m, ok := v.(map[string]any)
		if ok {
			v, ok = m[name]
		}
		if ok {
			continue
		}
		if absent != nil {
			if z, ok := p.without(i, absent); ok {
				return z, nil
			}
		}
		return "", &usageError{fmt.Errorf("--format: there is no field .%s", strings.Join(p.path[:i+1], ".")), "--format json shows all fields"}
	}
	if p.json {
		b, err := json.Marshal(v)
		return string(b), err
	}
	if v == nil {
		return "<no value>", nil
	}
	return fmt.Sprint(v), nil
}

// without is the value when there is nothing at the first i+1 of the path.
func (p *formatPart) without(i int, absent func(path []string) (zero, bool)) (string, bool) {
	key := len(p.path) - 1
	if _, known := absent(p.path); known {
		i = key // of a part that is missing as a whole
	}
	z, ok := absent(p.path[:i+1])
	switch {
	case i < key-1, !ok && (i == 0 || !isMap(p.path[i-1])), i == key-1 && !isMap(p.path[i]):
		return "", false
	case ok && i == key && p.json:
		return z.json, true
	case ok && i == key:
		return z.text, true
	case p.json:
		return "null", true
	case p.index:
		return "", true
	}
	return "<no value>", true
}

// formatHelp is what --help says of the --format of a list.
const formatHelp = "`FORM` of the list: json prints an object a line, '{{.ID}}' a field, 'table {{.ID}}\\t{{.Size}}' columns"

// listFormat is the format of a list: objects, lines or a table.
type listFormat struct {
	json   bool
	line   format
	titles string // of a table
}

// parseList reads the --format of a list; nil is the list's own. titles are
// names of columns that are not those of their fields.
func parseList(s string, titles [][2]string) (*listFormat, error) {
	switch s {
	case "", "table":
		return nil, nil
	case "json", "{{json .}}":
		return &listFormat{json: true}, nil
	}
	rest, table := strings.CutPrefix(s, "table ")
	f, err := parseFormat(rest)
	if err != nil || !table {
		return &listFormat{line: f}, err
	}
	head := map[string]any{}
	for _, p := range f {
		if p.field && len(p.path) == 1 {
			head[p.path[0]] = strings.ToUpper(p.path[0])
		}
	}
	for _, t := range titles {
		head[t[0]] = t[1]
	}
	line, err := f.render(head)
	return &listFormat{line: f, titles: line}, err
}

// has tells whether a field is asked for by name.
func (l *listFormat) has(field string) bool {
	return l != nil && slices.ContainsFunc(l.line, func(p formatPart) bool { return len(p.path) > 0 && p.path[0] == field })
}

func writeList[T any](w io.Writer, l *listFormat, rows []T) error {
	if l.json {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if l.titles != "" {
		w = t
		fmt.Fprintln(w, l.titles)
	}
	for _, r := range rows {
		s, err := l.line.render(r)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, s); err != nil {
			return err
		}
	}
	return t.Flush()
}
