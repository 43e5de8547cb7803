package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// Vars is variables in the order in which they were first set.
type Vars struct {
	names  []string
	values map[string]setting
	sets   int      // how often Set was called
	list   []string // NAME=value of all; nil when it has to be made again
}

// setting is a value and the number of the Set that gave it.
type setting struct {
	value string
	set   int
}

// NewVars returns the variables of a list of NAME=value.
func NewVars(list []string) *Vars {
	e := &Vars{values: map[string]setting{}}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.Set(k, v)
	}
	return e
}

// Get returns the value of name.
func (e *Vars) Get(name string) (string, bool) {
	v, ok := e.values[name]
	return v.value, ok
}

// Set gives name a value; a name that is set keeps its place.
func (e *Vars) Set(name, value string) {
	old, ok := e.values[name]
	e.sets++
	e.values[name] = setting{value, e.sets}
	if ok && old.value == value {
		return
	}
	if !ok {
		e.names = append(e.names, name)
	}
	e.list = nil
}

// Recent returns the names in the order in which they were last set, which is
// the reference's: of several that are equally near it suggests the first.
func (e *Vars) Recent() []string {
	names := slices.Clone(e.names)
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(e.values[a].set, e.values[b].set) })
	return names
}

// Keys returns the names in order. The caller must not change it.
func (e *Vars) Keys() []string { return e.names }

// List returns NAME=value of all. It is shared with other callers, who must
// not change it.
func (e *Vars) List() []string {
	if e.list == nil {
		e.list = make([]string, len(e.names))
		for i, n := range e.names {
			e.list[i] = n + "=" + e.values[n].value
		}
	}
	return e.list
}

// Clone returns a copy that shares nothing that is ever changed.
func (e *Vars) Clone() *Vars {
	return &Vars{names: slices.Clone(e.names), values: maps.Clone(e.values), sets: e.sets, list: e.list}
}

// Expanded is a word with its variables replaced. Beside an error it has the
// names as far as they were seen.
type Expanded struct {
	Text        string
	Used, Unset []string // names, sorted
}

// Expander replaces variables. All words of a build share one, because what
// they may grow to is limited together: variables that double each other would
// otherwise need more memory than any machine has. It is not for use by
// several goroutines.
type Expander struct {
	escape rune
	left   int
}

// Bounds of one Expander and of one word.
const (
	maxExpansion     = 64 << 20
	maxSubstitutions = 100_000
	maxPatternWork   = 256 << 20
)

var errTooMuch = errors.New("variables expand to more than 64 MB")

// NewExpander returns an Expander for words of f.
func (f *File) NewExpander() *Expander { return &Expander{escape: f.Escape, left: maxExpansion} }

// Spend counts n more bytes of text that a caller makes of expanded words.
func (x *Expander) Spend(n int) error {
	if x.left < n {
		return errTooMuch
	}
	x.left -= n
	return nil
}

// Word expands one word and removes its quotes.
func (x *Expander) Word(word string, env *Vars) (Expanded, error) {
	if !strings.ContainsAny(word, `$'"\`+"`<") && !strings.ContainsRune(word, 0) && utf8.ValidString(word) {
		return Expanded{Text: word}, nil
	}
	return x.process(shell.NewLex(x.escape), word, env)
}

// Words expands and then splits at blanks that are not quoted.
func (x *Expander) Words(word string, env *Vars) ([]string, error) {
	g, err := x.guard(word, env)
	if err != nil {
		return nil, err
	}
	words, err := shell.NewLex(x.escape).ProcessWords(word, g)
	if g.refused {
		return nil, errTooMuch
	}
	return words, plain(err, word)
}

// Body expands the text of a heredoc: quotes stay, and \ escapes whatever the
// file's escape character is.
func (x *Expander) Body(text string, env *Vars) (Expanded, error) {
	if !strings.ContainsAny(text, `$\`) {
		return Expanded{Text: text}, nil
	}
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	return x.process(lex, text, env)
}

// Title expands an instruction for people to read; what cannot be expanded
// stays as it is. For RUN, whose text is the shell's, quotes and unknown
// variables stay.
func (x *Expander) Title(text string, env *Vars, run bool) string {
	lex := shell.NewLex(x.escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = run, run, run
	out, err := x.process(lex, text, env)
	if err != nil {
		return text
	}
	return out.Text
}

func (x *Expander) process(lex *shell.Lex, word string, env *Vars) (Expanded, error) {
	g, err := x.guard(word, env)
	if err != nil {
		return Expanded{}, err
	}
	res, err := lex.ProcessWordWithMatches(word, g)
	if g.refused {
		return Expanded{}, errTooMuch
	}
	out := Expanded{Used: slices.Sorted(maps.Keys(res.Matched)), Unset: slices.Sorted(maps.Keys(res.Unmatched))}
	if err != nil {
		return out, plain(err, word)
	}
	out.Text = res.Result
	return out, nil
}

// plain takes the words off a lexer's error that only repeat the word.
func plain(err error, word string) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("failed to process %q: ", word)))
}

// rePattern is a substitution whose cost is not that of its result.
var rePattern = lazyre.New(`\$\{[A-Za-z0-9_]*[#%/]`)

// guard is the variables as the lexer sees them, counted.
type guard struct {
	env     *Vars
	x       *Expander
	word    int  // length of the word
	given   int  // bytes handed out for it
	pattern bool // each value is matched against, or replaced by, the others
	refused bool
}

func (x *Expander) guard(word string, env *Vars) (*guard, error) {
	switch {
	case strings.ContainsRune(word, 0):
		return nil, errors.New("NUL byte in a word")
	case !utf8.ValidString(word):
		return nil, errors.New("word is not UTF-8 text")
	case strings.Count(word, "${") > maxSubstitutions:
		return nil, fmt.Errorf("more than %d substitutions in one word", maxSubstitutions)
	}
	if err := x.Spend(len(word)); err != nil {
		return nil, err
	}
	return &guard{env: env, x: x, word: len(word), pattern: rePattern.MatchString(word)}, nil
}

func (g *guard) Get(name string) (string, bool) {
	v, ok := g.env.Get(name)
	if g.x.left < len(v) || g.pattern && len(v) > maxPatternWork/(g.word+g.given+1) {
		g.refused = true
		return "", ok
	}
	g.x.left -= len(v)
	g.given += len(v)
	return v, ok
}

func (g *guard) Keys() []string { return g.env.Keys() }
