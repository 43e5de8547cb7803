package whittle

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/source"
)

// WriteError writes err for a person: the thing that failed, for a mistake in
// a Dockerfile its file, line and text, and what can be done about it. Each
// line of a message begins with the program's name. Messages quote Dockerfiles,
// archives and registries: what a terminal would obey is taken out of them.
func WriteError(w io.Writer, program string, err error) {
	list := mistakes(err)
	for _, m := range list {
		writeMistake(w, program, m)
	}
	if n := len(list); n > 1 {
		fmt.Fprintf(w, "%s: %d mistakes; nothing was run\n", program, n)
	}
	for _, other := range others(err) {
		writeLines(w, program, other.Error())
		writeHint(w, program, Hint(other))
	}
	var build *FailedBuild
	if errors.As(err, &build) {
		build.write(w, program)
	}
}

func writeLines(w io.Writer, program, text string) {
	fmt.Fprintf(w, "%s: %s\n", program, strings.ReplaceAll(progress.CleanLines(text), "\n", "\n"+program+": "))
}

func writeHint(w io.Writer, program, hint string) {
	if hint != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, progress.Clean(hint))
	}
}

// others are those of the errors joined in err that are no mistakes in a
// Dockerfile. One that is about no mistake at all stays whole.
func others(err error) (out []error) {
	if len(mistakes(err)) == 0 {
		return []error{err}
	}
	if _, ok := err.(dockerfile.Errors); ok {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			out = append(out, others(one)...)
		}
	}
	return out
}

// mistakes are those in a Dockerfile that err is, in the order of its lines.
func mistakes(err error) dockerfile.Errors {
	var list dockerfile.Errors
	var one *dockerfile.Error
	var file *source.Error
	switch {
	case errors.As(err, &list):
		return list
	case errors.As(err, &one):
		return dockerfile.Errors{one}
	case errors.As(err, &file):
		return dockerfile.Errors{{File: file.File, Line: file.Line, Msg: file.Msg, Hint: file.Hint}}
	}
	return nil
}

// failure tells the display why a build ended without an image.
func failure(err error) progress.Event {
	e := progress.Event{Kind: progress.Failed, Err: err}
	for _, m := range mistakes(err) {
		e.Mistakes = append(e.Mistakes, progress.Warning{File: m.File, Line: m.Line, Text: m.Text, Msg: m.Msg, Hint: m.Hint})
	}
	return e
}

// hinted is an error with a way out.
type hinted struct {
	error
	way string
}

func (e *hinted) Hint() string  { return e.way }
func (e *hinted) Unwrap() error { return e.error }

// Hint finds the way out that an error offers, however deep it is wrapped. Any
// part may be the one that may not open another file: that hint goes first,
// since what the part says of its own trouble misleads then.
func Hint(err error) string {
	if errors.Is(err, syscall.EMFILE) {
		return execute.FilesHint
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func writeMistake(w io.Writer, program string, m *dockerfile.Error) {
	writeLines(w, program, m.Error())
	if m.Text != "" {
		line, _, _ := strings.Cut(m.Text, "\n")
		fmt.Fprintf(w, "  %4d | %s\n", m.Line, progress.Brief(line))
		for i, line := range m.More {
			fmt.Fprintf(w, "  %4d | %s\n", m.Line+1+i, progress.Brief(line))
		}
		if more := m.EndLine - m.Line - len(m.More); more > 0 {
			fmt.Fprintf(w, "       | … and %d more\n", more)
		}
	}
	writeHint(w, program, m.Hint)
}
