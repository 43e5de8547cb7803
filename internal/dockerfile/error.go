package dockerfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/util/suggest"

	"github.com/whittle-build/whittle/internal/nearest"
)

// Error is one mistake in a Dockerfile.
type Error struct {
	File          string
	Line, EndLine int      // 0: about the file as a whole
	Text          string   // the first line as written, without blanks around it
	More          []string // the lines after it, when there are several; not all of many
	Msg           string
	Hint          string // what to do about it; may be ""
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Msg)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg)
}

// Errors is all mistakes of one file in the order of their lines; never empty
// when it is an error.
type Errors []*Error

func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	return b.String()
}

// Unwrap lets errors.As find the single mistakes.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, one := range e {
		out[i] = one
	}
	return out
}

// Sorted returns the mistakes in the order of their lines, each one once.
func (e Errors) Sorted() Errors {
	out := slices.Clone(e)
	slices.SortStableFunc(out, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return slices.CompactFunc(out, func(a, b *Error) bool { return a.Line == b.Line && a.Msg == b.Msg })
}

// Warning is something that builds but is probably not meant. Rule is the
// reference's name of its lint rule, or whittle's own, in the same style.
type Warning struct {
	Rule          string
	File          string
	Line, EndLine int
	Text          string
	Msg           string
	About         string // what the rule is for
	URL           string
	Hint          string
	Own           bool // a rule of whittle's own, which never fails a build
}

func (w Warning) String() string {
	if w.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", w.File, w.Rule, w.Msg)
	}
	return fmt.Sprintf("%s:%d: %s: %s", w.File, w.Line, w.Rule, w.Msg)
}

// SuggestVariable returns what the reference takes for the variable that name
// was meant to be, or "": its messages have it in them.
func SuggestVariable(name string, options []string) string {
	const long = 128 // the cost of a comparison is the product of both lengths
	if len(name) > long {
		return ""
	}
	near, _ := suggest.Search(name, slices.DeleteFunc(slices.Clone(options), func(o string) bool { return len(o) > long }), true)
	return near
}

// Suggest returns the option that val was most likely meant to be, or "".
// Ties go to the first option. An exact match is no suggestion.
func Suggest(val string, options []string) string {
	best, limit := "", 3
	for _, o := range options {
		if o == val {
			return ""
		}
		if strings.EqualFold(o, val) {
			best, limit = o, 0
			continue
		}
		d := nearest.Distance(strings.ToLower(val), strings.ToLower(o))
		if d < limit && 2*d <= max(len(val), len(o)) {
			best, limit = o, d
		}
	}
	return best
}
