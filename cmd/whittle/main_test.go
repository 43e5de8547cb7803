package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// The program under test is this test binary, under its own name and under
// docker's.
func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	program := func() { os.Exit(Main()) }
	testscript.Main(m, map[string]func(){"whittle": program, "docker": program, "agentkeys": agentKeys})
}

// TestScript runs testdata/script/*.txtar: one behaviour a file, each with a
// store of its own. WHITTLE_ROOTFS picks the provider, as for a user.
func TestScript(t *testing.T) {
	t.Parallel()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("WHITTLE_ROOT", filepath.Join(env.WorkDir, "store"))
			env.Setenv("WHITTLE_ROOTFS", os.Getenv("WHITTLE_ROOTFS"))
			env.Setenv("WHITTLE_ISOLATION", os.Getenv("WHITTLE_ISOLATION"))
			env.Setenv("EXAMPLES", filepath.Join(repo, "examples"))
			env.Setenv("REPO", repo)
			env.Setenv("STANDINS", standinsDir())
			env.Setenv("BIN", binFolder(env))
			env.Setenv("HOME", env.WorkDir)
			env.Defer(func() { endContainers(env) })
			return nil
		},
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"standins":  standins,
			"httpget":   httpget,
			"freeport":  freeport,
			"registry":  startRegistry,
			"layers":    loseLayers,
			"serve":     serve,
			"jsonlines": jsonLines,
			"sshkey":    newKey,
			"agent":     startAgent,
			"engine":    startEngine,
			"validate":  validateLayout,
		},
	})
}

// condition adds [root], [user], [cgroups], [emulator] and [provider:NAME] to testscript's own.
func condition(cond string) (bool, error) {
	switch name, arg, _ := strings.Cut(cond, ":"); name {
	case "root":
		return os.Getuid() == 0, nil
	case "user":
		return os.Getuid() != 0, nil
	case "cgroups":
		return canMakeCgroup("/sys/fs/cgroup/memory") || canMakeCgroup("/sys/fs/cgroup"), nil
	case "emulator":
		_, err := exec.LookPath("qemu-aarch64-static")
		return err == nil && runtime.GOARCH == "amd64" && kernelHas(6, 7), nil
	case "provider":
		return os.Getenv("WHITTLE_ROOTFS") == arg, nil
	}
	return false, fmt.Errorf("condition %q is unknown", cond)
}

// kernelHas says whether this is Linux major.minor or a later one.
func kernelHas(major, minor int) bool {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	var is [2]int
	_, serr := fmt.Sscanf(string(b), "%d.%d", &is[0], &is[1])
	return err == nil && serr == nil && (is[0] > major || is[0] == major && is[1] >= minor)
}

// canMakeCgroup says whether this user can make a control group below dir.
func canMakeCgroup(dir string) bool {
	if st, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil || st.IsDir() {
		return false
	}
	name, err := os.MkdirTemp(dir, "whittle-probe-")
	return err == nil && os.Remove(name) == nil
}

// endContainers ends what a script left running in its store, so that a test
// that fails leaves no process behind.
func endContainers(env *testscript.Env) {
	run := func(args ...string) string {
		cmd := exec.Command("whittle", args...)
		cmd.Path = filepath.Join(binFolder(env), "whittle")
		cmd.Env = env.Vars
		out, _ := cmd.Output() // a store that was never made has no containers
		return string(out)
	}
	if _, err := os.Stat(env.Getenv("WHITTLE_ROOT")); err != nil {
		return
	}
	if ids := strings.Fields(run("ps", "-q")); len(ids) > 0 {
		run(append([]string{"rm", "-f"}, ids...)...)
	}
	// Layers may hold folders that os.RemoveAll cannot enter, and files of
	// other users of our user namespace.
	if os.Getuid() != 0 {
		run("prune", "-a")
	}
}

