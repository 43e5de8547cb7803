package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// A testCase is one Dockerfile and its context, built by whittle and by the
// peer.
type testCase struct {
	name    string
	context string   // the folder
	file    string   // of the context that is built
	args    []string // flags of build
	fails   string   // part of both errors; "" means that the peer builds it
	first   bool     // first.Dockerfile is built before, as NAME-first
	peer    string   // what the peer builds instead of Dockerfile, or ""
}

// readCase writes the context of a case into dir. A case is a txtar archive.
// Its comment says why it is there; then come lines of these forms, if needed:
//
//	args: FLAGS          flags of build, for both
//	file: NAME           what is built, if not Dockerfile
//	fails: TEXT          both builds fail, with TEXT in what they say
//	xattr: FILE K=V      an extended attribute of a context's file
//
// Its files are the context, but for setup.sh, which sh runs in the context to
// make what an archive of text cannot hold, and peer.Dockerfile, which the peer
// builds in place of Dockerfile: the same build in words that it knows, for
// forms that are younger than the peer. All files have an old mtime before
// setup.sh runs, so that one which is kept is told from one which is made.
func readCase(archive, dir string) (*testCase, error) {
	a, err := txtar.ParseFile(archive)
	if err != nil {
		return nil, err
	}
	c := &testCase{name: strings.TrimSuffix(filepath.Base(archive), ".txtar"), context: filepath.Join(dir, "context")}
	c.file = filepath.Join(c.context, "Dockerfile")
	if err := os.Mkdir(c.context, 0o755); err != nil {
		return nil, err
	}
	var setup []byte
	for _, f := range a.Files {
		name := filepath.Join(c.context, filepath.FromSlash(f.Name))
		switch f.Name {
		case "setup.sh":
			setup = f.Data
			continue
		case "peer.Dockerfile":
			name = filepath.Join(dir, f.Name)
			c.peer = name
		case "first.Dockerfile":
			c.first = true
		}
		if err := writeFile(name, f.Data); err != nil {
			return nil, err
		}
	}
	if err := age(c.context); err != nil {
		return nil, err
	}
	if err := c.readHeader(string(a.Comment)); err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	if setup == nil {
		return c, nil
	}
	sh := exec.Command("sh", "-euc", "umask 022\n"+string(setup))
	sh.Dir = c.context
	if out, err := sh.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: setup.sh: %w\n%s", archive, err, out)
	}
	return c, nil
}

func (c *testCase) readHeader(comment string) error {
	for _, line := range strings.Split(comment, "\n") {
		word, rest, _ := strings.Cut(line, ": ")
		switch word {
		case "args":
			c.args = strings.Fields(rest)
		case "file":
			c.file = filepath.Join(c.context, rest)
		case "fails":
			c.fails = rest
		case "xattr":
			file, kv, _ := strings.Cut(rest, " ")
			k, v, _ := strings.Cut(kv, "=")
			if err := syscall.Setxattr(filepath.Join(c.context, file), k, []byte(v), 0); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	return nil
}

func writeFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

// age gives everything in dir a time long ago.
func age(dir string) error {
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	return filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, old, old)
	})
}
