// Package dockerfile owns the text of a Dockerfile: reading it, expanding its
// words and finding what is wrong with it or merely unwise in it.
//
// It is the only package that knows of the reference parser (moby/buildkit),
// and so its syntax is the reference's to the letter; it gives whittle's own
// types. Parse reports every mistake of a file at once, each with its line,
// the line's text and a way out.
//
// It does no I/O, knows of no images, and does not decide what a stage means:
// that is package plan.
package dockerfile

import (
	"strings"

	"github.com/whittle-build/whittle/internal/address"
)

// Limits on what a Dockerfile may be. They are far above what people write,
// and they keep a hostile file from taking memory out of proportion to its
// size.
const (
	MaxSize         = 4 << 20
	MaxInstructions = 5_000
	MaxWords        = 50_000 // names, values, paths and ports, of all instructions
	maxLine         = 65535
	maxMistakes     = 50
)

// File is a parsed Dockerfile. Nothing in it is expanded.
type File struct {
	Name   string
	Source []byte
	Escape rune           // continuation and escape character: \ or `
	Args   []*Instruction // ARG instructions before the first FROM; each Command is an *Arg
	Stages []*Stage
	// Warnings is what Parse found unwise, as far as the file's own
	// "# check=" line and comments do not silence it.
	Warnings []Warning

	check    string // value of "# check="
	checkPos Pos
	unsure   bool // a wrong instruction may have set a variable
	findings []found
	lines    []string
}

// Pos is where something stands: first and last line, from 1. The zero Pos is
// nowhere in particular.
type Pos struct {
	Line, EndLine int
}

// Stage is one FROM and the instructions after it.
type Stage struct {
	Pos
	Index        int
	Keyword      string // FROM as written
	Name         string // lower case; "" if unnamed
	Base         string // image or stage, as written
	Platform     string // --platform as written
	Text         string // the FROM line
	Check        string // value of a "check=" comment above it
	Doc          string // what a comment above it says of the stage
	Instructions []*Instruction
}

// Instruction is one instruction as written, continuation lines joined.
type Instruction struct {
	Pos
	Keyword string // as written: "copy"
	Text    string // the whole instruction without the bodies of its heredocs
	Check   string // value of a "check=" comment above it
	Command Command
	Trigger bool // an ONBUILD trigger of the stage's base
}

// Line returns the text of line n without blanks around it, and without the
// credentials of addresses; "" if there is no such line.
func (f *File) Line(n int) string {
	if n < 1 || n > len(f.lines) {
		return ""
	}
	return address.Redact(strings.TrimSpace(f.lines[n-1]))
}

// Mistake makes an Error about what stands at pos. Like the lines, what it says
// of them has no credentials of addresses.
func (f *File) Mistake(pos Pos, msg, hint string) *Error {
	e := &Error{File: f.Name, Line: pos.Line, EndLine: pos.EndLine, Text: f.Line(pos.Line), Msg: address.Redact(msg), Hint: address.Redact(hint)}
	if pos.Line > 0 {
		last := min(pos.EndLine, len(f.lines), pos.Line+maxShown-1)
		for _, line := range f.lines[min(pos.Line, len(f.lines)):max(last, min(pos.Line, len(f.lines)))] {
			e.More = append(e.More, address.Redact(strings.TrimRight(line, " \t")))
		}
	}
	return e
}

// maxShown is how many lines of an instruction a mistake shows.
const maxShown = 6

// Certain reports whether m is a mistake whatever the instructions say that
// Parse could not read: one may have set a variable that m's instruction names.
func (f *File) Certain(m *Error) bool { return !f.unsure || !f.NamesVariable(m) }

// CertainWarning is Certain for a warning.
func (f *File) CertainWarning(w Warning) bool {
	return !f.unsure || w.Line > 0 && !f.NamesVariable(&Error{Line: w.Line, EndLine: w.EndLine})
}

// NamesVariable reports whether the lines that m is about name a variable.
func (f *File) NamesVariable(m *Error) bool {
	for n := m.Line; n <= max(m.Line, m.EndLine); n++ {
		if strings.Contains(f.Line(n), "$") {
			return true
		}
	}
	return false
}

// StageNames returns the names of all named stages in file order.
func (f *File) StageNames() []string {
	var names []string
	for _, s := range f.Stages {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	return names
}
