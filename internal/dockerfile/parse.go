package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Parse reads a Dockerfile; name is what messages call it. Its error is an
// Errors with every mistake in the file. With an error, the File is what could
// be read in spite of it, without the wrong instructions: it is good for finding
// more mistakes, not for building (see Certain). It is nil when a wrong
// instruction may have named a stage, or a variable for FROM, because then what
// others say is not certain.
func Parse(name string, src []byte) (*File, error) {
	p := &reading{file: &File{Name: name, Source: src, Escape: parser.DefaultEscapeToken}}
	if !p.split(src) {
		return nil, p.errs
	}
	ast := p.ast()
	if ast == nil {
		return nil, p.errs.Sorted()
	}
	for _, n := range ast.Children {
		p.node(n)
	}
	if len(p.file.Stages) == 0 && len(p.errs) == 0 {
		p.add(Pos{}, "dockerfile contains no stages to build", "begin with the image to build on, for example: FROM alpine AS build, or FROM scratch for an empty one")
	}
	p.lint(ast)
	p.errs = p.errs.Sorted()
	switch {
	case len(p.errs) == 0:
		return p.file, nil
	case p.lost, len(p.file.Stages) == 0:
		return nil, p.errs
	}
	return p.file, p.errs
}

// reading is one Parse.
type reading struct {
	file  *File
	lines [][]byte // with their ends; wrong ones are emptied
	errs  Errors
	early bool // an instruction before the first FROM was told; one is enough
	lost  bool // something wrong may have named a stage, or a variable for FROM
	words int  // of all instructions so far
}

func (p *reading) add(pos Pos, msg, hint string) {
	p.errs = append(p.errs, p.file.Mistake(pos, msg, hint))
}

// split makes lines of src and checks what the parser below cannot bear. It
// returns false when there is nothing to go on with.
func (p *reading) split(src []byte) bool {
	if len(src) == 0 {
		p.add(Pos{}, "the Dockerfile cannot be empty", "write at least a FROM line, for example: FROM scratch")
		return false
	}
	if len(src) > MaxSize {
		p.add(Pos{}, fmt.Sprintf("dockerfile greater than max allowed size of %d", MaxSize), "keep large files beside the Dockerfile and COPY them")
		return false
	}
	for _, line := range bytes.SplitAfter(src, []byte("\n")) {
		if len(line) > 0 {
			p.lines = append(p.lines, line)
		}
	}
	for i, line := range p.lines {
		text := bytes.TrimRight(line, "\r\n")
		if i == 0 {
			text = bytes.TrimPrefix(text, []byte("\uFEFF"))
		}
		p.file.lines = append(p.file.lines, strings.ToValidUTF8(string(text[:min(len(text), maxLine)]), "\uFFFD"))
		p.checkLine(i, text)
	}
	return true
}

func (p *reading) checkLine(i int, text []byte) {
	pos := Pos{i + 1, i + 1}
	switch {
	case len(p.errs) >= maxMistakes:
	case len(text) > maxLine:
		p.add(pos, fmt.Sprintf("dockerfile line greater than max allowed size of %d", maxLine), `break the line with \ at the end of each part, or COPY a file`)
		p.drop(pos)
	case bytes.HasPrefix(bytes.TrimSpace(text), []byte("#")):
	case bytes.IndexByte(text, 0) >= 0:
		p.add(pos, "line contains a NUL byte", "save the Dockerfile as plain UTF-8 text (this may be UTF-16, or not a text at all)")
		p.drop(pos)
	case bytes.Contains(text, []byte("<<")) && !utf8.Valid(text):
		p.add(pos, "line is not UTF-8 text", "save the Dockerfile as UTF-8")
		p.drop(pos)
	}
}

// blank empties the lines of pos, so that all others keep their numbers.
func (p *reading) blank(pos Pos) {
	for n := max(pos.Line, 1); n <= min(max(pos.EndLine, pos.Line), len(p.lines)); n++ {
		p.lines[n-1] = []byte("\n")
	}
}

