package dockerfile

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// FuzzParse holds Parse against the reference's own parser: what that refuses
// is refused, what it takes is taken but for what this version says that it
// does not do. No input panics, and every position is inside of the file.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"FROM a\nRUN b\n", "# escape=`\nFROM a AS b\nCOPY --from=b --chown=1 a `\n b\n", "FROM a\nRUN <<E && x <<-F\na\nE\n\tb\nF\n",
		"ARG A=1\nFROM $A\nENV a=b c='d e'\nLABEL a b\nCMD [\"a\"]\nHEALTHCHECK --interval=1s CMD x\n", "FROM a\nONBUILD COPY <<a /\nx\na\n",
		"FROM a\nRUN [1]\nUSR\nENV a\n# c\nRUN a \\\n\n# d\n b\nSHELL x\n", "# check=skip=all;error=true\nFROM a\nVOLUME ['a']\nEXPOSE 1/tcp 2-3\nSTOPSIGNAL 9\n",
		"\uFEFF#!x\n# syntax=a\nfrom a\r\nrun b\r\n", "FROM a\nRUN --mount=type=bind x\nADD --unpack=true a b\nCOPY --link a b\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("Dockerfile", src)
		again, err2 := Parse("Dockerfile", src)
		if !reflect.DeepEqual(file, again) || !reflect.DeepEqual(err, err2) {
			t.Fatal("two readings of one file differ")
		}
		lines := bytes.Count(src, []byte("\n")) + 1
		var errs Errors
		if err != nil && (!errors.As(err, &errs) || len(errs) == 0) {
			t.Fatalf("error is %#v", err)
		}
		for _, e := range errs {
			if e.Line < 0 || e.Line > lines || e.EndLine < e.Line || e.EndLine > lines || e.Msg == "" {
				t.Fatalf("mistake outside of %d lines: %+v", lines, e)
			}
		}
		if file != nil {
			checkPositions(t, file, lines)
		}
		known := referenceError(src)
		if known != nil && err == nil {
			t.Fatalf("the reference refuses: %v", known)
		}
		if known == nil && err != nil && !ownRefusal(errs) {
			t.Fatalf("the reference takes what gives %v", err)
		}
	})
}

func checkPositions(t *testing.T, file *File, lines int) {
	inside := func(p Pos) {
		if p.Line < 1 || p.EndLine < p.Line || p.EndLine > lines {
			t.Fatalf("position %v outside of %d lines", p, lines)
		}
	}
	for _, s := range file.Stages {
		inside(s.Pos)
		for _, in := range s.Instructions {
			inside(in.Pos)
			if in.Command == nil || in.Text == "" {
				t.Fatalf("empty instruction %+v", in)
			}
		}
	}
	for _, w := range file.Warnings {
		if w.Line < 1 || w.Line > lines {
			t.Fatalf("warning outside of %d lines: %+v", lines, w)
		}
	}
}

// referenceError is what the reference says of a file, up to the point where
// it looks at images.
func referenceError(src []byte) error {
	res, err := parser.Parse(bytes.NewReader(src))
	if err != nil {
		return err
	}
	stages, _, err := instructions.Parse(res.AST, nil)
	if err != nil {
		return err
	}
	if len(stages) == 0 {
		return io.EOF
	}
	return nil
}

// ownRefusal reports whether a mistake is one that only whittle sees.
func ownRefusal(errs Errors) bool {
	for _, e := range errs {
		for _, own := range []string{
			"not UTF-8", "NUL byte", "a heredoc's name", "RUN requires at least one", "a heredoc cannot be part",
			"cannot be empty", "max allowed", "most allowed",
		} {
			if strings.Contains(e.Msg, own) {
				return true
			}
		}
	}
	return false
}

// FuzzExpand: no word panics, and none grows without bound.
func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"$a", "${a:-${b}}", "'a'\"$b\"", `\$a`, "${a//b/c}", "${a##*/}", "${a%\\*}", "<<$a", "${b?x}", "$"} {
		f.Add(seed, "value/of a", '\\')
	}
	f.Fuzz(func(t *testing.T, word, value string, escape rune) {
		if escape != '`' {
			escape = '\\'
		}
		x := &Expander{escape: escape, left: maxExpansion}
		env := NewVars([]string{"a=" + value, "b="})
		out, err := x.Word(word, env)
		if err == nil && len(out.Text) > (len(word)+1)*(len(value)+4)*4 {
			t.Fatalf("%d bytes of word and %d of value make %d", len(word), len(value), len(out.Text))
		}
		if err == nil && !strings.ContainsAny(word, "$'\"\\`<") && out.Text != word {
			t.Fatalf("%q became %q", word, out.Text)
		}
		x.Words(word, env)
		x.Body(word, env)
		x.Title(word, env, true)
	})
}
