package dockerfile

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, src string) *File {
	t.Helper()
	f, err := Parse("Dockerfile", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// commands returns the commands of the last stage.
func commands(t *testing.T, src string) []Command {
	t.Helper()
	f := mustParse(t, src)
	var out []Command
	for _, in := range f.Stages[len(f.Stages)-1].Instructions {
		out = append(out, in.Command)
	}
	return out
}

func shellRun(text string) *Run {
	return &Run{Words: Words{Args: []string{text}, Shell: true}, Network: "default"}
}

func TestHowLinesBecomeInstructions(t *testing.T) {
	for name, c := range map[string]struct {
		src  string
		want Command
	}{
		"continued without a blank":        {"RUN a\\\nb", shellRun("ab")},
		"blanks after the backslash":       {"RUN a \\  \t\n  b", shellRun("a   b")},
		"two backslashes end the line":     {"RUN a\\\\\nUSER b", shellRun(`a\\`)},
		"a comment inside":                 {"RUN a \\\n# no\n  # no\nb", shellRun("a b")},
		"a comment at the end is data":     {"RUN a # b", shellRun("a # b")},
		"a blank line inside":              {"RUN a \\\n\n\nb", shellRun("a b")},
		"line ends of Windows":             {"RUN a \\\r\nb\r\n", shellRun("a b")},
		"any case":                         {"rUn a", shellRun("a")},
		"exec form":                        {`RUN ["a", "b c"]`, &Run{Words: Words{Args: []string{"a", "b c"}}, Network: "default"}},
		"no JSON is shell form":            {`RUN ['a']`, shellRun("['a']")},
		"quoted flag":                      {`RUN --network="none" a`, &Run{Words: Words{Args: []string{"a"}, Shell: true}, Network: "none"}},
		"-- ends flags":                    {"CMD -- --help", &Cmd{Words{Args: []string{"--help"}, Shell: true}}},
		"heredoc keeps its line ends":      {"RUN <<E\r\na\r\n# b\r\nE\r\n", &Run{Words: Words{Args: []string{"a\r\n# b\r\n"}, Shell: true}, Network: "default", Script: &Heredoc{Name: "E", Content: "a\r\n# b\r\n"}}},
		"heredoc needs its exact end":      {"RUN <<E\nE \n E\nE", &Run{Words: Words{Args: []string{"E \n E\n"}, Shell: true}, Network: "default", Script: &Heredoc{Name: "E", Content: "E \n E\n"}}},
		"heredoc without tabs":             {"RUN <<-E\n\ta\n\tE", &Run{Words: Words{Args: []string{"a\n"}, Shell: true}, Network: "default", Script: &Heredoc{Name: "E", Content: "a\n"}}},
		"heredocs for the shell":           {"RUN a <<E b\nc\nE", shellRun("a <<E b\nc\nE")},
		"no heredoc in JSON":               {`RUN ["a", "<<E"]`, &Run{Words: Words{Args: []string{"a", "<<E"}}, Network: "default"}},
		"copy":                             {"COPY --from=x --chown=a:b --chmod=1 a b c/", &Copy{From: "x", Chown: "a:b", Chmod: "1", Sources: []string{"a", "b"}, Dest: "c/"}},
		"flags of COPY":                    {"COPY --link --parents=TRUE --exclude=*.go --exclude=!a.go --from=x --chown=1:2 --chmod=u+x a b", &Copy{Sources: []string{"a"}, Dest: "b", Link: true, Parents: true, Excludes: []string{"*.go", "!a.go"}, From: "x", Chown: "1:2", Chmod: "u+x"}},
		"flags of ADD":                     {"ADD --link=true --exclude=$x a b", &Copy{Add: true, Sources: []string{"a"}, Dest: "b", Link: true, Excludes: []string{"$x"}}},
		"flags that change nothing":        {"COPY --link=false --parents=FALSE a b", &Copy{Sources: []string{"a"}, Dest: "b"}},
		"copy of JSON":                     {`COPY ["a b", "c"]`, &Copy{Sources: []string{"a b"}, Dest: "c"}},
		"copy of heredocs and a file":      {"ADD <<a b <<'c' /\n1\na\n2\nc", &Copy{Add: true, Sources: []string{"b"}, Heredocs: []Heredoc{{"a", "1\n", true}, {"c", "2\n", false}}, Dest: "/"}},
		"env":                              {`ENV a=1 b="2 3" c=4\ 5`, &Env{[]Pair{{"a", "1", false}, {"b", `"2 3"`, false}, {"c", `4\ 5`, false}}}},
		"env of old":                       {"ENV a b  c ", &Env{[]Pair{{"a", "b  c", true}}}},
		"expose sorts":                     {"EXPOSE 9 10 1", &Expose{[]string{"1", "10", "9"}}},
		"volume of JSON":                   {`VOLUME ["/a b"]`, &Volume{[]string{"/a b"}}},
		"onbuild":                          {"onbuild run  a", &Onbuild{"run  a"}},
		"onbuild with a heredoc":           {"ONBUILD RUN <<E\na\nE", &Onbuild{"RUN <<E\na\nE"}},
		"shell":                            {`SHELL ["a", "b"]`, &Shell{[]string{"a", "b"}}},
		"workdir keeps its blanks":         {"WORKDIR /a b", &Workdir{"/a b"}},
		"entrypoint of nothing":            {"ENTRYPOINT []", &Entrypoint{Words{}}},
		"the other continuation":           {"RUN a\\b", shellRun(`a\b`)},
		"other white space between words":  {"COPY\ta\v b", &Copy{Sources: []string{"a"}, Dest: "b"}},
		"a flag later in the line is data": {"RUN a --network=none", shellRun("a --network=none")},
	} {
		t.Run(name, func(t *testing.T) {
			got := commands(t, "FROM a\n"+c.src)[0]
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestHealthcheckOptions(t *testing.T) {
	got := commands(t, "FROM a\nHEALTHCHECK --interval=1m --timeout=2s --start-period=0 --start-interval=1ms --retries=4 CMD x | y")[0].(*Healthcheck).Check
	if got.Interval != time.Minute || got.Timeout != 2*time.Second || got.StartPeriod != 0 || got.StartInterval != time.Millisecond || got.Retries != 4 {
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(got.Test, []string{"CMD-SHELL", "x | y"}) {
		t.Errorf("test %q", got.Test)
	}
}

func TestDirectivesEndAtTheFirstOtherLine(t *testing.T) {
	for src, escape := range map[string]rune{
		"# escape=`\nFROM a":                               '`',
		"#ESCAPE = `  \nFROM a":                            '`',
		"\uFEFF# escape=`\nFROM a":                         '`',
		"# syntax=docker/dockerfile:1\n# escape=`\nFROM a": '`',
		"\n# escape=`\nFROM a":                             '\\',
		"# note\n# escape=`\nFROM a":                       '\\',
		"# other=1\n# escape=`\nFROM a":                    '\\',
		"#!/bin/x\n# escape=`\nFROM a":                     '\\',
		"FROM a\n# escape=`":                               '\\',
	} {
		if got := mustParse(t, src).Escape; got != escape {
			t.Errorf("%q: escape is %c, want %c", src, got, escape)
		}
	}
	got := commands(t, "# escape=`\nFROM a\nRUN a`\n  b\\\nUSER x")
	if want := []Command{shellRun(`a  b\`), &User{"x"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestStages(t *testing.T) {
	f := mustParse(t, "ARG A=1 B\n\nFROM --platform=$P x/y:$A as Build\nARG C\nfrom build\n")
	if len(f.Args) != 1 || len(f.Args[0].Command.(*Arg).Items) != 2 {
		t.Errorf("global arguments %+v", f.Args)
	}
	a, b := f.Stages[0], f.Stages[1]
	if a.Name != "build" || a.Base != "x/y:$A" || a.Platform != "$P" || a.Pos != (Pos{3, 3}) || b.Name != "" || b.Index != 1 || b.Keyword != "from" {
		t.Errorf("stages %+v, %+v", a, b)
	}
	if in := a.Instructions[0]; in.Pos != (Pos{4, 4}) || in.Text != "ARG C" {
		t.Errorf("instruction %+v", in)
	}
}

func TestPositionsCoverContinuationAndHeredocs(t *testing.T) {
	f := mustParse(t, "FROM a\n\nRUN a \\\n # c\n b\nCOPY <<f /\nx\nf\nUSER x")
	var got []Pos
	for _, in := range f.Stages[0].Instructions {
		got = append(got, in.Pos)
	}
	if want := []Pos{{3, 5}, {6, 8}, {9, 9}}; !slices.Equal(got, want) {
		t.Errorf("positions %v, want %v", got, want)
	}
	if f.Line(3) != `RUN a \` || f.Line(0) != "" || f.Line(10) != "" {
		t.Error("Line gives other text than the file has")
	}
}

// parseMistakes returns the mistakes of src as "line: message | hint".
func parseMistakes(t *testing.T, src string) []string {
	t.Helper()
	_, err := Parse("Dockerfile", []byte(src))
	var errs Errors
	if err != nil && !errors.As(err, &errs) {
		t.Fatalf("error is a %T", err)
	}
	var out []string
	for _, e := range errs {
		out = append(out, fmt.Sprintf("%d: %s | %s", e.Line, e.Msg, e.Hint))
	}
	return out
}

func TestMistakesSayWhereWhatAndTheWayOut(t *testing.T) {
	const from = "FROM a\n"
	for _, c := range []struct{ src, want, hint string }{
		{"", "0: the Dockerfile cannot be empty", "FROM"},
		{"# a\n\n  # b\n", "0: file with no instructions", "comments"},
		{"ARG a", "0: dockerfile contains no stages to build", "FROM scratch"},
		{"RUN a\n" + from, "1: no build stage in current context: RUN before the first FROM", "FROM line above"},
		{from + "RUNN a", "2: unknown instruction: RUNN", "did you mean RUN?"},
		{from + "entrypiont a", "2: unknown instruction: entrypiont", "did you mean ENTRYPOINT?"},
		{from + "RUN a\n&& b", "3: unknown instruction: &&", `end that line with \`},
		{from + "apt-get install", "2: unknown instruction: apt-get", "RUN apt-get install"},
		{from + " \\\n", "2: unknown instruction: ", "remove the \\"},
		{from + "// a", "2: unknown instruction: //", "begin with #"},
		{"FORM a\nRUN x", "1: unknown instruction: FORM", "did you mean FROM?"},
		{"FROM", "1: FROM requires either one or three arguments", "AS name"},
		{"FROM a # b c", "1: FROM requires either one or three", "line of its own"},
		{"FROM a AS 1x", "1: invalid name for build stage", "lower-case"},
		{"FROM --plattform=x a", "1: unknown flag: --plattform", "did you mean --platform?"},
		{from + "COPY --form=x a b", "2: unknown flag: --form", "did you mean --from?"},
		{from + "COPY --from a b", "2: missing a value on flag: --from", "--flag=value"},
		{from + "COPY --from=a --from=b a b", "2: duplicate flag specified: --from", "one of the two"},
		{from + "COPY --link=maybe a b", "2: expecting boolean value for flag --link, not: maybe", "true, false or the flag alone"},
		{from + "USER --x y", "2: unknown flag: --x", "USER has no flags"},
		{from + "CMD --help", "2: unknown flag: --help", `CMD ["--help"] or CMD -- --help`},
		{from + "COPY a", "2: COPY requires at least two arguments", "source... destination"},
		{from + "COPY a <<E\nE\n", "2: COPY cannot accept a heredoc as a destination", "last"},
		{from + "COPY <<a/x /\na/x\n", "2: <<a/x: a heredoc's name cannot be a path", "destination"},
		{from + "RUN <<E\nx\n E\n", "2: unterminated heredoc", "alone"},
		{from + "RUN [\"a\", 1]", "2: when using JSON array syntax, arrays must be comprised of strings only", "double quotes"},
		{from + "RUN []", "2: RUN requires at least one argument", "program"},
		{from + "SHELL bash", "2: SHELL requires the arguments to be in JSON form", `["/bin/bash", "-c"]`},
		{from + "SHELL []", "2: SHELL requires at least one argument", ""},
		{from + "ENV a", "2: ENV must have two arguments", "ENV NAME=value"},
		{from + "ENV", "2: ENV requires at least one argument", "NAME=value"},
		{from + "ENV a=b c", `2: Syntax error - can't find = in "c". Must be of the form: name=value`, "quotes"},
		{from + "ENV =b", "2: ENV names can not be blank", "before the ="},
		{from + "ENV a=b # c", "2: Syntax error - can't find = in \"#\". Must be of the form: name=value", "a line of its own"},
		{from + "ONBUILD ENV a", "2: ENV must have two arguments", "write ENV NAME=value"},
		{from + "LABEL a", "2: LABEL must have two arguments", "LABEL NAME=value"},
		{from + "ARG", "2: ARG requires at least one argument", "ARG NAME"},
		{from + "EXPOSE", "2: EXPOSE requires at least one argument", "8080"},
		{from + "USER", "2: USER requires exactly one argument", "uid:gid"},
		{from + "WORKDIR", "2: WORKDIR requires exactly one argument", "/path"},
		{from + "VOLUME", "2: VOLUME requires at least one argument", "/path"},
		{from + "VOLUME [\"\"]", "2: VOLUME specified can not be an empty string", "path"},
		{from + "STOPSIGNAL", "2: STOPSIGNAL requires exactly one argument", "SIGTERM"},
		{from + "MAINTAINER", "2: MAINTAINER requires exactly one argument", "LABEL"},
		{from + "HEALTHCHECK", "2: HEALTHCHECK requires at least one argument", "for example"},
		{from + "HEALTHCHECK x", `2: Unknown type "X" in HEALTHCHECK (try CMD)`, "HEALTHCHECK NONE"},
		{from + "HEALTHCHECK NONE x", "2: HEALTHCHECK NONE takes no arguments", "alone"},
		{from + "HEALTHCHECK CMD", "2: Missing command after HEALTHCHECK CMD", "CMD command"},
		{from + "HEALTHCHECK --interval=5 CMD x", "2: time: missing unit in duration", "30s"},
		{from + "HEALTHCHECK --interval=1us CMD x", `2: Interval "interval" cannot be less than 1ms`, "1ms"},
		{from + "HEALTHCHECK --retries=-1 CMD x", "2: --retries cannot be negative (-1)", "default"},
		{from + "HEALTHCHECK --retries=x CMD x", `2: "x" is not a whole number`, "--retries=3"},
		{from + "ONBUILD", "2: ONBUILD requires at least one argument", "instruction"},
		{from + "ONBUILD ONBUILD RUN x", "2: Chaining ONBUILD via", "once"},
		{from + "ONBUILD FROM x", "2: FROM isn't allowed as an ONBUILD trigger", "but FROM"},
		{from + "RUN --network=x a", `2: invalid network mode "x"`, "none or host"},
		{"# escape=x\n" + from, "1: invalid escape token", "# escape="},
		{"# escape=`\n# escape=`\n" + from, "2: only one escape parser directive can be used", "one of the two"},
		{from + "RUN \xff", "2: instruction is not UTF-8 text", "UTF-8"},
		{from + "RUN a\x00b", "2: line contains a NUL byte", "UTF-8"},
		{from + "RUN " + strings.Repeat("x", maxLine), "2: dockerfile line greater than max allowed size of 65535", "break the line"},
		{from + "RUN --mount=from=$X,target=/x a", "2: 'from' doesn't support variable expansion, define alias stage instead", "FROM image AS name"},
		{from + "RUN --mount= a", "2: failed to parse csv mounts: EOF", "KEY=VALUE"},
		{from + "RUN --mount a", "2: missing a value on flag: --mount", "--flag=value"},
		{from + "RUN --security=x a", `2: security "x" is not valid`, "sandbox or insecure"},
		{from + "RUN --device=a,b a", "2: invalid field 'b' must be a key=value pair", "vendor.com/class"},
		{from + "RUN --device= a", "2: failed to parse csv devices: EOF", "vendor.com/class"},
		{from + "COPY --link= a b", "2: missing a value on flag: --link", "--flag=value"},
		{from + "COPY --parents=1 a b", "2: expecting boolean value for flag --parents, not: 1", "true, false"},
		{from + "COPY --parent a b", "2: unknown flag: --parent", "did you mean --parents?"},
		{from + "ADD --parents a b", "2: unknown flag: --parents", ""},
		{from + "COPY --exclude a b", "2: missing a value on flag: --exclude", "--flag=value"},
		{from + "COPY --link --link a b", "2: duplicate flag specified: --link", "keep one"},
		{from + "COPY --chown=1 --chown=2 a b", "2: duplicate flag specified: --chown", "keep one"},
		{from + "COPY --checksum=sha256:0 a b", "2: unknown flag: --checksum", ""},
		{from + "ADD --from=x a b", "2: unknown flag: --from", "--chown"},
	} {
		got := parseMistakes(t, c.src)
		if len(got) != 1 {
			t.Errorf("%.60q: %d mistakes, want one: %q", c.src, len(got), got)
			continue
		}
		msg, hint, _ := strings.Cut(got[0], " | ")
		if !strings.HasPrefix(msg, c.want) || !strings.Contains(hint, c.hint) {
			t.Errorf("%.60q: got %s | %s, want %s | …%s", c.src, msg, hint, c.want, c.hint)
		}
	}
}

func TestAllMistakesOfAFileComeAtOnce(t *testing.T) {
	const src = "FROM a AS x\nRUN [1]\nUSR x\nENV a\nCOPY a\nRUN ok\nLABEL a=b c\nEXPOSE\nRUN <<E\nUSR not seen\n"
	got := parseMistakes(t, src)
	var lines []string
	for _, g := range got {
		line, _, _ := strings.Cut(g, ":")
		lines = append(lines, line)
	}
	if want := "2 3 4 5 7 8 9"; strings.Join(lines, " ") != want {
		t.Errorf("mistakes at lines %v, want %s", lines, want)
	}
}

func TestAFileWithMistakesIsGivenWhenItsNamesAreCertain(t *testing.T) {
	for src, given := range map[string]bool{
		"RUNN a":          true,
		"RUN [1]":         true,
		"&& a":            true,
		"apt-get install": true,
		"COPY a\nEXPOSE":  true,
		"COPY --lonk a b": true,
		"EVN a=b":         true,
		"ENV a":           true,
		"ENV a=b c":       true,
		"ARG =b":          true,
		"LABEL a=b c":     true,
		"b=c":             false,
		"FROM a b":        false,
		"FORM a":          false,
		"RUN <<E\nFROM a": false,
		"RUN \x00":        false,
	} {
		f, err := Parse("Dockerfile", []byte("FROM a\n"+src+"\nUSER u\n"))
		if err == nil || (f != nil) != given {
			t.Errorf("%q: file given is %v, want %v (%v)", src, f != nil, given, err)
		}
		if f != nil && len(f.Stages[0].Instructions) != 1 {
			t.Errorf("%q: instructions %v", src, f.Stages[0].Instructions)
		}
	}
}

func TestWhatNamesAVariableIsUncertainAfterOneThatCannotBeRead(t *testing.T) {
	for src, certain := range map[string]bool{"ENV a": false, "ENV a=b c": false, "ARG =b": false, "EVN a=b": false, "LABEL a=b c": true, "EXPOSE": true} {
		f, err := Parse("Dockerfile", []byte("FROM a\n"+src+"\nCOPY a \\\n  $b\nCOPY a b\n"))
		if err == nil || f == nil {
			t.Fatalf("%q: %v", src, err)
		}
		if got := f.Certain(f.Mistake(Pos{3, 4}, "", "")); got != certain {
			t.Errorf("%q: an instruction with a variable is certain: %v", src, got)
		}
		if !f.Certain(f.Mistake(Pos{5, 5}, "", "")) {
			t.Errorf("%q: an instruction without a variable is not certain", src)
		}
	}
	if f, _ := Parse("Dockerfile", []byte("ARG =b\nFROM a\nCOPY a b\n")); f != nil {
		t.Error("a variable that FROM may name is not read, and the file is given")
	}
}

func TestMistakesAreCounted(t *testing.T) {
	got := parseMistakes(t, "FROM a\n"+strings.Repeat("X\n", 1000))
	if len(got) > maxMistakes+1 {
		t.Errorf("%d mistakes", len(got))
	}
	got = parseMistakes(t, "FROM a\n"+strings.Repeat("RUN [1]\n", 1000))
	if len(got) != maxMistakes+1 {
		t.Errorf("%d mistakes", len(got))
	}
	if got := parseMistakes(t, "FROM a\n"+strings.Repeat("RUN x\n", MaxInstructions)); len(got) != 1 {
		t.Errorf("a file of too many instructions gives %q", got)
	}
	words := "FROM a\n" + strings.Repeat("ARG"+strings.Repeat(" a", MaxWords/10)+"\n", 11)
	if got := parseMistakes(t, words); len(got) != 1 || !strings.Contains(got[0], "words in all") {
		t.Errorf("a file of too many words gives %q", got)
	}
	if got := parseMistakes(t, "FROM a\n"+strings.Repeat("#\n", MaxSize/2)); len(got) != 1 {
		t.Errorf("a file that is too large gives %q", got)
	}
}

func TestAnErrorPrintsItsPlace(t *testing.T) {
	_, err := Parse("sub/Dockerfile", []byte("FROM a\nX\nRUN [1]\n"))
	want := "sub/Dockerfile:2: unknown instruction: X\nsub/Dockerfile:3: when using JSON array syntax, arrays must be comprised of strings only"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var one *Error
	if !errors.As(err, &one) || one.Text != "X" || one.EndLine != 2 {
		t.Errorf("first mistake %+v", one)
	}
}

func TestTriggers(t *testing.T) {
	f := mustParse(t, "FROM a\n")
	in, mistake := f.ParseTrigger("copy . /app", Pos{1, 1})
	if mistake != nil || !in.Trigger || in.Pos != (Pos{1, 1}) || in.Command.(*Copy).Dest != "/app" {
		t.Errorf("got %+v, %v", in, mistake)
	}
	for _, bad := range []string{"", "#", "FROM x", "ONBUILD RUN x", "MAINTAINER x", "RUN a\nRUN b", "RUN [1]", "X", "COPY --lonk a b", "RUN \xff", "RUN a\x00"} {
		if in, mistake := f.ParseTrigger(bad, Pos{1, 1}); mistake == nil || mistake.Line != 1 || mistake.Text != "FROM a" {
			t.Errorf("%q: got %+v, %+v", bad, in, mistake)
		}
	}
	if len(f.findings) != 0 {
		t.Error("reading a trigger changes the file")
	}
}
