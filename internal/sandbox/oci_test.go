package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// runtimes are those that tests need.
var runtimes = []string{"runc", "crun"}

// notRuntimes are the tests that only hold for the native sandbox, and why.
const notRuntimes = `TestAttack08PasswdIsRead|` + // a runtime reads the file too, so that it has to be one
	`TestAttack09TheDirectoryIsInside|` + // a directory by way of the step's own /proc is the runtime's to refuse
	`TestTheHostsDevicesAreNot|TestADetachedOverlay|TestDeviceFilesOfTheRoot|` + // devices are dead by the control group, not by nodev
	`TestAttack07AStubThatIsAFile|TestAttack10WhatIsSwapped|` + // input is whittle run's; what is in the way a runtime refuses in words of its own
	`TestAnEmulat|TestRunPassesOn|TestExec|TestAnInputThatNever|TestAJoin|TestWhatExec|TestWhatJoin|TestDialIn|` + // entering, input and terminals are whittle run's
	`TestAProcessKilledElsewhere|` + // with version 1 of control groups, the machine's kills are counted
	`Test.*InAChroot|TestAFileMadeAfter|TestAPartOfAFolder|TestAllThatIsPut|` + // a chroot's
	`TestRunc|TestTheSameTests|TestAllTests|TestTheUserNamespace|TestOCI`

func TestTheSameTestsPassWithOtherRuntimes(t *testing.T) {
	needSandbox(t)
	for _, name := range runtimes {
		t.Run(name, func(t *testing.T) {
			needRuntime(t, name)
			cmd := exec.Command("/proc/self/exe", "-test.v", "-test.short", "-test.skip", notRuntimes, "-test.run", "^Test(Attack|Run|The|A|Users|Home|Mounts|Generated|ReadOnly|Pipes|Large|Signals|Limits|Masked|Nothing|Network)")
			cmd.Env = append(os.Environ(), isolationVar+"=oci="+name)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := bytes.Count(out, []byte("--- PASS: ")); n < 20 {
				t.Errorf("%d tests passed:\n%s", n, out)
			}
		})
	}
}

// eachRuntime runs f with each runtime that there is.
func eachRuntime(t *testing.T, f func(t *testing.T, i Isolation)) {
	t.Helper()
	needSandbox(t)
	for _, name := range runtimes {
		t.Run(name, func(t *testing.T) {
			needRuntime(t, name)
			f(t, Isolation{Mode: OCI, Runtime: name})
		})
	}
}

// A user namespace that everybody may make has one id, and no setgroups(2).
func TestOCIStartsStepsInAUserNamespaceOfOneID(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		cmd := unprivileged(t, "-test.v", "-test.run", "^TestTheCommandIsTheFirstProcess")
		cmd.Env = append(cmd.Env, helperVar+"="+helperUserNS, isolationVar+"=oci="+i.Runtime)
		who := cmd.SysProcAttr.Credential
		cmd.SysProcAttr = nil
		// newuidmap can do nothing then.
		cmd.Args = append([]string{"setpriv", "--no-new-privs", "--clear-groups", "--reuid", fmt.Sprint(who.Uid), "--regid", fmt.Sprint(who.Gid), cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/usr/bin/setpriv"
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestTheCommandIs")) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestOCISaysWhatCannotBeStartedAsTheNativeSandboxDoes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		root := newRoot(t, "dir/", "noexec=x", "bad=\x7fELFx", "script=#!/no/interp\n", "sub/prog=#!/bin/sh\n", "prog=#!/bin/sh\n")
		if err := os.Chmod(root+"/noexec", 0o644); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(c *Config){
			"not in PATH":    func(c *Config) { c.Args = []string{"nothere"} },
			"not in PATH, 2": func(c *Config) { c.Args = []string{"prog"} },
			"no file":        func(c *Config) { c.Args = []string{"/no/file"} },
			"no x bit":       func(c *Config) { c.Args = []string{"/noexec"} },
			"a folder":       func(c *Config) { c.Args = []string{"/dir"} },
			"no program":     func(c *Config) { c.Args = []string{"/bad"} },
			"no interpreter": func(c *Config) { c.Args = []string{"/script"} },
			"no user":        func(c *Config) { c.User = "nobodyhere" },
			"no source":      func(c *Config) { c.Mounts = []Mount{{Target: "/m", Path: root, Sub: "none"}} },
			"over a file":    func(c *Config) { c.Mounts = []Mount{{Target: "/prog"}} },
			"in proc":        func(c *Config) { c.Mounts = []Mount{{Target: "/proc/tty"}} },
			"too long":       func(c *Config) { c.Args = []string{"echo", strings.Repeat("x", 1<<18)} },
			"ulimit":         func(c *Config) { c.Network = "nowhere" },
		} {
			var texts []string
			for _, with := range []Isolation{{}, i} {
				c, _ := shell(t, root, "true")
				c.Isolation = with
				change(c)
				_, err := Run(t.Context(), c)
				var start *StartError
				if !errors.As(err, &start) {
					t.Errorf("%s: %v: %v, want a StartError", name, with, err)
					continue
				}
				texts = append(texts, start.Op+" "+start.Error()+" "+start.Interp+" "+start.Found)
			}
			if len(texts) == 2 && texts[0] != texts[1] {
				t.Errorf("%s: %s: %q, native %q", name, i, texts[1], texts[0])
			}
		}
	})
}

