package sandbox

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// runWith runs c with an OCI runtime and returns the output.
func runWith(t *testing.T, runtime string, c *Config) string {
	t.Helper()
	needRuntime(t, runtime)
	other := *c
	var out bytes.Buffer
	other.Isolation, other.Stdin, other.Stdout, other.Stderr = Isolation{Mode: OCI, Runtime: runtime}, nil, &out, &out
	run(t, &other)
	return out.String()
}

func needRuntime(t *testing.T, name string) {
	t.Helper()
	if err := (Isolation{Mode: OCI, Runtime: name}).Check(); err != nil {
		t.Skipf("needs %s", name)
	}
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
		want := runWith(t, "runc", c)
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
	got, want := essence(out.String()), essence(runWith(t, "runc", c))
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
