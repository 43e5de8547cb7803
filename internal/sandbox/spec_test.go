package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// runRunc runs c with runc by what Spec says of it, and returns the output.
func runRunc(t *testing.T, dir string, c *Config) string {
	t.Helper()
	if InUserNS() {
		t.Skip("needs root: runc in a user namespace wants another spec")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs root: and runc")
	}
	spec, err := Spec(c)
	if err != nil {
		t.Fatal(err)
	}
	spec.Root.Path = dir
	b, err := json.Marshal(spec)
	bundle := t.TempDir()
	if err = errors.Join(err, os.WriteFile(bundle+"/config.json", b, 0o644)); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command("runc", "--root", bundle+"/state", "run", "-b", bundle, "whittle-"+filepath.Base(filepath.Dir(bundle)))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("runc: %v\n%s", err, errs.String())
	}
	return out.String()
}

func TestRuncGivesTheSameRights(t *testing.T) {
	for _, tt := range []struct {
		user       string
		noNewPrivs bool
	}{{"", false}, {"33:34", false}, {"0:0", true}} {
		dir := newRoot(t)
		c, out := shell(t, dir, statusScript+"; hostname; cat /proc/sys/kernel/ostype; ls -l /proc/self/fd | grep -c /dev/null; readlink /proc/self/cwd; grep -c . /proc/self/cgroup >/dev/null; cat /proc/kcore /proc/timer_list; echo x > /proc/sysrq-trigger; mount -o remount,rw /sys; true")
		c.User, c.NoNewPrivs = tt.user, tt.noNewPrivs
		run(t, c)
		c.Stdin = nil
		want := runRunc(t, dir, c)
		if got := stdoutOf(out.String()); got != stdoutOf(want) {
			t.Errorf("user %q: got\n%s\nrunc\n%s", tt.user, got, stdoutOf(want))
		}
	}
}

// stdoutOf drops the complaints of the shell and what depends on how the
// caller's stdio looks.
func stdoutOf(s string) string {
	var keep []string
	for l := range strings.Lines(s) {
		if !strings.HasPrefix(l, "sh:") && !strings.HasPrefix(l, "mount:") && !strings.HasPrefix(l, "cat:") && !strings.HasPrefix(l, "ls:") && l != "\n" && !regexp.MustCompile(`^\d\n$`).MatchString(l) {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "")
}

// mountScript prints target, type and the options that are a mount's own.
const mountScript = `while read id parent dev root target options rest; do echo "$target ${rest##* - } $options"; done < /proc/self/mountinfo`

// essence is what of a mount must be equal: its target, its type and its flags.
// Devices are bound by one and made by the other, and nodev is stricter here.
func essence(out string) map[string]string {
	res := map[string]string{}
	for l := range strings.Lines(out) {
		f := strings.Fields(l)
		if len(f) < 5 || f[0] == "/" {
			continue
		}
		var flags []string
		for o := range strings.SplitSeq(f[len(f)-1], ",") {
			if slices.Contains([]string{"ro", "rw", "nosuid", "noexec"}, o) {
				flags = append(flags, o)
			}
		}
		res[f[0]] = f[1] + " " + strings.Join(flags, ",")
	}
	return res
}

func TestRuncMakesTheSameMounts(t *testing.T) {
	dir, host := newRoot(t), t.TempDir()
	addFiles(t, host, "f=x")
	c, out := shell(t, dir, mountScript)
	c.Mounts = []Mount{{Target: "/m", Path: host, ReadOnly: true}, {Target: "/t", Options: []string{"size=1m"}}}
	run(t, c)
	got, want := essence(out.String()), essence(runRunc(t, dir, c))
	if len(got) < 12 {
		t.Fatalf("mounts %v", got)
	}
	for target, w := range want {
		g := got[target]
		if strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/") {
			// What hides a path is mounted with flags of its own here.
			g, w = strings.Fields(g + " -")[0], strings.Fields(w + " -")[0]
		}
		if g != w {
			t.Errorf("%s: got %q, runc %q", target, g, w)
		}
	}
	for target := range got {
		if _, ok := want[target]; !ok && !strings.HasPrefix(target, "/dev/") {
			t.Errorf("%s: not in runc", target)
		}
	}
}

func TestSpecSaysWhatTheConfigSays(t *testing.T) {
	f := openPath(t, t.TempDir())
	s, err := Spec(&Config{
		Root: f, Args: []string{"a"}, Env: []string{"B=c"}, Dir: "/d", User: "1:2", Hostname: "h", Network: NetworkNone, ReadOnlyRoot: true, TTY: true,
		Mounts: []Mount{{Target: "/m", File: f, Sub: "s", ReadOnly: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := s.Mounts[len(s.Mounts)-1]
	if s.Hostname != "h" || !s.Root.Readonly || s.Process.User.UID != 1 || s.Process.User.GID != 2 || s.Process.Cwd != "/d" || !s.Process.Terminal ||
		len(s.Linux.Namespaces) != 6 || s.Process.Capabilities.Effective != nil || len(s.Process.Capabilities.Bounding) != 14 ||
		m.Source != fdPath(int(f.Fd()))+"/s" || !slices.Contains(m.Options, "ro") {
		t.Errorf("spec %+v", s)
	}
	if _, err := Spec(&Config{Root: f, User: "name"}); err == nil {
		t.Error("a name was taken as user")
	}
}
