package places

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sandbox's own tests of the mode, in a container as docker run makes one:
// what holds on a host with all rights says nothing of what a container lets
// a process do.
func TestAChrootKeepsItsPromisesInAContainer(t *testing.T) {
	const busybox = "/bin/busybox"
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs /bin/busybox, statically linked")
	}
	bin := filepath.Join(t.TempDir(), "sandbox.test")
	build := exec.Command("go", "test", "-c", "-o", bin, "./internal/sandbox")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, p := range map[string]place{
		"on a volume":       {disk: true},
		"on its own layers": {},
	} {
		t.Run(name, func(t *testing.T) {
			p.options = append(p.options, "-v", bin+":/sandbox.test:ro", "-v", busybox+":/bin/busybox:ro")
			said, code := p.inside(t, `mkdir -p "${WHITTLE_ROOT%/*}/tmp"; cd /src/internal/sandbox
TMPDIR=${WHITTLE_ROOT%/*}/tmp /sandbox.test -test.v -test.run 'Chroot|Hostile|ServedLink|AllThatIsPut|MovedFolder'`)
			if code != 0 || strings.Count(said, "--- PASS: Test") < 10 {
				t.Errorf("exit code %d\n%s", code, said)
			}
		})
	}
}