func TestOCISaysWhyTheRuntimeFailed(t *testing.T) {
	needSandbox(t)
	dir := t.TempDir()
	addFiles(t, dir, "rt=#!/bin/sh\necho '{\"level\":\"warning\",\"msg\":\"no\"}\n{\"level\":\"error\",\"msg\":\"the moon is full\"}' >\"$4\"\nexit 1\n")
	c, _ := shell(t, newRoot(t), "true")
	c.Isolation = Isolation{Mode: OCI, Runtime: dir + "/rt"}
	_, err := Run(t.Context(), c)
	var start *StartError
	if !errors.As(err, &start) || start.Op != "runtime" || start.Error() != "runtime rt: the moon is full" {
		t.Errorf("got %v", err)
	}
	c, _ = shell(t, newRoot(t), "true")
	c.Isolation = Isolation{Mode: OCI, Runtime: "no-such-runtime"}
	var bad *RuntimeError
	if _, err = Run(t.Context(), c); !errors.As(err, &bad) || !strings.Contains(bad.Hint(), "apt-get install runc") || c.Isolation.Check() == nil {
		t.Errorf("a missing runtime: %v", err)
	}
}

func TestOCIEndsAreThoseOfTheCommand(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		for script, want := range map[string]Status{
			"exit 7":       {Code: 7},
			"exit 137":     {Code: 137},
			"kill -9 $$":   {}, // pid 1 of its namespace is deaf to that
			"exec sleep 0": {},
		} {
			c, _ := shell(t, newRoot(t), script)
			c.Isolation = i
			st, err := Run(t.Context(), c)
			if err != nil || st != want {
				t.Errorf("%s: %+v, %v", script, st, err)
			}
		}
		c, out := shell(t, newRoot(t), "echo to stdout; echo to stderr >&2; cat; sleep 0.1 & (sleep 100 &)")
		c.Isolation = i
		run(t, c)
		expect(t, "output", out.String(), "to stdout\nto stderr\n")
	})
}

func TestOCIHasAllRightsWhenInsecure(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		var outs []string
		for _, with := range []Isolation{{}, i} {
			c, out := shell(t, newRoot(t), "grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; mount -t tmpfs x /tmp && echo mounts; ls /dev/loop-control /dev/kmsg; grep -c ' /proc/sys ' /proc/mounts; grep -o ' /sys sysfs rw' /proc/mounts")
			c.Isolation, c.Insecure = with, true
			Run(t.Context(), c)
			outs = append(outs, out.String())
		}
		if outs[0] != outs[1] || !strings.Contains(outs[1], "mounts\n") {
			t.Errorf("native\n%s\n%s\n%s", outs[0], i, outs[1])
		}
	})
}

func TestOCIMountsInDevAndFilesOfMemory(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		host := t.TempDir()
		addFiles(t, host, "f=content")
		c, out := shell(t, newRoot(t, "late->/dev/new"), "cat /dev/new/f /run/secret /late/f; echo x 2>/dev/null >/dev/new/f || echo ro; grep -c secret /proc/mounts; stat -c %a:%u /run/secret; df -m /dev/shm | tail -1 | busybox awk '{print $2}'; ulimit -n; cat /etc/resolv.conf | head -0; pwd; id -u")
		c.Isolation, c.ShmSize, c.Dir, c.User, c.ResolvConf = i, 8<<20, "/made/here", "web", true
		c.Rlimits = []Rlimit{{Resource: unix.RLIMIT_NOFILE, Name: "nofile", Soft: 99, Hard: 100}}
		c.Mounts = []Mount{{Target: "/late", Path: host, ReadOnly: true}, {Target: "/run/secret", ReadOnly: true, Content: &Content{Content: []byte("hush"), Mode: 0o400, UID: 33}}}
		run(t, c)
		if got := out.String(); got != "contenthushcontentro\n1\n400:33\n8\n99\n/made/here\n33\n" {
			t.Errorf("got %q", got)
		}
	})
}

