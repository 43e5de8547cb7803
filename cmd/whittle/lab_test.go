package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lab is a store with base images in it, and whittle processes that work in
// it: the tests that end processes, or run several at once, need more than a
// script can say.
type lab struct {
	t     *testing.T
	store string
	env   []string
}

// newLab makes a store at dir and imports stand-ins into it.
func newLab(t *testing.T, dir string, standins ...string) *lab {
	t.Helper()
	l := &lab{t: t, store: dir}
	l.env = append(os.Environ(), "WHITTLE_ROOT="+dir)
	t.Cleanup(func() {
		// A user's store has files of other ids of the user's namespace in it.
		if os.Getuid() != 0 {
			_ = l.command("prune", "-a").Run() // t.TempDir tells what is left
		}
	})
	for _, name := range standins {
		l.standin(name)
	}
	return l
}

func (l *lab) standin(name string) {
	l.t.Helper()
	base, err := filepath.Abs(filepath.Join(standinsDir(), name))
	if err != nil {
		l.t.Fatal(err)
	}
	changes, err := os.ReadFile(base + ".changes")
	if err != nil {
		l.t.Fatalf("%v (standins/make makes it)", err)
	}
	args := []string{"import"}
	for line := range strings.Lines(string(changes)) {
		args = append(args, "--change", strings.TrimSuffix(line, "\n"))
	}
	l.run(append(args, base+".tar", name)...)
}

// command is a whittle process in the lab's store.
func (l *lab) command(args ...string) *exec.Cmd {
	cmd := exec.Command("whittle", args...)
	cmd.Env = l.env
	return cmd
}

// try runs whittle and returns what it wrote to stdout; an error has what it
// wrote to stderr.
func (l *lab) try(args ...string) (string, error) {
	cmd := l.command(args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("whittle %s: %w\n%s", strings.Join(args, " "), err, said.Bytes())
	}
	return out.String(), err
}

// run is try for what must work.
func (l *lab) run(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// folder makes a build context of files, with times of long ago.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for ; path != dir; path = filepath.Dir(path) {
			if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// files lists an image as a container has it: path → type, mode, owner, link
// and content, but not times.
func (l *lab) files(image string) map[string]string {
	l.t.Helper()
	id := strings.TrimSpace(l.run("create", image))
	defer l.run("rm", id)
	out := map[string]string{}
	r := tar.NewReader(strings.NewReader(l.run("cp", id+":/", "-")))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			l.t.Fatalf("%s: cp: %v", image, err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			l.t.Fatalf("%s: %s: %v", image, h.Name, err)
		}
		out[strings.TrimPrefix(h.Name, "./")] = fmt.Sprintf("%c %o %d:%d %s %x", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, sum.Sum(nil))
	}
}

// same fails the test for each path that differs.
func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(want) < 2 {
		t.Fatalf("%d files cannot be the image", len(want))
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is too much", name)
		}
	}
}

// steps are the counts of --metadata-file.
type steps struct {
	ID     string `json:"containerimage.config.digest"`
	Ran    int    `json:"whittle.steps.ran"`
	Cached int    `json:"whittle.steps.cached"`
}

func readSteps(t *testing.T, name string) steps {
	t.Helper()
	var s steps
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sound fails the test when fsck finds more than what a killed process may
// leave: garbage in tmp, until the next prune.
func (l *lab) sound() {
	l.t.Helper()
	out := l.run("fsck") // whose exit code says that no promise is broken
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "tmp: ") && !strings.Contains(line, " problems, ") {
			l.t.Errorf("fsck: %s", line)
		}
	}
	if !strings.Contains(out, " problems, ") {
		l.t.Errorf("fsck did not come to its end: %s", out)
	}
}

// clean checks what must hold in the store whatever happened before: fsck
// finds nothing but garbage, no mount of it is to be seen, and after a prune
// nobody's unfinished work is in it.
func (l *lab) clean() {
	l.t.Helper()
	l.sound()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.store+"/") {
			l.t.Errorf("a mount is left: %s", line)
		}
	}
	l.run("prune")
	for _, name := range []string{"tmp", "locks/keys", "locks/users"} {
		left, err := os.ReadDir(filepath.Join(l.store, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			l.t.Fatal(err)
		}
		for _, e := range left {
			l.t.Errorf("%s/%s is left", name, e.Name())
		}
	}
	if out, err := l.try("fsck"); err != nil {
		l.t.Errorf("after prune: %v\n%s", err, out)
	}
}

// adopt makes this process the one that inherits what a killed whittle leaves
// running: until the end of the test every process that outlives its builder
// becomes a child of the test.
func adopt(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
}

// alone fails the test when processes of a build that has ended go on. The
// kernel may still be at ending them, so it waits; processes that nothing
// ends are there until the deadline, and are ended then.
func alone(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		left := orphans(t)
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			for _, p := range left {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p)) // it may end just now
				t.Errorf("process %d outlives its builder: %q", p, cmdline)
				_ = syscall.Kill(p, syscall.SIGKILL)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// orphans reaps the children of this process that have ended and returns the
// others. It is only called while the test has no children of its own.
func orphans(t *testing.T) []int {
	t.Helper()
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			break
		}
	}
	dir, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var left []int
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// After the last parenthesis of the name: state, parent.
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			left = append(left, pid)
		}
	}
	return left
}
