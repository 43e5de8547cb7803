package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/conformance/suite"
)

// providers are whittle's.
var providers = []string{"erofs", "tree", "chroot"}

// A bench has what builds cases with whittle.
type bench struct {
	program  string
	dir      string
	bases    *suite.Bases
	archives []string // of the bases, by name, in dir
	layers   *suite.LayerCache
	accepted *differences
	rules    map[string]bool // of the reference's lint
	began    time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: all providers build here")
	}
	// On a disk: EROFS cannot be mounted from files on a tmpfs.
	dir, err := os.MkdirTemp(os.Getenv("TMPDIR"), "conformance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &bench{dir: dir, program: buildWhittle(t, dir), layers: suite.NewLayerCache()}
	if b.accepted, err = readDifferences("differences.txt"); err != nil {
		t.Fatal(err)
	}
	lines, err := suite.ReadLines("lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	b.rules = map[string]bool{}
	for _, l := range lines {
		if rule, ok := strings.CutPrefix(l.ID, "lint-"); ok {
			b.rules[rule] = true
		}
	}
	if b.bases, err = suite.MakeBases("..", b.layers); err != nil {
		t.Fatal(err)
	}
	if b.archives, err = b.bases.Save(dir); err != nil {
		t.Fatal(err)
	}
	b.began = time.Now()
	return b
}

// A store is one provider's, for one case: the times of files are in no key, so
// that a case could get what another one left.
type store struct {
	*bench
	provider, dir string
}

// store makes a store with the bases that a case's text names.
func (b *bench) store(archive, provider, dir string) (*store, error) {
	text, err := os.ReadFile(archive)
	if err != nil {
		return nil, err
	}
	s := &store{b, provider, dir}
	for _, name := range b.archives {
		if !bytes.Contains(text, []byte(name)) {
			continue
		}
		if said, err := s.whittle(nil, "", "load", "-i", filepath.Join(b.dir, name)); err != nil {
			return nil, fmt.Errorf("load: %w\n%s", err, said)
		}
	}
	return s, nil
}

// whittle runs whittle and returns what it says. Nothing but the loopback can be
// reached: the proxy is not there.
func (s *store) whittle(env []string, stdin string, args ...string) ([]byte, error) {
	cmd := exec.Command(s.program, args...)
	cmd.Env = append(os.Environ(), "WHITTLE_ROOT="+s.dir, "WHITTLE_ROOTFS="+s.provider,
		"HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost")
	cmd.Env = append(cmd.Env, env...)
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	return said.Bytes(), err
}

// TestCases builds testdata/cases with each provider and compares what comes out
// with what the peer is recorded to make.
func TestCases(t *testing.T) {
	archives := cases(t)
	b := newBench(t)
	all := t.Run("case", func(t *testing.T) {
		for _, archive := range archives {
			name := strings.TrimSuffix(filepath.Base(archive), ".txtar")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				want, err := suite.ReadOutcome(filepath.Join("testdata/recorded", name+".json"))
				if err != nil {
					t.Skip("not recorded: TestCasesAreWhole tells") // and fails
				}
				for _, p := range providers {
					b.check(t, archive, p, want)
				}
			})
		}
	})
	if all && wholeRun() {
		b.accepted.unmet(t)
	}
}

func cases(t *testing.T) []string {
	t.Helper()
	archives, err := filepath.Glob("testdata/cases/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	return archives
}

// wholeRun says whether all tests run: only then is a line that nothing met a
// line too many.
func wholeRun() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.run=") || a == "-test.run" {
			return false
		}
	}
	return true
}

