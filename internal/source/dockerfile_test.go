package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFindDockerfileSaysWhatIsThere(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"both/Dockerfile":                 "FROM upper",
		"both/dockerfile":                 "FROM lower",
		"lower/dockerfile":                "FROM lower",
		"build/Dockerfile.build":          "FROM build",
		"build/Dockerfile.x.dockerignore": "",
		"typo/Dokcerfile":                 "FROM typo",
		"other/readme":                    "",
		"empty/":                          "",
		"dir/Dockerfile/":                 "",
		"inner/Dockerfile":                "->real/D",
		"inner/real/D":                    "FROM inner",
		"outer/Dockerfile":                "->../both/Dockerfile",
		"dangling/Dockerfile":             "->nowhere",
		"loop/Dockerfile":                 "->Dockerfile",
		"absolute/Dockerfile":             "->/real/D",
		"absolute/real/D":                 "FROM absolute",
		"file":                            "",
	})
	tests := map[string]struct{ ctx, file, want, err, hint string }{
		"Dockerfile first":           {ctx: "both", want: "FROM upper"},
		"then dockerfile":            {ctx: "lower", want: "FROM lower"},
		"the user's own":             {ctx: "lower", file: "both/Dockerfile", want: "FROM upper"},
		"a link inside":              {ctx: "inner", want: "FROM inner"},
		"an absolute link":           {ctx: "absolute", want: "FROM absolute"},
		"-f in lower case":           {ctx: "both", file: "lower/Dockerfile", want: "FROM lower"},
		"a link that the user names": {ctx: "lower", file: "outer/Dockerfile", want: "FROM upper"},
		"a link that leaves":         {ctx: "outer", err: "leads out of", hint: "-f"},
		"a loop":                     {ctx: "loop", err: "leads to itself"},
		"a dangling link":            {ctx: "dangling", err: "does not exist"},
		"only Dockerfile.build":      {ctx: "build", err: "no such file", hint: "build/Dockerfile.build? "},
		"a slip of the keys":         {ctx: "typo", err: "no such file", hint: "typo/Dokcerfile"},
		"nothing like it":            {ctx: "other", err: "no such file", hint: "with -f"},
		"an empty context":           {ctx: "empty", err: "no such file", hint: "empty"},
		"a directory":                {ctx: "dir", err: "is not a regular file"},
		"a directory that was named": {ctx: "dir", file: "both", err: "is a directory"},
		"-f relative to the context": {ctx: "build", file: "Dockerfile.build", err: "no such Dockerfile", hint: "write -f build/Dockerfile.build"},
		"-f with a slip":             {ctx: "both", file: "build/Dockerfile.biuld", err: "no such Dockerfile", hint: "build/Dockerfile.build?"},
		"no context":                 {ctx: "nowhere", err: "no such build context"},
		"a file for a context":       {ctx: "file", err: "not a directory", hint: "-f"},
	}
	t.Chdir(dir)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path, src, err := FindDockerfile(tt.ctx, tt.file)
			if tt.err == "" {
				if err != nil || string(src) != tt.want {
					t.Fatalf("%s: got %q, %v; want %q", path, src, err, tt.want)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.err) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("got %v (%+v), want %q with hint %q", err, e, tt.err, tt.hint)
			}
		})
	}
}

func TestReadingADockerfileEnds(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "Dockerfile"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := FindDockerfile(dir, ""); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("fifo: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxText+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := FindDockerfile(dir, filepath.Join(dir, "big")); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("big: %v", err)
	}
}
