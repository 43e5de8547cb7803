package whittle

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/source"
)

// WriteError writes err for a person: the thing that failed, for a mistake in
// a Dockerfile its file, line and text, and what can be done about it. Each
// line of a message begins with the program's name.
func WriteError(w io.Writer, program string, err error) {
	if list := mistakes(err); len(list) > 0 {
		for _, m := range list {
			writeMistake(w, program, m)
		}
		if n := len(list); n > 1 {
			fmt.Fprintf(w, "%s: %d mistakes; nothing was run\n", program, n)
		}
		return
	}
	fmt.Fprintf(w, "%s: %s\n", program, strings.ReplaceAll(err.Error(), "\n", "\n"+program+": "))
	if h := Hint(err); h != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, h)
	}
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

// Hint finds the way out that an error offers, however deep it is wrapped.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func writeMistake(w io.Writer, program string, m *dockerfile.Error) {
	fmt.Fprintf(w, "%s: %v\n", program, m)
	if m.Text != "" {
		fmt.Fprintf(w, "  %4d | %s\n", m.Line, strings.SplitN(m.Text, "\n", 2)[0])
	}
	if m.Hint != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, m.Hint)
	}
}
