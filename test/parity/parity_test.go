package parity

import (
	"bytes"
	"cmp"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/test/dockerd"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	os.Exit(m.Run())
}

// probe compiles the probe into a folder of its own.
func probe(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), "./probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// reNumber is what differs from run to run: the numbers of namespaces.
var reNumber = regexp.MustCompile(`:\[\d+\]$`)

// facts reads what the probe printed. A namespace is told by whether it is the
// machine's.
func facts(out string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if ns, ok := strings.CutPrefix(name, "ns."); ok {
			own, _ := os.Readlink("/proc/self/ns/" + ns)
			value = map[bool]string{true: "the machine's", false: "its own"}[own == value]
		}
		all[name] = reNumber.ReplaceAllString(value, "")
	}
	return all
}

// seen runs the probe in whittle's sandbox as a RUN does.
func seen(t *testing.T, how sandbox.Isolation, dir, user string) map[string]string {
	t.Helper()
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var out, said bytes.Buffer
	st, err := sandbox.Run(t.Context(), &sandbox.Config{
		Root: root, Isolation: how, Args: []string{"/probe"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		User: user, ResolvConf: true, ReadOnlyEtc: true, Stdout: &out, Stderr: &said,
	})
	if err != nil || st.Code != 0 {
		t.Fatalf("%s: %+v, %v\n%s", how, st, err, &said)
	}
	return facts(out.String())
}

// accepted reads differences.txt: peer, name of a fact (a * at its end stands
// for the rest), reason.
func accepted(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 5 {
			t.Fatalf("differences.txt: %q: want a peer, a fact and a reason", line)
		}
		used[f[0]+" "+f[1]] = false
	}
	return used
}

// covers finds the line of used that is about the fact.
func covers(used map[string]bool, peer, fact string) bool {
	found := false
	for line := range used {
		who, name, _ := strings.Cut(line, " ")
		prefix, all := strings.CutSuffix(name, "*")
		if slices.Contains(strings.Split(who, ","), peer) && (name == fact || all && strings.HasPrefix(fact, prefix)) {
			used[line], found = true, true
		}
	}
	return found
}

func compare(t *testing.T, used map[string]bool, peer string, got, want map[string]string) {
	t.Helper()
	if len(got) < 150 || len(want) < 150 {
		t.Fatalf("%d and %d facts", len(got), len(want))
	}
	names := slices.Sorted(maps.Keys(got))
	for name := range want {
		if _, ok := got[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if got[name] != want[name] && !covers(used, peer, name) {
			t.Errorf("%s: whittle %q, %s %q", name, cmp.Or(got[name], "-"), peer, cmp.Or(want[name], "-"))
		}
	}
}

// reLine is a line of a step in BuildKit's plain progress.
var reLine = regexp.MustCompile(`(?m)^#\d+ [0-9.]+ (.*)$`)

// docker runs the probe in a RUN of dockerd's.
func docker(t *testing.T, d *dockerd.Daemon, dir, file string) map[string]string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(name, []byte(file+"RUN [\"/probe\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(d.Client, "build", "--progress", "plain", "--no-cache", "--network", "host", "-f", name, dir)
	cmd.Env = d.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var lines strings.Builder
	for _, m := range reLine.FindAllSubmatch(out, -1) {
		lines.Write(append(m[1], '\n'))
	}
	return facts(lines.String())
}

func TestAStepSeesWhatItSeesElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the peers run as root")
	}
	dir, used := probe(t), accepted(t)
	ran := map[string]bool{}
	for _, user := range []string{"", "1234:1235"} {
		native := seen(t, sandbox.Isolation{}, dir, user)
		// The probe is the first process and waits for no one.
		if native["orphan"] != "state Z, child of 1" {
			t.Errorf("an orphan: %q", native["orphan"])
		}
		for _, name := range []string{"runc", "crun"} {
			how := sandbox.Isolation{Mode: sandbox.OCI, Runtime: name}
			if how.Check() != nil {
				continue
			}
			ran[name] = true
			compare(t, used, name, native, seen(t, how, dir, user))
		}
	}
	if why := dockerd.Missing(); why != "" {
		t.Skip(why)
	}
	d, err := dockerd.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	ran["dockerd"] = true
	for _, user := range []string{"", "1234:1235"} {
		file := "FROM scratch\nCOPY probe /probe\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
		if user != "" {
			file += "USER " + user + "\n"
		}
		compare(t, used, "dockerd", seen(t, sandbox.Isolation{}, dir, user), docker(t, d, dir, file))
	}
	for line, was := range used {
		who, _, _ := strings.Cut(line, " ")
		if !was && ran[strings.Split(who, ",")[0]] {
			t.Errorf("differences.txt: %s: there is no such difference any more", line)
		}
	}
}