// drop empties lines that may have said anything.
func (p *reading) drop(pos Pos) {
	p.lost = true
	p.blank(pos)
}

// ast runs the reference parser. It stops at the first mistake, so each wrong
// instruction is noted, emptied, and all is read again.
func (p *reading) ast() *parser.Node {
	for len(p.errs) < maxMistakes {
		res, err := parser.Parse(bytes.NewReader(bytes.Join(p.lines, nil)))
		if err == nil {
			return p.accept(res)
		}
		pos := p.where(err)
		msg := err.Error()
		if msg == msgNoInstructions {
			if len(p.errs) == 0 {
				p.add(Pos{}, msg, "all lines are comments or blank; write at least a FROM line, for example: FROM scratch")
			}
			return nil
		}
		p.add(pos, msg, p.hint(pos, msg))
		keyword := keywordOf(p.file.Line(pos.Line))
		p.unread(keyword, keyword == "#" || strings.Contains(msg, "heredoc"))
		p.blank(pos)
	}
	p.add(Pos{}, fmt.Sprintf("more than %d mistakes; the rest is not shown", maxMistakes), "is this a Dockerfile? -f names another file")
	return nil
}

const msgNoInstructions = "file with no instructions"

func (p *reading) accept(res *parser.Result) *parser.Node {
	p.file.Escape = res.EscapeToken
	for _, w := range res.Warnings {
		p.find(Pos{w.Location.Start.Line, w.Location.End.Line}, "", NoEmptyContinuation())
	}
	if n := len(res.AST.Children); n > MaxInstructions {
		p.add(Pos{}, fmt.Sprintf("%d instructions; the most allowed is %d", n, MaxInstructions), "join RUN lines with &&")
		return nil
	}
	return res.AST
}

// where is the position that the parser gave to err.
func (p *reading) where(err error) Pos {
	var at *parser.LocationError
	pos := Pos{1, 1}
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		r := at.Locations[0]
		pos = Pos{r[0].Start.Line, r[len(r)-1].End.Line}
	}
	if strings.Contains(err.Error(), "escape token") || strings.Contains(err.Error(), "parser directive") {
		// The parser has not counted the line of a directive yet.
		pos = Pos{pos.Line + 1, pos.Line + 1}
	}
	pos.Line = min(max(pos.Line, 1), len(p.lines))
	pos.EndLine = min(max(pos.EndLine, pos.Line), len(p.lines))
	return pos
}

// keywordOf is the first word of a line, # for a comment.
func keywordOf(line string) string {
	if strings.HasPrefix(line, "#") {
		return "#"
	}
	if words := strings.Fields(line); len(words) > 0 {
		return words[0]
	}
	return ""
}

func nodePos(n *parser.Node) Pos { return Pos{n.StartLine, n.EndLine} }

// node reads one instruction into the file.
func (p *reading) node(n *parser.Node) {
	pos := nodePos(n)
	if len(p.errs) >= maxMistakes {
		return
	}
	cmd, msg, hint := p.instruction(n)
	if msg != "" {
		p.add(pos, msg, hint)
		p.unread(n.Value, len(p.file.Stages) == 0)
		if meant(n.Value) == "FROM" {
			p.file.Stages = append(p.file.Stages, &Stage{Pos: pos})
		}
		return
	}
	if st, ok := cmd.(*instructions.Stage); ok {
		p.stage(n, st)
		return
	}
	in, err := p.convert(n, cmd.(instructions.Command))
	if err != nil {
		p.add(pos, err.Msg, err.Hint)
		return
	}
	if p.words += wordCount(in.Command); p.words > MaxWords {
		p.words = 0
		p.add(pos, fmt.Sprintf("more than %d words in all instructions", MaxWords), "is this a Dockerfile? -f names another file")
		return
	}
	_, isArg := in.Command.(*Arg)
	switch {
	case len(p.file.Stages) > 0:
		last := p.file.Stages[len(p.file.Stages)-1]
		last.Instructions = append(last.Instructions, in)
	case isArg:
		p.file.Args = append(p.file.Args, in)
	case !p.early:
		p.early = true
		p.add(pos, fmt.Sprintf("no build stage in current context: %s before the first FROM", strings.ToUpper(n.Value)),
			"put a FROM line above it; only ARG may stand before the first FROM")
	}
}

