package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/conformance/generate"
	"github.com/whittle-build/whittle/conformance/suite"
)

// generatedDir has what the peer makes of generated builds; "make generated"
// names another folder, with more of them.
func generatedDir() string {
	if dir := os.Getenv("GENERATED"); dir != "" {
		return dir
	}
	return "testdata/generated"
}

// eachGenerated runs a test for every generated build whose outcome is
// recorded. archive is the build as a case.
func eachGenerated(t *testing.T, do func(t *testing.T, archive string, want *suite.Outcome)) {
	t.Helper()
	outcomes, err := filepath.Glob(filepath.Join(generatedDir(), "generated_*.json"))
	if err != nil || len(outcomes) == 0 {
		t.Fatalf("%s: no recorded outcomes of generated builds: %v", generatedDir(), err)
	}
	t.Run("build", func(t *testing.T) {
		for _, o := range outcomes {
			name := strings.TrimSuffix(filepath.Base(o), ".json")
			seed, err := strconv.ParseUint(strings.TrimPrefix(name, "generated_"), 10, 64)
			if err != nil {
				t.Fatalf("%s: not an outcome's name: %v", o, err)
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				want, err := suite.ReadOutcome(o)
				if err != nil {
					t.Fatal(err)
				}
				archive := filepath.Join(t.TempDir(), name+".txtar")
				if err := os.WriteFile(archive, generate.New(seed).Archive(), 0o644); err != nil {
					t.Fatal(err)
				}
				do(t, archive, want)
			})
		}
	})
}

// TestGeneratedBuildsAreAsThePeers compares what generated builds leave with
// what the peer is recorded to make of them.
func TestGeneratedBuildsAreAsThePeers(t *testing.T) {
	b := newBench(t)
	eachGenerated(t, func(t *testing.T, archive string, want *suite.Outcome) {
		c, err := suite.Header(archive)
		if err != nil {
			t.Fatal(err)
		}
		if want.Case != c.Sum {
			t.Fatal("what is recorded is of another build: go run ./conformance/record -seeds FIRST-LAST")
		}
		for _, p := range providers {
			if p == "chroot" && asksForNoNetwork(t, archive) {
				continue // it is refused there, as the case run_network_none shows
			}
			b.check(t, archive, p, want)
		}
	})
}

func asksForNoNetwork(t *testing.T, archive string) bool {
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(text, []byte("--network=none"))
}

// TestGeneratedBuildsAreRepeatable: of one Dockerfile, a build without any
// cache and one step at a time, a build among the layers of all others with
// many at once, and one of which nothing has to run give the same image, to
// the last byte, whatever the provider is.
func TestGeneratedBuildsAreRepeatable(t *testing.T) {
	b := newBench(t)
	warm, cold := &store{b, "erofs", filepath.Join(b.dir, "warm")}, &store{b, "tree", filepath.Join(b.dir, "cold")}
	for _, s := range []*store{warm, cold} {
		if said, err := s.whittle(nil, "", "load", "-i", filepath.Join(b.dir, "busybox")); err != nil {
			t.Fatalf("load: %v\n%s", err, said)
		}
	}
	eachGenerated(t, func(t *testing.T, archive string, _ *suite.Outcome) {
		c, err := suite.Open(archive, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		alone := cold.id(c, "--no-cache", "--jobs", "1")
		among := warm.id(c, "--jobs", "8")
		again := warm.id(c)
		if alone != among || among != again {
			t.Errorf("alone: %s\namong others: %s\nagain: %s", alone, among, again)
		}
	})
}

// id builds a case and returns the image's ID; of a build that fails, that it
// does. Proxies are left out: a step may print them, and they are in no key.
func (s *store) id(c *suite.Case, flags ...string) string {
	file := filepath.Join(c.Dir, "id")
	args := append([]string{"build", "--quiet", "--iidfile", file}, flags...)
	for i := 0; i < len(c.Args); i += 2 {
		if !strings.HasPrefix(c.Args[i+1], "http_proxy=") {
			args = append(args, c.Args[i:i+2]...)
		}
	}
	if _, err := s.whittle([]string{"SOURCE_DATE_EPOCH=1000000000"}, "", append(args, c.Context)...); err != nil {
		return "fails"
	}
	id, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(id)
}
