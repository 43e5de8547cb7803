package places

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/test/dockerd"
)

// image is the containers' own: Debian's stand-in, with bash and no tools.
const image = "place"

// A machine is the dockerd of this test binary, and the folder with all that
// is its containers'.
type machine struct {
	*dockerd.Daemon
	dir     string // on a disk
	whittle string // a static binary
	repo    string
}

// theMachine is started by the test that needs it first and ended by TestMain.
var theMachine struct {
	sync.Once
	m   *machine
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := theMachine.m.end(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func start() (m *machine, err error) {
	dir, err := os.MkdirTemp("", "places-")
	if err != nil {
		return nil, err
	}
	m = &machine{dir: dir, whittle: filepath.Join(dir, "whittle")}
	if err := os.Chmod(dir, 0o755); err != nil {
		return m, err
	}
	if m.repo, err = filepath.Abs("../.."); err != nil {
		return m, err
	}
	build := exec.Command("go", "build", "-o", m.whittle, "./cmd/whittle")
	build.Dir, build.Env = m.repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return m, fmt.Errorf("go build: %w\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "docker"), 0o700); err != nil {
		return m, err
	}
	if m.Daemon, err = dockerd.Start(filepath.Join(dir, "docker")); err != nil {
		return m, err
	}
	_, err = m.Run("import", filepath.Join(standIns(), "debian.tar"), image)
	return m, err
}

func (m *machine) end() error {
	if m == nil {
		return nil
	}
	var err error
	if m.Daemon != nil {
		err = m.Stop()
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}

func standIns() string {
	if dir := os.Getenv("STANDINS_DIR"); dir != "" {
		return dir
	}
	return "../../.cache/standins"
}

// A place is a container as somebody gives it to whittle.
type place struct {
	options []string // of docker run: --user, --security-opt, --cap-add
	disk    bool     // the store lies on a volume; else in the container's own file system, an overlay
	owner   int      // of the volume
}

// inside runs a script in a container of that place and returns what it
// printed, both streams, and its exit code. In there are: whittle, the
// repository at /src, stand-ins where standins/load looks for them, and a
// store at $WHITTLE_ROOT. A container is gone when inside returns.
func (p place) inside(t *testing.T, script string) (said string, code int) {
	t.Helper()
	if why := dockerd.Missing(); why != "" {
		t.Skip(why)
	}
	theMachine.Do(func() { theMachine.m, theMachine.err = start() })
	if theMachine.err != nil {
		t.Fatal(theMachine.err)
	}
	m := theMachine.m
	stands, err := filepath.Abs(standIns())
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())) + fmt.Sprint("-", time.Now().UnixNano())
	args := []string{"run", "--rm", "--name", name, "--network", "none", "--workdir", "/tmp",
		"-v", m.whittle + ":/usr/bin/whittle:ro", "-v", m.repo + ":/src:ro", "-v", stands + ":/standins:ro",
		"-e", "WHITTLE=whittle", "-e", "STANDINS_DIR=/standins", "-e", "HOME=/tmp"}
	root := "/tmp/store"
	if p.disk {
		root = "/disk/store"
		args = append(args, "-v", m.volume(t, p.owner)+":/disk")
	}
	args = append(append(args, "-e", "WHITTLE_ROOT="+root), p.options...)
	args = append(args, image, "bash", "-ec", script)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Client, args...)
	cmd.Env = m.Env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		m.Run("rm", "-f", name) // the client's end is not the container's
		t.Fatalf("the container did not end in time\n%s", out.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code = cmd.ProcessState.ExitCode(); code == 125 {
		t.Fatalf("docker: %s", out.String())
	}
	return out.String(), code
}

// volume is a new folder on the disk, of the user owner.
func (m *machine) volume(t *testing.T, owner int) string {
	t.Helper()
	dir, err := os.MkdirTemp(m.dir, "volume-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, owner, owner); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// must is inside for a script that must succeed.
func (p place) must(t *testing.T, script string) string {
	t.Helper()
	said, code := p.inside(t, script)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	return said
}

// TestAContainerHasWhatTestsNeed is about the other tests: what they build
// with is there, and so is a store that whittle can write to.
func TestAContainerHasWhatTestsNeed(t *testing.T) {
	for name, p := range map[string]place{
		"overlay":      {},
		"disk":         {disk: true},
		"disk of 1000": {disk: true, owner: 1000, options: []string{"--user", "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			said := p.must(t, `
				whittle version
				test -f $STANDINS_DIR/alpine.tar
				test -f /src/examples/demo
				mkdir $WHITTLE_ROOT
				ls /sys/class/net
				stat -f -c "store on %T" $WHITTLE_ROOT`)
			if onOverlay := strings.Contains(said, "store on overlayfs"); onOverlay == p.disk {
				t.Errorf("the store is in the wrong place:\n%s", said)
			}
			if strings.Contains(said, "eth0") {
				t.Errorf("the container has a network:\n%s", said)
			}
		})
	}
}
