package main

import (
	"encoding/json"
	"net/url"

	"github.com/whittle-build/whittle"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
)

// The documents of --call with format=json have the shape of docker's, whose
// names these are.

type position struct {
	Line int `json:"line,omitempty"`
}

type lineRange struct {
	Start position `json:"start"`
	End   position `json:"end"`
}

type location struct {
	SourceIndex int         `json:"sourceIndex,omitempty"`
	Ranges      []lineRange `json:"ranges,omitempty"`
}

// at is where something stands, one range for each line.
func at(line, end int) *location {
	l := &location{}
	for n := line; n > 0 && n <= max(line, end); n++ {
		l.Ranges = append(l.Ranges, lineRange{position{n}, position{n}})
	}
	return l
}

type checkDocument struct {
	Warnings []checkWarning `json:"warnings"`
	Sources  []checkSource  `json:"sources"`
	Error    *checkError    `json:"buildError,omitempty"`
	// Errors, when there are several, and Notes are whittle's own.
	Errors []checkError   `json:"buildErrors,omitempty"`
	Notes  []checkWarning `json:"notes,omitempty"`
}

type checkWarning struct {
	Rule     string    `json:"ruleName"`
	About    string    `json:"description,omitempty"`
	URL      string    `json:"url,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	Location *location `json:"location,omitempty"`
}

type checkSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

type checkError struct {
	Message  string   `json:"message"`
	Location location `json:"location"`
	Hint     string   `json:"hint,omitempty"`
}

func checkJSON(got *whittle.Checked, warnings, notes []dockerfile.Warning) checkDocument {
	doc := checkDocument{
		Warnings: documents(warnings), Notes: documents(notes),
		Sources: []checkSource{{got.File, got.Source, "Dockerfile"}},
	}
	for _, m := range got.Mistakes {
		doc.Errors = append(doc.Errors, checkError{m.Msg, *at(m.Line, m.EndLine), m.Hint})
	}
	if len(doc.Errors) > 0 {
		doc.Error = &doc.Errors[0]
	}
	if len(doc.Errors) == 1 {
		doc.Errors = nil
	}
	return doc
}

func documents(list []dockerfile.Warning) []checkWarning {
	var out []checkWarning
	for _, w := range list {
		out = append(out, checkWarning{w.Rule, w.About, w.URL, w.Msg, w.Hint, at(w.Line, w.EndLine)})
	}
	return out
}

type targetList struct {
	Targets []target `json:"targets"`
	Sources [][]byte `json:"sources"`
}

type target struct {
	Name     string    `json:"name,omitempty"`
	Default  bool      `json:"default,omitempty"`
	About    string    `json:"description,omitempty"`
	Base     string    `json:"base,omitempty"`
	Platform string    `json:"platform,omitempty"`
	Location *location `json:"location,omitempty"`
}

func targetsJSON(file *dockerfile.File) targetList {
	doc := targetList{Sources: [][]byte{file.Source}}
	for i, s := range file.Stages {
		doc.Targets = append(doc.Targets, target{s.Name, i == len(file.Stages)-1, s.Doc, s.Base, s.Platform, at(s.Line, s.EndLine)})
	}
	return doc
}

type outlineDocument struct {
	Name    string         `json:"name,omitempty"`
	About   string         `json:"description,omitempty"`
	Args    []outlineArg   `json:"args,omitempty"`
	Secrets []outlineMount `json:"secrets,omitempty"`
	SSH     []outlineMount `json:"ssh,omitempty"`
	Sources [][]byte       `json:"sources,omitempty"`
}

type outlineArg struct {
	Name     string    `json:"name"`
	About    string    `json:"description,omitempty"`
	Value    string    `json:"value,omitempty"`
	Location *location `json:"location,omitempty"`
}

type outlineMount struct {
	Name     string    `json:"name"`
	Required bool      `json:"required,omitempty"`
	Location *location `json:"location,omitempty"`
}

func outlineJSON(o *plan.Outline, src []byte) outlineDocument {
	doc := outlineDocument{Name: o.Name, About: o.Doc, Sources: [][]byte{src}}
	for _, a := range o.Args {
		doc.Args = append(doc.Args, outlineArg{a.Name, a.Doc, a.Value, at(a.Pos.Line, a.Pos.EndLine)})
	}
	mounts := func(list []plan.OutlineMount) (out []outlineMount) {
		for _, m := range list {
			out = append(out, outlineMount{m.ID, m.Required, at(m.Pos.Line, m.Pos.EndLine)})
		}
		return out
	}
	doc.Secrets, doc.SSH = mounts(o.Secrets), mounts(o.SSH)
	return doc
}

// writeAnswer prints a document as docker does.
func (p *program) writeAnswer(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// fileURI is a file's name as a SARIF document has it.
func fileURI(name string) string { return (&url.URL{Path: name}).String() }
