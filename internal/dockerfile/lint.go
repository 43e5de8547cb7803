package dockerfile

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/lazyre"
)

// found is a Finding at its place. check is what the comment above the
// instruction says of rules; it may silence it.
type found struct {
	pos   Pos
	check string
	Finding
}

func (p *reading) find(pos Pos, check string, f Finding) {
	p.file.findings = append(p.file.findings, found{pos, check, f})
}

// Linter collects findings as far as the file's checks let them through.
type Linter struct {
	file     *File
	checks   *linter.Config
	found    []found
	asErrors bool
}

// NewLinter returns a Linter that has seen what Parse found. check is the
// grammar of "# check="; nil means the file's own line.
func (f *File) NewLinter(check *string) (*Linter, *Error) {
	text, pos, what := f.check, f.checkPos, "check options"
	if check != nil {
		text, pos, what = *check, Pos{}, "build-arg:"+CheckArg
	}
	cfg, err := linter.ParseLintOptions(text)
	if err != nil {
		return nil, f.Mistake(pos, "failed to parse "+what+": "+err.Error(), "write check=skip=Rule1,Rule2 or skip=all, and error=true, with ; between them")
	}
	l := &Linter{file: f, checks: cfg, asErrors: cfg.ReturnAsError}
	for _, one := range f.findings {
		l.Report(one.pos, one.check, one.Finding)
	}
	return l, nil
}

// Report adds a finding about what stands at pos under a comment with check.
func (l *Linter) Report(pos Pos, check string, f Finding) {
	above := &linter.Config{}
	if check != "" {
		if cfg, err := linter.ParseLintOptions(check); err == nil {
			above = cfg
		}
	}
	if lets(f.Rule, l.checks, above) {
		f.Msg, f.Hint = address.Redact(f.Msg), address.Redact(f.Hint)
		l.found = append(l.found, found{pos, check, f})
	}
}

// lets reports whether checks let a rule through: one that skips it silences
// it, and one that asks for it is what an experimental rule needs, whatever is
// skipped.
func lets(rule string, checks ...*linter.Config) bool {
	if rule == linter.RuleInvalidDefinitionDescription.Name {
		return slices.ContainsFunc(checks, func(c *linter.Config) bool {
			return c.ExperimentalAll || slices.Contains(c.ExperimentalRules, rule)
		})
	}
	return !slices.ContainsFunc(checks, func(c *linter.Config) bool {
		return c.SkipAll || slices.Contains(c.SkipRules, rule)
	})
}

// checkAbove returns the value of the first comment "check=…".
func checkAbove(comments []string) string {
	for _, c := range comments {
		var p parser.DirectiveParser
		p.SetComment("")
		d, err := p.ParseLine([]byte(c))
		if err == nil && d != nil && d.Name == "check" {
			v, _, _ := strings.Cut(d.Value, " ")
			return v
		}
	}
	return ""
}

// Warnings returns what was let through, in the order of lines. What is wrong
// twice on a line is there twice, as in the reference.
func (l *Linter) Warnings() []Warning {
	var out []Warning
	for _, f := range l.found {
		out = append(out, Warning{
			Rule: f.Rule, File: l.file.Name, Line: f.pos.Line, EndLine: f.pos.EndLine, Text: l.file.Line(f.pos.Line),
			Msg: f.Msg, About: f.About, URL: f.URL, Hint: f.Hint, Own: f.Own,
		})
	}
	sort.SliceStable(out, func(i, k int) bool { return out[i].Line < out[k].Line })
	return out
}

