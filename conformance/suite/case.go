package suite

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// A Case is one Dockerfile, what it is built from, and how.
type Case struct {
	Name    string
	Sum     string   // of all that the outcome depends on
	Covers  []string // ids of lines.txt
	Dir     string   // holds context, dir, www and git
	Context string   // the folder, or what stands in for it: "-" or a URL
	File    string   // what -f says, or ""
	Args    []string // further flags of build
	Env     []string // of the client, K=V
	Stdin   string   // file of the client's standard input, or ""
	Fails   string   // part of the peer's error; "" means that it builds
	Says    string   // part of whittle's error, where its wording is another
	First   string   // Dockerfile that is built before, as FirstName, or ""

	server *server
}

// FirstName is the image that a case's first.Dockerfile makes.
func (c *Case) FirstName() string { return "conformance-" + c.Name + "-first" }

// Local says whether the context is the case's folder.
func (c *Case) Local() bool { return c.Context == c.folder("context") }

func (c *Case) folder(name string) string { return filepath.Join(c.Dir, name) }

// words begin the header's lines that an outcome depends on.
var words = []string{"args", "file", "fails", "says", "xattr", "context", "stdin", "env"}

// Header reads of a case what needs no folder: name, sum and covers.
func Header(archive string) (*Case, error) {
	text, err := os.ReadFile(archive)
	if err != nil {
		return nil, err
	}
	c := &Case{Name: strings.TrimSuffix(filepath.Base(archive), ".txtar")}
	a := txtar.Parse(text)
	sum := sha256.New()
	for line := range strings.SplitSeq(string(a.Comment), "\n") {
		word, rest, _ := strings.Cut(line, ": ")
		switch {
		case word == "covers":
			c.Covers = append(c.Covers, strings.Fields(strings.ReplaceAll(rest, ",", " "))...)
		case slices.Contains(words, word):
			fmt.Fprintln(sum, line)
		}
	}
	a.Comment = nil
	sum.Write(txtar.Format(a))
	c.Sum = hex.EncodeToString(sum.Sum(nil))[:16]
	return c, nil
}

// Open writes a case into dir, which must be empty, and starts the servers that
// it names. The package's documentation says how cases are written.
func Open(archive, dir string) (*Case, error) {
	c, err := Header(archive)
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	c.Context = c.folder("context")
	if err := c.unpack(archive); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", archive, err), c.Close())
	}
	return c, nil
}

// Close ends the case's servers.
func (c *Case) Close() error {
	if c.server == nil {
		return nil
	}
	return c.server.close()
}

func (c *Case) unpack(archive string) error {
	text, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	for _, name := range []string{"context", "dir", "www", "git"} {
		if err := os.Mkdir(c.folder(name), 0o755); err != nil {
			return err
		}
	}
	if bytes.Contains(text, []byte("@HTTP@")) || bytes.Contains(text, []byte("@GIT@")) {
		if c.server, err = serve(c.folder("www"), c.folder("git")); err != nil {
			return err
		}
	}
	a := txtar.Parse(text)
	scripts := map[string]string{}
	for _, f := range a.Files {
		data := c.fill(string(f.Data))
		switch f.Name {
		case "setup.sh", "repo.sh":
			scripts[f.Name] = data
			continue
		case "first.Dockerfile":
			c.First = filepath.Join(c.folder("context"), f.Name)
		}
		if err := writeFile(c.place(f.Name), []byte(data)); err != nil {
			return err
		}
	}
	if err := Age(c.Dir); err != nil {
		return err
	}
	if err := c.header(c.fill(string(a.Comment))); err != nil {
		return err
	}
	if err := c.script("git", scripts["repo.sh"]); err != nil {
		return fmt.Errorf("repo.sh: %w", err)
	}
	if err := c.script("context", scripts["setup.sh"]); err != nil {
		return fmt.Errorf("setup.sh: %w", err)
	}
	return nil
}

