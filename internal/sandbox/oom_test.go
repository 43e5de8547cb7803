package sandbox

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestKillingsAreCountedInTheNarrowestPlace(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("proc", "4:memory:/own\n0::/two\n")
	write("machine", "oom_kill_disable 0\noom_kill 70\n")
	files := func(dirs ...string) []string {
		return append(append(killingsOf(dirs...), callersKillings(root, filepath.Join(root, "proc"))...), filepath.Join(root, "machine"))
	}
	step := filepath.Join(root, "step")
	if k := firstOf(files(step)); k.before != 70 {
		t.Errorf("with nothing but the machine: %+v", k)
	}
	write("memory/own/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
	if k := firstOf(files(step)); k.before != 5 {
		t.Errorf("in a group of version 1: %+v", k)
	}
	write("two/memory.events", "low 0\noom 9\noom_kill 6\noom_group_kill 0\n")
	if k := firstOf(files(step)); k.before != 6 {
		t.Errorf("in a group of version 2: %+v", k)
	}
	write("step/memory.events", "oom_kill 0\n")
	k := firstOf(files(step))
	write("two/memory.events", "oom_kill 8\n")
	if k.more() {
		t.Errorf("%+v counts one killed elsewhere", k)
	}
	write("step/memory.events", "oom_kill 1\n")
	if !k.more() {
		t.Errorf("%+v does not count its own", k)
	}
}

func TestAProcessKilledElsewhereIsNotOneOfTheSteps(t *testing.T) {
	dir := newRoot(t)
	in, end := io.Pipe()
	waiting := limited(t, dir, "read line; exit 137")
	waiting.Stdin = in
	p, err := Start(t.Context(), waiting)
	if err != nil {
		t.Fatal(err)
	}
	killed, err := Run(t.Context(), limited(t, dir, "dd if=/dev/zero of=/dev/null bs=100M count=1"))
	if err != nil || !killed.OOM {
		t.Errorf("100 MB in 16 MiB: %+v, %v", killed, err)
	}
	end.Close()
	if st, err := p.Wait(); err != nil || st.Code != 137 || st.OOM {
		t.Errorf("one that ended itself meanwhile: %+v, %v", st, err)
	}
}

// limited runs a script with 16 MiB of memory.
func limited(t *testing.T, dir, script string) *Config {
	t.Helper()
	g, err := NewCgroup("whittle-test-oom", Resources{Memory: 16 << 20})
	if err != nil {
		t.Skipf("needs control groups with memory limits: %v", err)
	}
	dirs := g.dirs
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		for _, dir := range dirs {
			_ = os.Remove(filepath.Dir(dir))
		}
	})
	return isolated(t, &Config{Root: openPath(t, dir), Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Cgroup: g})
}
