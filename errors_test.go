package whittle

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/image"
)

func written(err error) string {
	var b strings.Builder
	WriteError(&b, "whittle", err)
	return b.String()
}

func TestWhatWentWrongBesidesMistakesIsTold(t *testing.T) {
	mistakes := dockerfile.Errors{
		{File: "Dockerfile", Line: 1, Text: "FROMM a", Msg: "unknown instruction: FROMM", Hint: "did you mean FROM?"},
		{File: "Dockerfile", Line: 2, Text: "COPPY a b", Msg: "unknown instruction: COPPY"},
	}
	want := `whittle: Dockerfile:1: unknown instruction: FROMM
     1 | FROMM a
whittle: hint: did you mean FROM?
whittle: Dockerfile:2: unknown instruction: COPPY
     2 | COPPY a b
whittle: 2 mistakes; nothing was run
`
	full := &fs.PathError{Op: "open", Path: "/x/meta", Err: fs.ErrNotExist}
	also := "whittle: open /x/meta: file does not exist\n"
	hinted := &image.Error{Msg: "one\ntwo", Way: "a way"}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"alone":   {mistakes, want},
		"wrapped": {fmt.Errorf("build: %w", mistakes), want},
		"joined":  {errors.Join(mistakes, full), want + also},
		"twice":   {errors.Join(errors.Join(full, mistakes), nil, hinted), want + also + "whittle: one\nwhittle: two\nwhittle: hint: a way\n"},
		"limit": {fmt.Errorf("%w; %w", hinted, &fs.PathError{Op: "open", Path: "/x", Err: syscall.EMFILE}),
			"whittle: one\nwhittle: two; open /x: too many open files\nwhittle: hint: this process may not open more files: raise the limit, ulimit -n\n"},
		"none": {errors.Join(full, hinted), also + "whittle: one\nwhittle: two\nwhittle: hint: a way\n"},
	} {
		if got := written(tt.err); got != tt.want {
			t.Errorf("%s: got\n%swant\n%s", name, got, tt.want)
		}
	}
}

func TestErrorsMakeATerminalDoNothing(t *testing.T) {
	const evil = "a\x1b]0;title\x07\x1b[2Jb\rc\u202ed\u009b1me"
	for name, err := range map[string]error{
		"mistake": dockerfile.Errors{{File: evil, Line: 1, Text: evil, Msg: evil, Hint: evil}},
		"other":   &image.Error{Msg: evil, Way: evil},
	} {
		got := written(err)
		if strings.ContainsAny(got, "\x1b\r\x07\u202e\u009b") || !strings.Contains(got, "ab") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestALongLineIsCut(t *testing.T) {
	got := written(dockerfile.Errors{{File: "Dockerfile", Line: 1, Text: strings.Repeat("é", 70000) + "\nmore", Msg: "bad"}})
	if want := "whittle: Dockerfile:1: bad\n     1 | " + strings.Repeat("é", 200) + "…\n"; got != want {
		t.Errorf("got %d bytes %.300q", len(got), got)
	}
}
