package source

import (
	"errors"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func TestFindInSaysWhatIsThere(t *testing.T) {
	m := entry.NewMem()
	file := func(name, text string) {
		m.Add(entry.Entry{Path: name, Kind: entry.File, Size: int64(len(text))}, text)
	}
	dir := func(name string) { m.Add(entry.Entry{Path: name, Kind: entry.Dir}, "") }
	link := func(name, to string) { m.Add(entry.Entry{Path: name, Kind: entry.Symlink, Link: to}, "") }
	for _, d := range []string{"upper", "lower", "both", "empty", "dir", "dir/Dockerfile", "links", "typo"} {
		dir(d)
	}
	file("upper/Dockerfile", "FROM upper")
	file("lower/dockerfile", "FROM lower")
	file("both/Dockerfile", "FROM both")
	file("both/dockerfile", "FROM not")
	file("typo/Dockerfile.build", "FROM typo")
	link("links/Dockerfile", "/real")
	link("links/out", "../../../../../real")
	link("links/loop", "loop")
	link("links/nowhere", "nothing")
	file("links/real", "FROM links")
	tests := map[string]struct{ ctx, file, want, err, hint string }{
		"Dockerfile":         {ctx: "upper", want: "FROM upper"},
		"then dockerfile":    {ctx: "lower", want: "FROM lower"},
		"both":               {ctx: "both", want: "FROM both"},
		"named":              {ctx: "links", file: "real", want: "FROM links"},
		"named, lower case":  {ctx: ".", file: "lower/Dockerfile", want: "FROM lower"},
		"dots":               {ctx: "upper", file: "../../x/../Dockerfile", want: "FROM upper"},
		"an absolute link":   {ctx: "links", want: "FROM links"},
		"a link that leaves": {ctx: "links", file: "out", want: "FROM links"},
		"a loop":             {ctx: "links", file: "loop", err: "leads to itself"},
		"a dangling link":    {ctx: "links", file: "nowhere", err: "is a symlink to a file that is not in the archive", hint: "-f"},
		"a directory":        {ctx: "dir", err: "is not a regular file", hint: "-f"},
		"a name like it":     {ctx: "typo", err: "no such file", hint: "did you mean Dockerfile.build?"},
		"nothing":            {ctx: "empty", err: "no such file", hint: "is empty"},
		"not this one":       {ctx: ".", file: "typo/Dockerfile.biuld", err: "no such file", hint: "typo/Dockerfile.build?"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, src, err := FindIn(entry.Sub(m, tt.ctx), "the archive", tt.file)
			if tt.err == "" {
				if err != nil || string(src) != tt.want {
					t.Fatalf("got %q, %v; want %q", src, err, tt.want)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.err) || !strings.Contains(e.Hint, tt.hint) {
				t.Fatalf("error %v, hint %q; want %q, %q", err, e.Hint, tt.err, tt.hint)
			}
		})
	}
}