// Error is the mistake that the findings are if the checks say "error=true";
// nil otherwise. Where they are the warnings say.
func (l *Linter) Error() *Error {
	if !l.asErrors {
		return nil
	}
	var rules []string
	for _, f := range l.found {
		if !f.Own {
			rules = append(rules, f.Rule)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	slices.Sort(rules)
	return l.file.Mistake(Pos{}, "lint violation found for rules: "+strings.Join(slices.Compact(rules), ", "),
		`--check shows each with its line; "# check=error=true" makes them fail the build`)
}

// lint does the checks that need the whole file.
func (p *reading) lint(ast *parser.Node) {
	f := p.file
	check, _, at, ok := parser.ParseDirective("check", f.Source)
	if ok && len(at) > 0 {
		f.check, f.checkPos = check, Pos{at[0].Start.Line, at[0].End.Line}
	}
	p.lintNames()
	p.lintCasing()
	// A build argument may stand for a wrong line, so that it is no mistake yet.
	if l, err := f.NewLinter(nil); err == nil {
		f.Warnings = l.Warnings()
	}
}

// lintNames, like lintCasing, is about the file: a comment above one
// instruction does not silence it.
func (p *reading) lintNames() {
	seen := map[string]bool{}
	for _, s := range p.file.Stages {
		if s.Name == "" {
			continue
		}
		if s.Name == "scratch" || s.Name == "context" {
			p.find(s.Pos, "", ReservedStageName(s.Name))
		}
		if seen[s.Name] {
			p.find(s.Pos, "", DuplicateStageName(s.Name))
		}
		seen[s.Name] = true
	}
}

// lintCasing holds every instruction against the case of most; with as many
// of each, upper case wins.
func (p *reading) lintCasing() {
	lower, upper := 0, 0
	count := func(keyword string) {
		switch keyword {
		case strings.ToLower(keyword):
			lower++
		case strings.ToUpper(keyword):
			upper++
		}
	}
	each := func(do func(pos Pos, keyword string)) {
		for _, s := range p.file.Stages {
			do(s.Pos, s.Keyword)
			for _, in := range s.Instructions {
				do(in.Pos, in.Keyword)
			}
		}
	}
	each(func(_ Pos, keyword string) { count(keyword) })
	each(func(pos Pos, keyword string) {
		switch {
		case lower > upper && keyword != strings.ToLower(keyword):
			p.find(pos, "", ConsistentInstructionCasing(keyword, "lowercase"))
		case lower <= upper && keyword != strings.ToUpper(keyword):
			p.find(pos, "", ConsistentInstructionCasing(keyword, "uppercase"))
		}
	})
}

// lintInstruction finds what the reference lets pass without a word.
func (p *reading) lintInstruction(n *parser.Node, in *Instruction) {
	keyword := strings.ToUpper(in.Keyword)
	report := func(f Finding) { p.find(in.Pos, in.Check, f) }
	switch c := in.Command.(type) {
	case *Arg, *StopSignal:
		for _, flag := range n.Flags {
			report(FlagIgnored(keyword, flag))
		}
	case *Healthcheck:
		if len(c.Check.Test) == 1 {
			for _, flag := range n.Flags {
				report(FlagIgnored(keyword+" NONE", flag))
			}
		}
		if len(c.Check.Test) == 2 && c.Check.Test[0] == "CMD-SHELL" {
			p.lintShellForm(in, "HEALTHCHECK CMD", c.Check.Test[1])
		}
	case *Run:
		p.lintWords(in, keyword, c.Words)
	case *Cmd:
		p.lintWords(in, keyword, c.Words)
	case *Entrypoint:
		p.lintWords(in, keyword, c.Words)
	case *Copy:
		p.lintList(in, keyword, slices.Concat(c.Sources, []string{c.Dest}))
	case *Volume:
		p.lintList(in, keyword, c.Paths)
	case *Onbuild:
		if _, err := p.file.ParseTrigger(c.Trigger, in.Pos); err != nil {
			report(TriggerFails(err.Msg, err.Hint))
		}
	}
}

func (p *reading) lintWords(in *Instruction, keyword string, w Words) {
	if !w.Shell {
		return
	}
	if len(w.Args) == 0 || strings.TrimSpace(w.Args[0]) == "" {
		p.find(in.Pos, in.Check, EmptyCommand(keyword))
		return
	}
	p.lintShellForm(in, keyword, w.Args[0])
}

// reList is a comma between two quoted words.
var reList = lazyre.New(`["'“”‘’]\s*,\s*["'“”‘’]`)

// lintShellForm tells a JSON form gone wrong from a shell's own [ … ] test,
// which has a blank after its bracket.
func (p *reading) lintShellForm(in *Instruction, keyword, text string) {
	if !strings.HasPrefix(text, "[") || strings.HasPrefix(text, "[[") {
		return
	}
	blank := len(text) > 1 && (text[1] == ' ' || text[1] == '\t')
	if blank && !reList.MatchString(text) {
		return
	}
	p.find(in.Pos, in.Check, InvalidJSONForm(keyword, "a command for the shell", asJSON(text)))
}

// lintList is lintShellForm for instructions whose other form is a list of
// words, which may begin with a pattern such as [a-z]*.
func (p *reading) lintList(in *Instruction, keyword string, words []string) {
	if len(words) == 0 {
		return
	}
	text := strings.Join(words, " ")
	first, last := words[0], words[len(words)-1]
	quoted := strings.HasPrefix(first, `["`) || strings.HasPrefix(first, `['`) || strings.HasPrefix(first, "[“") || first == "["
	listed := strings.HasPrefix(first, "[") && strings.HasSuffix(first, ",") && strings.HasSuffix(last, "]")
	if !quoted && !listed {
		return
	}
	p.find(in.Pos, in.Check, InvalidJSONForm(keyword, "a list of words, brackets and quotes included", asJSON(text)))
}

// reRemark is what was meant as a comment after an array, and reNoComma the
// space between two quoted words of one.
var (
	reRemark  = lazyre.New(`\]\s+#.*$`)
	reNoComma = lazyre.New(`(["'”’])\s+(["'“‘])`)
)

// asJSON guesses the array that text was meant to be; "" if it is too far
// from one.
func asJSON(text string) string {
	text = reNoComma.ReplaceAllString(reRemark.ReplaceAllString(text, "]"), "$1,$2")
	body, ok := strings.CutPrefix(text, "[")
	if !ok || len(text) > 200 {
		return ""
	}
	body = strings.TrimSpace(body)
	body = strings.TrimSpace(strings.TrimSuffix(body, "]"))
	body = strings.TrimSpace(strings.TrimSuffix(body, ","))
	var items []string
	for part := range strings.SplitSeq(body, ",") {
		part = strings.Trim(strings.TrimSpace(part), "\"'“”‘’`")
		b, err := json.Marshal(part)
		if err != nil || part == "" || strings.Contains(part, `"`) {
			return ""
		}
		items = append(items, string(b))
	}
	return fmt.Sprintf("[%s]", strings.Join(items, ", "))
}
