package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// keywords are all instructions.
func keywords() []string {
	return []string{
		"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
		"MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
	}
}

// flagsOf are the flags that this version knows, by instruction.
func flagsOf(keyword string) []string {
	switch strings.ToUpper(keyword) {
	case "FROM":
		return []string{"platform"}
	case "RUN":
		return []string{"mount", "network", "security", "device"}
	case "COPY":
		return []string{"from", "chown", "chmod", "link", "parents", "exclude"}
	case "ADD":
		return []string{"chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"}
	case "HEALTHCHECK":
		return []string{"interval", "timeout", "start-period", "start-interval", "retries"}
	}
	return nil
}

// reSuggestion is what the reference adds to some of its messages. Where
// several options are equally near it picks any; ours is always the same, and
// stands in the hint.
var reSuggestion = lazyre.New(` \(did you mean [^()]*\?\)$`)

// plainly is the text of a mistake that the reference found in an instruction.
func plainly(err error) string {
	var number *strconv.NumError
	if errors.As(err, &number) {
		return fmt.Sprintf("%q is not a whole number", number.Num)
	}
	return withoutSuggestion(err.Error())
}

func withoutSuggestion(msg string) string { return reSuggestion.ReplaceAllString(msg, "") }

// hint is the way out of a mistake that the line parser found.
func (p *reading) hint(pos Pos, msg string) string {
	switch {
	case strings.Contains(msg, "must be comprised of strings only"):
		return `put every element into double quotes, numbers too: ["sleep", "10"]`
	case strings.Contains(msg, `can't find = in "#`):
		return "a comment needs a line of its own"
	case strings.Contains(msg, "can't find = in"):
		return `a value with blanks needs quotes: NAME="two words"`
	case strings.Contains(msg, "must have two arguments"):
		instruction, _, _ := strings.Cut(msg, " ") // the line may begin with ONBUILD
		return fmt.Sprintf("write %s NAME=value", strings.ToUpper(instruction))
	case strings.Contains(msg, "unterminated heredoc"):
		return "end it with a line that is the delimiter alone, no blanks before or after it (<<- allows leading tabs)"
	case strings.Contains(msg, "escape token"):
		return "write # escape=\\ or # escape=`"
	case strings.Contains(msg, "parser directive"):
		return "keep one of the two lines"
	case strings.Contains(msg, "unexpected end of statement"):
		return "close the quote"
	}
	return ""
}

// hintFor is the way out of a mistake in an instruction.
func (p *reading) hintFor(n *parser.Node, msg string) string {
	keyword := strings.ToUpper(n.Value)
	if strings.HasPrefix(msg, "unknown instruction: ") {
		return unknownInstruction(n)
	}
	if flag, ok := strings.CutPrefix(msg, "unknown flag: --"); ok {
		return flagHint(keyword, flag)
	}
	if hint := cmp.Or(deviceHint(msg), mountHint(msg)); keyword == "RUN" && hint != "" {
		return hint
	}
	for _, h := range instructionHints() {
		if strings.Contains(msg, h.in) {
			return strings.ReplaceAll(h.hint, "KEYWORD", keyword)
		}
	}
	if keyword == "HEALTHCHECK" {
		return "for example: HEALTHCHECK --interval=30s --timeout=3s --retries=3 CMD [\"/app\", \"-health\"]"
	}
	return usage(keyword)
}

func instructionHints() []struct{ in, hint string } {
	return []struct{ in, hint string }{
		{"duplicate flag specified", "keep one of the two"},
		{"missing a value on flag", "write = between the flag and its value, no blanks: --flag=value"},
		{"expecting boolean value", "write true, false or the flag alone"},
		{"FROM requires either one or three", `write FROM image or FROM image AS name; a comment needs a line of its own`},
		{"invalid name for build stage", "use lower-case letters, digits, - _ and ., a letter first"},
		{"Destination could not be determined", "write KEYWORD source... destination"},
		{"JSON form", `for example: SHELL ["/bin/bash", "-c"]`},
		{"cannot accept a heredoc as a destination", "write the destination path last: COPY <<name /path"},
		{"names can not be blank", "write a name before the ="},
		{"invalid network mode", "write default, none or host"},
		{"security ", "write sandbox or insecure"},
		{"HEALTHCHECK NONE takes no", "write HEALTHCHECK NONE alone on its line"},
		{"Missing command after HEALTHCHECK", "write HEALTHCHECK CMD command"},
		{"in HEALTHCHECK (try CMD)", "write HEALTHCHECK CMD command, or HEALTHCHECK NONE"},
		{"time:", `write a number with its unit: 30s, 1m30s`},
		{"cannot be less than", "write at least 1ms, or 0 for the default"},
		{"--retries cannot be negative", "write 0 for the default, or how many failures in a row make it unhealthy"},
		{"not a whole number", "write how many failures in a row make it unhealthy, for example: --retries=3"},
		{"via `ONBUILD ONBUILD`", "write ONBUILD once"},
		{"as an ONBUILD trigger", "triggers can be any instruction but FROM, ONBUILD and MAINTAINER"},
		{"can not be an empty string", "write a path"},
	}
}

func flagHint(keyword, flag string) string {
	known := flagsOf(keyword)
	if s := Suggest(flag, known); s != "" {
		return "did you mean --" + s + "?"
	}
	if len(known) > 0 {
		return fmt.Sprintf("%s knows --%s", keyword, strings.Join(known, ", --"))
	}
	switch keyword {
	case "CMD", "ENTRYPOINT":
		return fmt.Sprintf(`flags of the builder stand here; for the program's own, write %s ["--%s"] or %s -- --%s`, keyword, flag, keyword, flag)
	}
	return keyword + " has no flags"
}

// unknownInstruction guesses what a line was meant to be: a misspelt
// instruction, the rest of the line above, or a command without RUN.
func unknownInstruction(n *parser.Node) string {
	if n.Value == "" { // blanks before it and nothing after
		return `remove the \ that has a line of its own`
	}
	if s := Suggest(strings.ToUpper(n.Value), keywords()); s != "" {
		return fmt.Sprintf("did you mean %s?", s)
	}
	if strings.HasPrefix(n.Value, "//") || strings.HasPrefix(n.Value, "--") || strings.HasPrefix(n.Value, ";") {
		return "comments begin with #"
	}
	if strings.HasPrefix(n.Value, "&&") || strings.HasPrefix(n.Value, "|") || strings.HasPrefix(n.Value, "-") {
		return `if this goes on with the line above, end that line with \`
	}
	return fmt.Sprintf(`to run a command, write RUN %s; if this goes on with the line above, end that line with \`, firstWords(n.Original, 40))
}

// firstWords cuts a text for a hint.
func firstWords(s string, most int) string {
	s = strings.TrimSpace(s)
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most]) + "…"
}

// usage is the form of an instruction.
func usage(keyword string) string {
	switch keyword {
	case "ENV", "LABEL":
		return fmt.Sprintf("write %s NAME=value", keyword)
	case "ARG":
		return "write ARG NAME or ARG NAME=default"
	case "EXPOSE":
		return "write EXPOSE 8080 or EXPOSE 53/udp"
	case "WORKDIR":
		return "write WORKDIR /path"
	case "USER":
		return "write USER name, or USER uid:gid"
	case "VOLUME":
		return "write VOLUME /path"
	case "STOPSIGNAL":
		return "write STOPSIGNAL SIGTERM, or another name or number"
	case "MAINTAINER":
		return "write LABEL org.opencontainers.image.authors=name"
	case "ONBUILD":
		return "write ONBUILD and an instruction"
	}
	return ""
}