// place is where a file of the archive belongs: in the context, if not in one
// of the folders beside it.
func (c *Case) place(name string) string {
	if below, ok := strings.CutPrefix(name, "@DIR@/"); ok {
		return filepath.Join(c.folder("dir"), filepath.FromSlash(below))
	}
	if below, ok := strings.CutPrefix(name, "@HTTP@/"); ok {
		return filepath.Join(c.folder("www"), filepath.FromSlash(below))
	}
	return filepath.Join(c.folder("context"), filepath.FromSlash(name))
}

func (c *Case) header(comment string) error {
	for line := range strings.SplitSeq(comment, "\n") {
		word, rest, _ := strings.Cut(line, ": ")
		switch word {
		case "args":
			c.Args = append(c.Args, strings.Fields(rest)...)
		case "file":
			c.File = rest
		case "fails":
			c.Fails = rest
		case "says":
			c.Says = rest
		case "context":
			c.Context = rest
		case "stdin":
			c.Stdin = c.folder(rest)
		case "env":
			c.Env = append(c.Env, rest)
		case "xattr":
			file, kv, _ := strings.Cut(rest, " ")
			k, v, _ := strings.Cut(kv, "=")
			if err := syscall.Setxattr(filepath.Join(c.folder("context"), file), k, []byte(v), 0); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	if c.Says == "" {
		c.Says = c.Fails
	}
	if c.File != "" && c.Local() && !filepath.IsAbs(c.File) {
		c.File = filepath.Join(c.Context, c.File)
	}
	return nil
}

// script runs a script of the case in one of its folders. Nothing of this
// machine's git decides what a repository is like.
func (c *Case) script(folder, text string) error {
	if text == "" {
		return nil
	}
	const when = "2001-02-03T04:05:06Z"
	sh := exec.Command("sh", "-euc", "umask 022\n"+text)
	sh.Dir = c.folder(folder)
	sh.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=init.defaultBranch", "GIT_CONFIG_VALUE_0=main",
		"GIT_CONFIG_KEY_1=protocol.file.allow", "GIT_CONFIG_VALUE_1=always",
		"GIT_AUTHOR_NAME=whittle", "GIT_AUTHOR_EMAIL=whittle@example.com", "GIT_AUTHOR_DATE="+when,
		"GIT_COMMITTER_NAME=whittle", "GIT_COMMITTER_EMAIL=whittle@example.com", "GIT_COMMITTER_DATE="+when)
	if out, err := sh.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// fill puts this run's values in the place of @DIR@, @HTTP@ and @GIT@.
func (c *Case) fill(s string) string {
	pairs := []string{"@DIR@", c.folder("dir")}
	if c.server != nil {
		pairs = append(pairs, "@HTTP@", c.server.http(), "@GIT@", c.server.git())
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// Blank does the reverse of fill, so that outcomes of two runs are the same.
func (c *Case) Blank(s string) string {
	pairs := []string{c.folder("dir"), "@DIR@", c.folder("context"), "@CONTEXT@"}
	if c.server != nil {
		pairs = append(pairs, c.server.git(), "@GIT@", c.server.http(), "@HTTP@", c.server.host(), "@HOST@")
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// traces are the variables for traces that the peer gives each step.
var traces = regexp.MustCompile(`(?m)^(export )?(OTEL_[A-Z_]+|TRACEPARENT)=.*\n`)

func (c *Case) blankText(s string) string { return traces.ReplaceAllString(c.Blank(s), "") }

func writeFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

// Age gives everything in dir a time long ago.
func Age(dir string) error {
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	return filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, old, old)
	})
}

// Upload serves text as a file, and returns its URL: so a client gives a daemon
// the archive that it reads as the context.
func (c *Case) Upload(text []byte) (string, error) {
	if c.server == nil {
		var err error
		if c.server, err = serve(c.folder("www"), c.folder("git")); err != nil {
			return "", err
		}
	}
	const name = "standard-input"
	return c.server.http() + "/" + name, writeFile(filepath.Join(c.folder("www"), name), text)
}
