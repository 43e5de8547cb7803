package sandbox

import (
	"os/exec"
	"testing"

	"github.com/whittle-build/whittle/internal/sandbox/initproc"
)

// BenchmarkRun is one step that does nothing, in a root that has the mount
// points and in one where they are made and removed. The floor is
// BenchmarkFloor: this program started to do nothing, and then /bin/true.
func BenchmarkRun(b *testing.B) {
	for _, bb := range []struct {
		name  string
		files []string
	}{
		{"complete", []string{"proc/", "sys/", "dev/", "etc/hosts=", "etc/resolv.conf="}},
		{"stubs", nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c, _ := shell(b, newRoot(b, bb.files...), "")
			c.Args = []string{"/bin/true"}
			c.ResolvConf, c.ReadOnlyEtc = true, true
			for b.Loop() {
				if st, err := Run(b.Context(), c); err != nil || st.Code != 0 {
					b.Fatal(st, err)
				}
			}
		})
	}
}

func BenchmarkFloor(b *testing.B) {
	for b.Loop() {
		for _, args := range [][]string{{initproc.Argv}, {"true"}} {
			cmd := &exec.Cmd{Path: "/bin/busybox", Args: args, Env: []string{"GOMAXPROCS=1"}}
			if args[0] == initproc.Argv {
				cmd.Path = "/proc/self/exe"
			}
			cmd.Run()
			if cmd.ProcessState == nil {
				b.Fatal("not run")
			}
		}
	}
}

// BenchmarkFilter compiles the default seccomp profile.
func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		p, err := defaultProfile()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := compileFilter(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSelf opens the program for its inits.
func BenchmarkSelf(b *testing.B) {
	needSandbox(b)
	for b.Loop() {
		f, err := self()
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
