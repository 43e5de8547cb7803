package sandbox

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestCanRunAsksTheKernelForEmulators(t *testing.T) {
	const (
		// As qemu's own packages register them.
		s390x = "offset 0\nmagic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n"
		riscv = "offset 0\nmagic 7f454c460201010000000000000000000200f300\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	)
	tests := map[string]struct {
		files map[string]string
		want  map[string]bool
	}{
		"nothing": {nil, map[string]bool{"s390x": false, "riscv64": false, runtime.GOARCH: true}},
		"one": {map[string]string{"qemu-s390x": "enabled\ninterpreter /q\nflags: POCF\n" + s390x, "status": "enabled", "register": ""},
			map[string]bool{"s390x": true, "riscv64": false}},
		"by what it takes, not by its name": {map[string]string{"x": "enabled\ninterpreter /q\nflags: F\n" + riscv}, map[string]bool{"riscv64": true}},
		"disabled":                          {map[string]string{"q": "disabled\ninterpreter /q\nflags: F\n" + s390x}, map[string]bool{"s390x": false}},
		"not in another root":               {map[string]string{"q": "enabled\ninterpreter /q\nflags: \n" + s390x}, map[string]bool{"s390x": false}},
		"by extension":                      {map[string]string{"q": "enabled\ninterpreter /q\nflags: F\nextension .s390x\n"}, map[string]bool{"s390x": false}},
		"nonsense":                          {map[string]string{"q": "enabled\nflags: F\noffset 0\nmagic zz\n"}, map[string]bool{"s390x": false, "nosuch": false}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, text := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for arch, want := range tt.want {
				if got := CanRun(arch, dir); got != want && (arch != runtime.GOARCH || !got) {
					t.Errorf("%s: %v, want %v", arch, got, want)
				}
			}
		})
	}
}