// check builds a case and reports every difference that no line accepts.
func (b *bench) check(t *testing.T, archive, provider string, want *suite.Outcome) {
	t.Helper()
	c, err := suite.Open(archive, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.store(archive, provider, filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatalf("%s: %v", provider, err)
	}
	got, err := s.make(c)
	if err = errors.Join(err, c.Close()); err != nil {
		t.Fatalf("%s: %v", provider, err)
	}
	if want.Error != "" && got.Error != "" && !strings.Contains(got.Error, c.Blank(c.Says)) && !b.accepted.accepts(c.Name, "error") {
		t.Errorf("%s: the error does not say %q: %s", provider, c.Says, got.Error)
	}
	report(t, b.accepted, c.Name, provider, want, got)
}

// report reports the differences of two outcomes.
func report(t *testing.T, accepted *differences, name, provider string, want, got *suite.Outcome) {
	t.Helper()
	diffs, err := suite.Compare(want, got)
	if err != nil {
		t.Fatal(err)
	}
	if (want.Error == "") != (got.Error == "") {
		if !accepted.accepts(name, "result", "result: "+said(want), provider+": result") {
			t.Errorf("%s: result\n\t   peer: %s\n\twhittle: %s", provider, said(want), said(got))
		}
		return
	}
	const most = 40
	shown := 0
	for _, d := range diffs {
		if accepted.accepts(name, d.What, d.What+": "+d.Peer+", not "+d.Got, provider+": "+d.What) {
			continue
		}
		if shown++; shown <= most {
			t.Errorf("%s: %s", provider, d)
		}
	}
	if shown > most {
		t.Errorf("… and %d more", shown-most)
	}
}

func said(o *suite.Outcome) string {
	if o.Error == "" {
		return "builds it"
	}
	return o.Error
}

// make builds a case, and what must be built before it.
func (s *store) make(c *suite.Case) (*suite.Outcome, error) {
	if c.First != "" {
		if said, err := s.whittle(nil, "", "build", "-t", c.FirstName(), "-f", c.First, c.Context); err != nil {
			return nil, fmt.Errorf("first.Dockerfile: %w\n%s", err, said)
		}
	}
	name := "conformance-" + c.Name
	args := append([]string{"build", "--progress", "json", "-t", name}, c.Args...)
	if c.File != "" {
		args = append(args, "-f", c.File)
	}
	said, err := s.whittle(c.Env, c.Stdin, append(args, c.Context)...)
	lint, failed := s.told(said)
	if err != nil {
		return suite.Failed(c, failed, lint), nil
	}
	archive := filepath.Join(c.Dir, "image.tar")
	defer os.Remove(archive)
	if said, err := s.whittle(nil, "", "save", "-o", archive, name); err != nil {
		return nil, fmt.Errorf("save: %w\n%s", err, said)
	}
	img, err := s.layers.ReadImage(archive)
	if err != nil {
		return nil, err
	}
	return suite.Describe(c, img, s.bases, s.began, lint)
}

// told finds in what whittle says the lint warnings that the reference has too,
// and what went wrong.
func (b *bench) told(said []byte) (lint []string, failed string) {
	var wrong []string
	for line := range strings.SplitSeq(string(said), "\n") {
		var e struct {
			Event   string
			Warning struct {
				Line int
				Msg  string
			}
			Error    string
			Mistakes []struct{ Msg, Hint string }
		}
		err := json.Unmarshal([]byte(line), &e)
		rule, _, _ := strings.Cut(e.Warning.Msg, ": ")
		switch {
		case err != nil:
			wrong = append(wrong, line)
		case e.Event == "warning" && b.rules[rule]:
			lint = append(lint, fmt.Sprintf("%d %s", e.Warning.Line, e.Warning.Msg))
		case e.Event == "failed":
			wrong = append(wrong, e.Error)
			for _, m := range e.Mistakes {
				wrong = append(wrong, m.Msg, m.Hint)
			}
		}
	}
	return suite.SortLint(lint), strings.Join(wrong, "\n")
}

// buildWhittle returns the program under test: $WHITTLE, or one made here.
func buildWhittle(t *testing.T, dir string) string {
	t.Helper()
	if program := os.Getenv("WHITTLE"); program != "" {
		return program
	}
	program := filepath.Join(dir, "whittle")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/whittle").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
