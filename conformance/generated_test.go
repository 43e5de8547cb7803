package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/conformance/generate"
	"github.com/whittle-build/whittle/conformance/suite"
)

// generatedBuilds is how many generated Dockerfiles a run of the tests builds;
// GENERATED=FIRST-LAST asks for others, to look for more differences.
const generatedBuilds = 30

// generatedSeeds are the seeds of this run.
func generatedSeeds(t *testing.T) (first, last uint64) {
	t.Helper()
	text := os.Getenv("GENERATED")
	if text == "" {
		return 1, generatedBuilds
	}
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		t.Fatalf("GENERATED=%s: %v", text, err)
	}
	if last, err = strconv.ParseUint(to, 10, 64); err != nil {
		t.Fatalf("GENERATED=%s: %v", text, err)
	}
	return first, last
}

// writeBuild writes the context of a generated build, Dockerfile included.
func writeBuild(dir string, b generate.Build) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.Dockerfile), 0o644); err != nil {
		return err
	}
	for _, f := range b.Files {
		if err := writeGenerated(filepath.Join(dir, f.Path), f); err != nil {
			return err
		}
	}
	return suite.Age(dir)
}

func writeGenerated(name string, f generate.File) error {
	if f.Link != "" {
		return os.Symlink(f.Link, name)
	}
	if f.Dir {
		if err := os.Mkdir(name, 0o700); err != nil {
			return err
		}
	} else if err := os.WriteFile(name, []byte(f.Data), 0o600); err != nil {
		return err
	}
	mode := os.FileMode(f.Mode & 0o777)
	if f.Mode&0o4000 != 0 {
		mode |= os.ModeSetuid
	}
	return os.Chmod(name, mode) // whatever the umask is
}

// TestGeneratedBuildsAreRepeatable: of one Dockerfile, a build without any
// cache and one step at a time, a build among the layers of all others with
// many at once, and one of which nothing has to run give the same image, to
// the last byte.
func TestGeneratedBuildsAreRepeatable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: steps change owners that a user has not")
	}
	dir, err := os.MkdirTemp(os.Getenv("TMPDIR"), "generated")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := buildWhittle(t, dir)
	warm, cold := whittle(program, filepath.Join(dir, "warm"), "erofs"), whittle(program, filepath.Join(dir, "cold"), "tree")
	if err := loadBases(dir, warm, []*builder{cold}, []string{"busybox:latest"}); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*builder{warm, cold} {
		b.env = append(b.env, "SOURCE_DATE_EPOCH=1000000000")
	}
	first, last := generatedSeeds(t)
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			build := generate.New(seed)
			context := t.TempDir()
			if err := writeBuild(context, build); err != nil {
				t.Fatal(err)
			}
			make := func(b *builder, flags ...string) string {
				out, err := b.run(append(append(append([]string{"build", "--progress", "plain"}, flags...), build.Args...), context)...)
				if err != nil {
					return "fails: " + err.Error()
				}
				return strings.TrimSpace(string(out))
			}
			alone := make(cold, "--no-cache", "--jobs", "1")
			among := make(warm, "--jobs", "8")
			again := make(warm)
			if strings.HasPrefix(alone, "fails") && strings.HasPrefix(among, "fails") && strings.HasPrefix(again, "fails") {
				return
			}
			if alone != among || among != again {
				t.Errorf("alone: %s\namong others: %s\nagain: %s\n%s\n%q", alone, among, again, build.Dockerfile, build.Args)
			}
		})
	}
}
