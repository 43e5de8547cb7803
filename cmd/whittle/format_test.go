package main

import (
	"bytes"
	"strings"
	"testing"
)

type shown struct {
	ID    string
	Names string
	State struct{ ExitCode int }
	Map   map[string]string
	List  []string
	None  []string
}

func TestFormatPicksFields(t *testing.T) {
	v := shown{ID: "abc", Names: "box", Map: map[string]string{"k": "v<", "a b": "c"}, List: []string{"x", "y"}}
	v.State.ExitCode = 3
	for in, want := range map[string]string{
		"":                           "",
		"text":                       "text",
		"{{.Names}}":                 "box",
		"{{ .Names }}-{{.ID}}":       "box-abc",
		"{{- .Names -}}":             "box",
		`{{.ID}}\t{{.Names}}\n`:      "abc\tbox\n",
		"{{.State.ExitCode}}":        "3",
		"{{json .List}}":             `["x","y"]`,
		"{{.List}}":                  "[x y]",
		"{{.Map.k}}":                 "v<",
		`{{index .Map "k"}}`:         "v<",
		"{{.None}}":                  "<no value>",
		"{{json .State}} {{.Map.k}}": `{"ExitCode":3} v<`,
	} {
		f, err := parseFormat(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := f.render(v); got != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestFormatRefusesWhatItCannotRead(t *testing.T) {
	for _, in := range []string{"{{", "{{.A", "{{range .A}}", "{{if .A}}x{{end}}", "{{.A | json}}", "{{len .A}}", "{{}}", "{{A}}", "{{..A}}", "{{.A.}}", `{{index .A}}`, `{{"x"}}`} {
		if f, err := parseFormat(in); err == nil {
			t.Errorf("%s: read as %+v", in, f)
		}
	}
	f, err := parseFormat("{{.State.Nope}}")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.render(shown{}); err == nil || !strings.Contains(err.Error(), "there is no field .State.Nope") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestListFormats(t *testing.T) {
	rows := []shown{{ID: "1", Names: "<a>"}, {ID: "22", Names: "b"}}
	for in, want := range map[string]string{
		"{{.Names}}":                 "<a>\nb\n",
		`table {{.ID}}\t{{.Names}}`:  "NUMBER    NAMES\n1         <a>\n22        b\n",
		`{{.ID}}\t{{.Names}}`:        "1\t<a>\n22\tb\n",
		"table {{.State.ExitCode}}x": "",
	} {
		l, err := parseList(in, [][2]string{{"ID", "NUMBER"}})
		if want == "" {
			if err == nil {
				t.Errorf("%s: no error", in)
			}
			continue
		}
		var b bytes.Buffer
		if err == nil {
			err = writeList(&b, l, rows)
		}
		if b.String() != want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", in, b.String(), err, want)
		}
	}
	l, err := parseList("json", nil)
	var b bytes.Buffer
	if err == nil {
		err = writeList(&b, l, rows)
	}
	if n := strings.Count(b.String(), "\n"); err != nil || n != 2 || !strings.Contains(b.String(), `"Names":"<a>"`) {
		t.Errorf("json: got %s, %v", b.String(), err)
	}
}