// binFolder is where testscript put the programs.
func binFolder(env *testscript.Env) string {
	first, _, _ := strings.Cut(env.Getenv("PATH"), string(os.PathListSeparator))
	return first
}

// standins gives the test's store the base images that it names: stand-ins
// made by standins/make, imported once into a template store and from there
// linked, layers and all.
func standins(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: standins NAME...")
	}
	template, err := templateStore(args)
	ts.Check(err)
	// An older template has stand-ins that the new ones take the names of.
	script := fmt.Sprintf("%s/standins/load %s && whittle prune -a", ts.Getenv("REPO"), strings.Join(args, " "))
	load := exec.Command("bash", "-c", script)
	load.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"), "WHITTLE=whittle",
		"WHITTLE_ROOT="+template, "WHITTLE_ROOTFS="+ts.Getenv("WHITTLE_ROOTFS"))
	lock, err := lockFile(template + ".lock")
	ts.Check(err)
	defer lock.Close()
	if !loaded(template) {
		if out, err := load.CombinedOutput(); err != nil {
			ts.Fatalf("standins: %v\n%s", err, out)
		}
		ts.Check(os.WriteFile(template+".loaded", nil, 0o600))
	}
	ts.Check(linkStore(ts, template, ts.Getenv("WHITTLE_ROOT")))
}

// templateStore is the store that these stand-ins are imported into: one for
// each user and set of names, beside the tests' own folders, kept between
// runs.
func templateStore(names []string) (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("whittle-test-%d", os.Getuid()))
	set := strings.NewReplacer("/", "_", ":", "_").Replace(strings.Join(slices.Sorted(slices.Values(names)), "+"))
	return filepath.Join(dir, set), os.MkdirAll(dir, 0o700)
}

func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f, syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
}

// loaded says whether the template has the stand-ins as they are now.
func loaded(template string) bool {
	made, err := os.Stat(standinsDir())
	if err != nil {
		return false
	}
	st, err := os.Stat(template + ".loaded")
	return err == nil && st.ModTime().After(made.ModTime())
}

func standinsDir() string {
	if dir := os.Getenv("STANDINS_DIR"); dir != "" {
		return dir
	}
	return "../../.cache/standins"
}

// linkStore makes the store to of hard links to the template's files. In a
// user namespace's store some of them belong to other ids, so the copy is
// made in one.
func linkStore(ts *testscript.TestScript, template, to string) error {
	cmd := exec.Command("cp", "-al", template, to)
	if os.Getuid() != 0 {
		cmd = exec.Command("unshare", "--user", "--map-root-user", "--map-auto", "cp", "-al", template, to)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	// Locks are of files, whatever their names: linked ones would be those of
	// all stores at once.
	return filepath.WalkDir(filepath.Join(to, "locks"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Remove(path)
	})
}

// httpget waits until URL answers and prints the body.
func httpget(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: httpget URL")
	}
	client := http.Client{Timeout: 2 * time.Second}
	deadline := time.Now().Add(20 * time.Second)
	req, err := http.NewRequest(http.MethodGet, args[0], nil)
	ts.Check(err)
	req.Header.Set("Accept", manifest.OCIManifest+", */*") // which a registry wants to be told
	for {
		resp, err := client.Do(req)
		if err == nil {
			body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
			ts.Check(err)
			_, err = ts.Stdout().Write(body)
			ts.Check(err)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("httpget: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freeport puts a free TCP port of the loopback into a variable.
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VAR")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// jsonLines checks that every line of a file is a JSON object with an event.
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: jsonlines FILE")
	}
	text := strings.TrimSuffix(ts.ReadFile(args[0]), "\n")
	for i, line := range strings.Split(text, "\n") {
		var e struct {
			Time  time.Time `json:"time"`
			Event string    `json:"event"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" || e.Time.IsZero() {
			ts.Fatalf("%s:%d: %q is no event: %v", args[0], i+1, line, err)
		}
	}
}
