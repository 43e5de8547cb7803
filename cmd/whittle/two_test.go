package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// begin starts whittle and returns a function that waits for its end.
func (l *lab) begin(args ...string) func() error {
	l.t.Helper()
	cmd := l.command(args...)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("whittle %s: %w\n%s", strings.Join(args, " "), err, said.String())
		}
		return nil
	}
}

// sideBySide is a build of nine steps; salt makes it another one.
func sideBySide(salt string) string {
	return `FROM busybox AS shared
RUN sleep 0.2 && echo ` + salt + ` > /salt
WORKDIR /src
FROM shared AS one
COPY data .
RUN sleep 0.1 && sort data > sorted
FROM shared AS two
RUN sleep 0.1 && tr a-z A-Z < /salt > upper
FROM busybox
WORKDIR /app
COPY --from=one /src/sorted .
COPY --from=two /src/upper .
RUN cat sorted upper > all
`
}

const sideBySideSteps = 9

func TestTwoBuildsOfOneFileAtOnceRunEachStepOnce(t *testing.T) {
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"data": "b\na\n", "Dockerfile": sideBySide("salt")})
	const builds = 3
	var meta [builds]string
	var wait [builds]func() error
	for i := range builds {
		meta[i] = filepath.Join(t.TempDir(), "meta")
		wait[i] = l.begin("build", "-q", "-t", fmt.Sprintf("b%d", i), "--metadata-file", meta[i], dir)
	}
	var errs []error
	for _, w := range wait {
		errs = append(errs, w())
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	first := readSteps(t, meta[0])
	ran := 0
	for i := range builds {
		s := readSteps(t, meta[i])
		ran += s.Ran
		if s.ID != first.ID || s.Ran+s.Cached != sideBySideSteps {
			t.Errorf("build %d: image %s of %d steps, want %s of %d", i, s.ID, s.Ran+s.Cached, first.ID, sideBySideSteps)
		}
	}
	if ran != sideBySideSteps {
		t.Errorf("%d steps were run, want each of the %d once", ran, sideBySideSteps)
	}
	if l.files("b0")["app/all"] == "" {
		t.Error("the image is not right")
	}
	l.clean()
}

// What differs shares what is alike, and nothing of one build ends up in
// another.
func TestDifferentBuildsAtOnceGetTheirOwnImages(t *testing.T) {
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	const builds = 4
	var wait [builds]func() error
	for i := range builds {
		dir := folder(t, map[string]string{"data": fmt.Sprint(i), "Dockerfile": sideBySide(fmt.Sprintf("salt%d", i/2))})
		wait[i] = l.begin("build", "-q", "-t", fmt.Sprintf("b%d", i), dir)
	}
	var errs []error
	for _, w := range wait {
		errs = append(errs, w())
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i := range builds {
		got := l.run("run", "--rm", fmt.Sprintf("b%d", i), "cat", "/app/all")
		if want := fmt.Sprintf("%d\nSALT%d\n", i, i/2); got != want {
			t.Errorf("build %d made %q, want %q", i, got, want)
		}
	}
	l.clean()
}

// Pruning takes nothing that a running build has made or read, at whatever
// moment it comes.
func TestABuildBesidePrunesIsRight(t *testing.T) {
	t.Parallel()
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"data": "b\na\n", "Dockerfile": sideBySide("salt")})
	l.run("build", "-q", "-t", "want", dir)
	want := l.files("want")
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var pruned int
	var failure error
	wg.Go(func() {
		for ctx.Err() == nil && failure == nil {
			_, failure = l.try("prune", "-a")
			pruned++
		}
	})
	for i := range rounds {
		// The last build's records go, or do not: both are right.
		args := []string{"build", "-q", "-t", "got", dir}
		if i%2 == 0 {
			args = append([]string{"build", "--no-cache"}, args[1:]...)
		}
		l.run(args...)
		same(t, l.files("got"), want)
		l.run("rmi", "got")
	}
	cancel()
	wg.Wait()
	if failure != nil {
		t.Error(failure)
	}
	t.Logf("%d prunes beside %d builds", pruned, rounds)
	same(t, l.files("want"), want)
	l.clean()
}

// A builder that dies while another waits for its step does not take the
// other along: the step is run by who waited.
func TestWhoWaitsForAStepRunsItWhenItsBuilderDies(t *testing.T) {
	adopt(t)
	l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
	dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo begun; sleep 3; echo done > /done\n"})
	first := l.command("build", "--progress", "plain", dir)
	firstSaid, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, firstSaid, " begun\n")
	second := l.command("build", "--progress", "plain", "-t", "second", dir)
	secondSaid, err := second.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, secondSaid, "waiting for it\n")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Fatal("the first build was not killed")
	}
	until(t, secondSaid, " begun\n")
	if err := waitReading(second, secondSaid); err != nil {
		t.Fatal(err)
	}
	alone(t)
	if l.files("second")["done"] == "" {
		t.Error("the second build's image is not right")
	}
	l.clean()
}

// waitReading reads what a process still says and waits for it.
func waitReading(cmd *exec.Cmd, said interface{ Read([]byte) (int, error) }) error {
	var rest strings.Builder
	b := make([]byte, 4096)
	for {
		n, err := said.Read(b)
		rest.Write(b[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, rest.String())
	}
	return nil
}

// The steps are such that they make the same files whenever they are run; how
// many run at once must not matter, nor where the store is.
func TestTheSameStepsMakeTheSameImageInEveryStore(t *testing.T) {
	t.Parallel()
	files := map[string]string{"data": "b\na\n", "tree/x/1": "1", "tree/x/2": "2", "tree/y": "y", "Dockerfile": `FROM busybox AS shared
WORKDIR /src
COPY data .
FROM shared AS one
RUN sort data > sorted && touch -d @0 sorted
FROM shared AS two
COPY tree tree
RUN tr a-z A-Z < data > upper && ln -s upper link && ln upper hard && touch -hd @0 upper link . tree
FROM busybox
COPY --from=one /src/sorted /src/data /app/
COPY --from=two /src /app/two
COPY --chown=7:8 --chmod=640 tree /app/own
ENV A=b
WORKDIR /work/dir
ADD tree/y /app/
`}
	dir := folder(t, files)
	base := filepath.Join(t.TempDir(), "base") // an import has the time at which it was made
	newLab(t, filepath.Join(t.TempDir(), "store"), "busybox").run("save", "-o", base, "busybox")
	var first string
	for _, jobs := range []string{"0", "1", "8"} {
		l := newLab(t, filepath.Join(t.TempDir(), "store"))
		l.env = append(l.env, "SOURCE_DATE_EPOCH=0")
		l.run("load", "-i", base)
		for range 2 {
			id := l.run("build", "-q", "--no-cache", "--jobs", jobs, dir)
			if first == "" {
				first = id
			}
			if id != first {
				t.Errorf("jobs %s: image %s, want %s", jobs, strings.TrimSpace(id), first)
			}
			time.Sleep(1100 * time.Millisecond) // times of the layers are in seconds
		}
	}
}