// groupsOf returns the groups that there are of this process's.
func groupsOf() string {
	its := fmt.Sprintf("/%s/%s-%d-*", ownParent, ownParent, os.Getpid())
	a, _ := filepath.Glob(cgroupRoot + "/*" + its)
	b, _ := filepath.Glob(cgroupRoot + its)
	return strings.Join(append(a, b...), " ")
}

func TestOCILeavesNothingWhenItIsCancelled(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		before := groupsOf()
		root := newRoot(t)
		t.Setenv("TMPDIR", t.TempDir()) // all that is the run's lies beside its root
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := shell(t, root, "(sleep 1000 &) ; sleep 1000")
		c.Isolation = i
		p, err := Start(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		// Other tests have mounts of their own meanwhile.
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), filepath.Dir(root)) {
			t.Errorf("the caller has mounts of the run, or: %v\n%s", err, mounts)
		}
		if after := groupsOf(); after != before {
			t.Errorf("control groups: %s, before %s", after, before)
		}
	})
}

func TestOCIRunsAtOnceLeaveEachOthersControlGroups(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		var all sync.WaitGroup
		for range 4 {
			dir := newRoot(t)
			all.Go(func() {
				for range 8 {
					c, _ := shell(t, dir, "true")
					c.Isolation = i
					if st, err := Run(t.Context(), c); err != nil || st.Code != 0 {
						t.Errorf("%+v, %v", st, err)
						return
					}
				}
			})
		}
		all.Wait()
		if rest := groupsOf(); rest != "" {
			t.Errorf("left: %s", rest)
		}
	})
}

func TestOCIHoldsLimits(t *testing.T) {
	eachRuntime(t, func(t *testing.T, i Isolation) {
		g, err := NewCgroup("", Resources{Memory: 64 << 20, Pids: 50})
		if err != nil {
			t.Skipf("needs control groups with memory limits: %v", err)
		}
		c, out := shell(t, newRoot(t), "cat /proc/self/cgroup; dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null && echo too much || echo limited")
		c.Isolation, c.Cgroup = i, g
		run(t, c)
		if !strings.HasSuffix(out.String(), "limited\n") {
			t.Errorf("200 MB fit into 64 MiB: %s", out)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if rest := groupsOf(); strings.Contains(rest, g.group) {
			t.Errorf("left: %s", rest)
		}
	})
}

func TestOCISpecSaysWhatTheSetupSays(t *testing.T) {
	s := &initproc.Setup{
		Args: []string{"a"}, Env: []string{"B=c"}, Dir: "d", Hostname: "h", ReadOnly: true, NoNewPrivs: true, ShmSize: 4096,
		Rlimits: []Rlimit{{Name: "nofile", Soft: 1, Hard: 2}},
	}
	p := &initproc.Prepared{Root: "/r", UID: 1, GID: 2, Groups: []uint32{2, 3}, Env: []string{"B=c", "HOME=/"}, Late: []initproc.Late{{Source: "/s", Target: "/dev/x", ReadOnly: true}}}
	o, err := specOf(s, p, true)
	if err != nil {
		t.Fatal(err)
	}
	last, sys := o.Mounts[len(o.Mounts)-1], o.Mounts[1]
	if o.Hostname != "h" || !o.Root.Readonly || o.Process.User.UID != 1 || o.Process.User.GID != 2 || o.Process.Cwd != "/d" || !o.Process.NoNewPrivileges ||
		len(o.Linux.Namespaces) != 5 || o.Process.Capabilities.Effective != nil || len(o.Process.Capabilities.Bounding) != 14 ||
		last.Source != "/s" || !slices.Contains(last.Options, "ro") || sys.Type != "bind" || !slices.Contains(sys.Options, "ro") || o.Process.Rlimits[0].Type != "RLIMIT_NOFILE" {
		t.Errorf("spec %+v", o)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var whole specs.Spec
	if err := d.Decode(&whole); err != nil || whole.Version != "1.0.2" || whole.Linux.Seccomp == nil || whole.Process.Cwd != "/d" {
		t.Errorf("it is no spec: %v: %s", err, b)
	}
	if o, err = specOf(s, &initproc.Prepared{}, false); err != nil || o.Mounts[1].Type != "sysfs" || len(o.Process.Capabilities.Effective) != 14 {
		t.Errorf("root's: %+v, %v", o, err)
	}
}
