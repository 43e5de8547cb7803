package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kills is how often the kill tests kill a build: $WHITTLE_KILLS, else few.
func kills(t *testing.T, few int) int {
	t.Helper()
	s := os.Getenv("WHITTLE_KILLS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("WHITTLE_KILLS=%s: want a number from 1", s)
	}
	return n
}

// killed is a build to be killed: its context, the images it needs, and what
// one must see in its image.
type killed struct {
	standins []string
	args     []string // of build, after -q -t built
	file     string   // of the image, to see that the right thing was built
}

// A shared stage, two stages side by side on top of it, and a last one that
// takes from both: the shape of example 3 without its compiler.
func TestABuildThatIsKilledLeavesNothingThatHarmsTheNext(t *testing.T) {
	dir := folder(t, map[string]string{
		"one/data": "c\nb\na\n", "two/data": strings.Repeat("0123456789", 20000),
		"Dockerfile": `FROM busybox AS shared
RUN mkdir /shared && for i in 1 2 3; do echo $i > /shared/$i; sleep 0.01; done
WORKDIR /src
FROM shared AS one
COPY one .
RUN sort data > sorted && rm /shared/2 && sleep 0.03 && chmod 700 sorted
FROM shared AS two
COPY two .
RUN cp data copied && ln copied linked && sleep 0.03
FROM busybox
WORKDIR /app
COPY --from=one /src /shared ./
COPY --from=two /src two
RUN cat sorted two/linked > all
`})
	n := 10
	if testing.Short() {
		n = 3
	}
	killBuilds(t, kills(t, n), killed{standins: []string{"busybox"}, args: []string{dir}, file: "app/all"})
}

func TestExample3IsRightAfterItsBuildWasKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes")
	}
	example, err := filepath.Abs("../../examples/3-lower-case-and-side-by-side")
	if err != nil {
		t.Fatal(err)
	}
	killBuilds(t, kills(t, 1), killed{
		standins: []string{"debian", "alpine"},
		args:     []string{"--build-arg", "APT_MIRROR=file:/usr/share/stand-in/apt", "-f", filepath.Join(example, "Dockerfile.corrected"), example},
		file:     "bin1",
	})
}

func killBuilds(t *testing.T, rounds int, k killed) {
	adopt(t)
	build := append([]string{"build", "-q", "-t", "built"}, k.args...)
	whole := newLab(t, filepath.Join(t.TempDir(), "store"), k.standins...)
	began := time.Now()
	whole.run(build...)
	took := time.Since(began)
	want := whole.files("built")
	if want[k.file] == "" {
		t.Fatalf("%s is not in the image", k.file)
	}
	whole.clean()
	for i := range rounds {
		after := rand.N(took * 11 / 10)
		ok := t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			t.Logf("killed after %v of about %v", after, took)
			l := newLab(t, filepath.Join(t.TempDir(), "store"), k.standins...)
			cmd := l.command(build...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was killed, or was faster
			alone(t)
			l.sound()
			l.run(build...)
			same(t, l.files("built"), want)
			l.clean()
		})
		if !ok {
			return
		}
	}
}

// A build that is interrupted ends its steps, says so in its exit code, and
// leaves a store in which the same build works.
func TestAnInterruptedBuildEndsItsStepsAndLeavesNothing(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			adopt(t)
			l := newLab(t, filepath.Join(t.TempDir(), "store"), "busybox")
			dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nARG LONG\n" +
				`RUN echo begun; sleep $LONG & trap "" INT TERM; (setsid sleep $LONG &); sleep $LONG; wait; echo ended > /ended` + "\n"})
			cmd := l.command("build", "--progress", "plain", "-t", "long", "--build-arg", "LONG=600", dir)
			said, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			text := until(t, said, " begun\n")
			began := time.Now()
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(said)
			if err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			t.Logf("ended %v after the signal", time.Since(began))
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 128+int(sig) {
				t.Errorf("%v, want exit code %d", err, 128+int(sig))
			}
			if !bytes.Contains(rest, []byte("interrupted")) {
				t.Errorf("it does not say that it was interrupted: %s%s", text, rest)
			}
			alone(t)
			l.clean()
			if _, err := l.try("inspect", "long"); err == nil {
				t.Error("there is an image")
			}
			l.run("build", "-q", "-t", "long", "--build-arg", "LONG=0", dir)
			if l.files("long")["ended"] == "" {
				t.Error("the next build is not right")
			}
		})
	}
}

// until reads lines up to the one that ends with end.
func until(t *testing.T, r io.Reader, end string) string {
	t.Helper()
	var text strings.Builder
	b := make([]byte, 1)
	for !strings.HasSuffix(text.String(), end) {
		n, err := r.Read(b)
		text.Write(b[:n])
		if err != nil {
			t.Fatalf("%q does not come: %v\n%s", end, err, text.String())
		}
	}
	return text.String()
}