// unread notes what may be missing from the file without an instruction. With
// worse, that is anything.
func (p *reading) unread(keyword string, worse bool) {
	switch meant(keyword) {
	case "FROM", "":
		p.lost = true
	case "ARG", "ENV":
		p.file.unsure = true
	}
	p.lost = p.lost || worse
}

// meant is the instruction that a keyword is, or is near to; RUN for what
// looks like a command, "" when it may be anything.
func meant(keyword string) string {
	upper := strings.ToUpper(keyword)
	if slices.Contains(keywords(), upper) {
		return upper
	}
	if s := Suggest(upper, keywords()); s != "" || strings.Contains(keyword, "=") {
		return s
	}
	return "RUN"
}

func (p *reading) stage(n *parser.Node, st *instructions.Stage) {
	p.file.Stages = append(p.file.Stages, &Stage{
		Pos: nodePos(n), Index: len(p.file.Stages), Keyword: n.Value, Name: st.Name, Base: st.BaseName,
		Platform: st.Platform, Text: st.SourceCode, Check: checkAbove(st.Comments), Doc: st.DocComment,
	})
}

// instruction runs the reference's reader of one instruction. A mistake is given
// as text, "" if none.
func (p *reading) instruction(n *parser.Node) (cmd any, msg, hint string) {
	if !utf8.ValidString(n.Original) {
		return nil, "instruction is not UTF-8 text", "save the Dockerfile as UTF-8"
	}
	lint := linter.New(&linter.Config{ExperimentalAll: true, Warn: func(rule, about, url, msg string, at []parser.Range) {
		p.find(nodePos(n), checkAbove(n.PrevComment), Finding{Rule: rule, Msg: msg, URL: url, Hint: parserHint(rule), About: about})
	}})
	cmd, err := instructions.ParseInstructionWithLinter(n, lint)
	if err != nil {
		msg := plainly(err)
		return nil, msg, p.hintFor(n, msg)
	}
	return cmd, "", ""
}

// ParseTrigger reads an ONBUILD trigger, which counts as standing at pos: the
// FROM line of the stage that it fires in.
func (f *File) ParseTrigger(text string, pos Pos) (*Instruction, *Error) {
	// Its own file: what is found in a trigger is no finding of f.
	p := &reading{file: &File{Name: f.Name}}
	wrong := func(msg, hint string) (*Instruction, *Error) {
		return nil, f.Mistake(pos, fmt.Sprintf("ONBUILD %s: %s", firstLine(text), msg), hint)
	}
	const theirs = "the trigger comes with the base; it must be corrected there"
	if len(text) > MaxSize || strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
		return wrong("not a readable text", theirs)
	}
	res, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return wrong(err.Error(), theirs)
	}
	if len(res.AST.Children) != 1 {
		return wrong("onbuild trigger should be a single expression", theirs)
	}
	n := res.AST.Children[0]
	cmd, msg, hint := p.instruction(n)
	if msg != "" {
		return wrong(msg, hint)
	}
	c, ok := cmd.(instructions.Command)
	if !ok {
		return wrong("FROM isn't allowed as an ONBUILD trigger", theirs)
	}
	in, mistake := p.convert(n, c)
	if mistake != nil {
		return wrong(mistake.Msg, mistake.Hint)
	}
	switch in.Command.(type) {
	case *Onbuild, *Maintainer:
		return wrong(strings.ToUpper(n.Value)+" isn't allowed as an ONBUILD trigger", theirs)
	}
	in.Pos, in.Trigger = pos, true
	return in, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
