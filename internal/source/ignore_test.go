package source

import (
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// makeTree writes files (content by path; a path that ends in a slash is a
// directory, content that begins with "->" a symlink).
func makeTree(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		full := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(full), 0o755)
		if link, ok := strings.CutPrefix(content, "->"); ok {
			err = errors.Join(err, os.Symlink(link, full))
		} else if strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.MkdirAll(full, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(full, []byte(content), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t testing.TB, dir string, o Options) *Context {
	t.Helper()
	c, err := OpenFolder(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// paths lists all that c shows, directories with a slash.
func paths(t testing.TB, c *Context) []string {
	t.Helper()
	var out []string
	err := entry.Walk(c, ".", func(e entry.Entry) error {
		if e.Path == "." {
			return nil
		}
		if e.IsDir() {
			e.Path += "/"
		}
		out = append(out, e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestPatternsExcludeAsInTheReference(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"Dockerfile": "", "README.md": "", "README-secret.md": "", "temp1": "",
		"src/main.go": "", "src/main_test.go": "", "src/gen/a.go": "", "src/gen/deep/b.go": "",
		"docs/a.md": "", "docs/b.txt": "", "node_modules/x/index.js": "", "sub/node_modules/y.js": "",
		"[odd]/f": "", "empty/": "",
	})
	all := paths(t, open(t, dir, Options{}))
	tests := map[string]struct {
		ignore string
		gone   string // what is not shown, of all
	}{
		"nothing":                           {"", ""},
		"comments only at the first column": {"#docs\n #docs", ""},
		"a name at the root only":           {"node_modules", "node_modules/ node_modules/x/ node_modules/x/index.js"},
		"a name at any depth":               {"**/node_modules", "node_modules/ node_modules/x/ node_modules/x/index.js sub/ sub/node_modules/ sub/node_modules/y.js -sub/"},
		"a leading slash means the root":    {"/docs", "docs/ docs/a.md docs/b.txt"},
		"a trailing slash means nothing":    {"docs/", "docs/ docs/a.md docs/b.txt"},
		"dots are cleaned":                  {"./src/../docs/.", "docs/ docs/a.md docs/b.txt"},
		"blanks are trimmed":                {"  docs  ", "docs/ docs/a.md docs/b.txt"},
		"a star stays in its element":       {"src/*.go", "src/main.go src/main_test.go"},
		"a double star does not":            {"src/**/*.go", "src/main.go src/main_test.go src/gen/a.go src/gen/deep/b.go"},
		"a question mark":                   {"temp?", "temp1"},
		"all below, not itself":             {"docs/**", "docs/a.md docs/b.txt"},
		"the last match wins":               {"*.md\n!README*.md\nREADME-secret.md", "README-secret.md"},
		"and the other way round":           {"*.md\nREADME-secret.md\n!README*.md", ""},
		"a set":                             {"[D]ockerfile", "Dockerfile"},
		"an escaped bracket":                {`\[odd\]`, "[odd]/ [odd]/f"},
		"all but one deep file": {"*\n!src/gen/deep/b.go",
			"Dockerfile README.md README-secret.md temp1 src/main.go src/main_test.go src/gen/a.go docs/ docs/a.md docs/b.txt node_modules/ node_modules/x/ node_modules/x/index.js sub/ sub/node_modules/ sub/node_modules/y.js [odd]/ [odd]/f empty/"},
		"a directory shows with what it keeps": {"src\n!src/gen", "src/main.go src/main_test.go"},
		"and hides when nothing is kept":       {"src\n!src/nothing*", "src/ src/main.go src/main_test.go src/gen/ src/gen/a.go src/gen/deep/ src/gen/deep/b.go"},
		"an exception for a directory that a later pattern cuts": {"*\n!src\nsrc/gen",
			"Dockerfile README.md README-secret.md temp1 src/gen/ src/gen/a.go src/gen/deep/ src/gen/deep/b.go docs/ docs/a.md docs/b.txt node_modules/ node_modules/x/ node_modules/x/index.js sub/ sub/node_modules/ sub/node_modules/y.js [odd]/ [odd]/f empty/"},
		// The reference's walk does not see that "!docs" would match docs/a.md
		// through its parent, because nothing had excluded docs itself.
		"an exception for a directory that was not excluded": {"docs/a.md\n!docs", "docs/a.md"},
		"the root cannot be excluded":                        {".", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			patterns, err := parseIgnore(".dockerignore", []byte(tt.ignore))
			if err != nil {
				t.Fatal(err)
			}
			gone := strings.Fields(tt.gone)
			want := slices.DeleteFunc(slices.Clone(all), func(p string) bool {
				return slices.Contains(gone, p) && !slices.Contains(gone, "-"+p)
			})
			lazy := open(t, dir, Options{Ignore: patterns})
			if got := paths(t, lazy); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			scanned := open(t, dir, Options{Ignore: patterns})
			if err := scanned.Scan(t.Context(), []Part{{Path: "."}}); err != nil {
				t.Fatal(err)
			}
			if got := paths(t, scanned); !slices.Equal(got, want) {
				t.Errorf("after Scan: got %q\nwant %q", got, want)
			}
			partly := open(t, dir, Options{Ignore: patterns})
			if err := partly.Scan(t.Context(), []Part{{Path: ".", Exclude: []string{"*/*"}}}); err != nil {
				t.Fatal(err)
			}
			if got := paths(t, partly); !slices.Equal(got, want) {
				t.Errorf("after a Scan of a part: got %q\nwant %q", got, want)
			}
		})
	}
}

func TestAnExcludedFileIsNotThere(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"a/secret": "x", "a/public": "x", "b/c/d": "x"})
	c := open(t, dir, Options{Ignore: []string{"a/secret", "b", "!b/x"}})
	for _, p := range []string{"a/secret", "b", "b/c", "b/c/d"} {
		if _, err := c.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("lstat %s: %v", p, err)
		}
		if _, err := c.OpenFile(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("open %s: %v", p, err)
		}
	}
	if _, err := c.Lstat("a/public"); err != nil {
		t.Error(err)
	}
}

func TestExcludedDirectoriesAreNotRead(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("needs not to be root: root can read every directory")
	}
	dir := makeTree(t, t.TempDir(), map[string]string{"a/x": "", "b/x": ""})
	os.Chmod(filepath.Join(dir, "a"), 0)
	defer os.Chmod(filepath.Join(dir, "a"), 0o755)
	for _, ignore := range [][]string{{"a"}, {"a", "!a/y"}} {
		if got := paths(t, open(t, dir, Options{Ignore: ignore})); !slices.Equal(got, []string{"b/", "b/x"}) {
			t.Errorf("%q: got %q", ignore, got)
		}
	}
}

// refMatch is the pattern language, element by element and without
// shortcuts.
func refMatch(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		if len(pattern) == 1 {
			return len(name) > 0
		}
		for i := range len(name) + 1 {
			if refMatch(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := path.Match(pattern[0], name[0])
	return ok && refMatch(pattern[1:], name[1:])
}

// refShown decides for each of all, which has parents before children,
// whether the patterns show it. It looks everywhere.
func refShown(patterns, all []string) []string {
	matched := map[string][]bool{}
	shown := map[string]bool{}
	for _, p := range all {
		clean := strings.TrimSuffix(p, "/")
		parent := matched[path.Dir(clean)]
		mine := make([]bool, len(patterns))
		out := false
		for i, pat := range patterns {
			pat, back := strings.CutPrefix(pat, "!")
			mine[i] = parent != nil && parent[i]
			if !mine[i] && back != out {
				continue
			}
			mine[i] = mine[i] || refMatch(strings.Split(path.Clean(pat), "/"), strings.Split(clean, "/"))
			if mine[i] {
				out = !back
			}
		}
		matched[clean] = mine
		if !out {
			shown[p] = true
			for d := path.Dir(clean); d != "."; d = path.Dir(d) {
				shown[d+"/"] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !shown[p] })
}

func oracleTree(t testing.TB) string {
	files := map[string]string{"ab.c": "", "b.c": ""}
	for _, x := range []string{"a", "b", "ab"} {
		for _, y := range []string{"a", "b", "a.c"} {
			files[x+"/"+y+"/"] = ""
			files[x+"/"+y+"/a"] = ""
			files[x+"/"+y+"/b/b.c"] = ""
		}
	}
	return makeTree(t, t.TempDir(), files)
}

func checkOracle(t testing.TB, dir string, all, patterns []string) {
	t.Helper()
	c, err := OpenFolder(dir, Options{Ignore: patterns})
	if err != nil {
		t.Fatalf("%q: %v", patterns, err)
	}
	defer c.Close()
	if got, want := paths(t, c), refShown(patterns, all); !slices.Equal(got, want) {
		t.Errorf("patterns %q:\n got %q\nwant %q", patterns, got, want)
	}
	single, err := OpenFolder(dir, Options{Ignore: patterns})
	if err != nil {
		t.Fatal(err)
	}
	defer single.Close()
	want := refShown(patterns, all)
	for _, p := range slices.Backward(all) {
		_, err := single.Lstat(strings.TrimSuffix(p, "/"))
		if (err == nil) != slices.Contains(want, p) {
			t.Errorf("patterns %q: asked for %s alone: %v", patterns, p, err)
		}
	}
}

func TestRandomPatternsMatchTheSlowReference(t *testing.T) {
	dir := oracleTree(t)
	all := paths(t, open(t, dir, Options{}))
	r := rand.New(rand.NewPCG(1, 2))
	els := []string{"a", "b", "ab", "*", "**", "a*", "?", "*.c", "b.c", "a?"}
	for range 1500 {
		var patterns []string
		for range 1 + r.IntN(4) {
			var p []string
			for range 1 + r.IntN(3) {
				p = append(p, els[r.IntN(len(els))])
			}
			patterns = append(patterns, []string{"", "", "!"}[r.IntN(3)]+strings.Join(p, "/"))
		}
		checkOracle(t, dir, all, patterns)
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("a\n!a/b")
	f.Add("**/b\n!**/*.c\na/?")
	dir := oracleTree(f)
	c := open(f, dir, Options{})
	all := paths(f, c)
	f.Fuzz(func(t *testing.T, src string) {
		if strings.Trim(src, "ab*?!/.c\n") != "" || len(src) > 200 {
			t.Skip("outside of what the reference matcher knows")
		}
		patterns, err := parseIgnore("x", []byte(src))
		if err != nil {
			return
		}
		for _, p := range patterns {
			p = strings.TrimPrefix(p, "!")
			for el := range strings.SplitSeq(path.Clean(p), "/") {
				if strings.Contains(el, "**") && el != "**" || el == ".." || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "!") {
					t.Skip("outside of what the reference matcher knows")
				}
			}
		}
		checkOracle(t, dir, all, patterns)
	})
}

func TestLoadIgnorePrefersTheDockerfilesOwn(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{
		"ctx/.dockerignore":                 "\xef\xbb\xbf/a\n# c\n\n! b \r\n",
		"ctx/Dockerfile.build":              "",
		"ctx/Dockerfile.build.dockerignore": "own",
		"else/Dockerfile":                   "",
		"else/Dockerfile.dockerignore":      "outside",
		"bare/x":                            "",
	})
	ctx := filepath.Join(dir, "ctx")
	tests := map[string]struct{ ctx, dockerfile, name, want string }{
		"the context's":               {ctx, filepath.Join(ctx, "Dockerfile"), ctx + "/.dockerignore", "a !b"},
		"from standard input":         {ctx, "-", ctx + "/.dockerignore", "a !b"},
		"no Dockerfile":               {ctx, "", ctx + "/.dockerignore", "a !b"},
		"its own":                     {ctx, ctx + "/Dockerfile.build", ctx + "/Dockerfile.build.dockerignore", "own"},
		"beside one outside":          {ctx, dir + "/else/Dockerfile", dir + "/else/Dockerfile.dockerignore", "outside"},
		"none":                        {dir + "/bare", "", "", ""},
		"none, and no Dockerfile dir": {dir + "/bare", dir + "/nowhere/Dockerfile", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, file, err := LoadIgnore(tt.ctx, tt.dockerfile)
			if err != nil || file != tt.name || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q from %q, %v; want %q from %q", got, file, err, tt.want, tt.name)
			}
		})
	}
}

func TestBadIgnoreFilesNameFileAndLine(t *testing.T) {
	tests := map[string]struct {
		src  string
		line int
	}{
		"an open set":      {"a\n\n[b\n", 3},
		"behind !":         {"a\n![b\n", 2},
		"only !":           {"# x\n!\n", 2},
		"only ! and blank": {"a\n!  \nb", 2},
		"a NUL byte":       {"ok\na\x00b\n", 2},
		"not UTF-8":        {"ok\nok\nd\xe9j\xe0\n", 3},
		"a very long line": {"ok\n" + strings.Repeat("x", 100_000), 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := makeTree(t, t.TempDir(), map[string]string{".dockerignore": tt.src})
			_, _, err := LoadIgnore(dir, "")
			var e *Error
			if !errors.As(err, &e) || e.File != filepath.Join(dir, ".dockerignore") || e.Line != tt.line {
				t.Errorf("got %v, want line %d", err, tt.line)
			}
		})
	}
	if _, err := OpenFolder(t.TempDir(), Options{Ignore: []string{"[a"}}); err == nil {
		t.Error("OpenFolder took a bad pattern")
	}
}
