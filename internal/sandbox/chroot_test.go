package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// boxed returns a Config that runs script in a chroot of the root dir, and its
// output.
func boxed(t testing.TB, dir, script string) (*Config, *bytes.Buffer) {
	t.Helper()
	c, out := shell(t, dir, script)
	c.Isolation = Isolation{Mode: Chroot}
	c.Scratch = t.TempDir()
	return c, out
}

func TestAStepInAChrootSeesItsOwnProcAndDevices(t *testing.T) {
	dir := newRoot(t)
	c, out := boxed(t, dir, `pwd; cat /proc/self/comm; readlink /proc/self/exe; echo x > /dev/null; ls /dev; ls /proc/self/fd; readlink /proc/self/root; head -c 3 /dev/zero | wc -c; [ -e /proc/1 ] || echo no 1`)
	c.Args[2] = "ln -s busybox /bin/wc; " + c.Args[2]
	run(t, c)
	expect(t, "output", out.String(), "/\ncat\n/bin/busybox\nfd\nfull\nnull\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n0\n1\n2\n/\n3\nno 1\n")
	for _, name := range []string{"proc", "sys", "dev"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is left in the root", name)
		}
	}
}

func TestTheProbeOfAChrootStartsOneAndLeavesNothing(t *testing.T) {
	needSandbox(t)
	dir := t.TempDir()
	if err := ProbeChroot(dir); err != nil {
		t.Error(err)
	}
	if es, _ := os.ReadDir(dir); len(es) > 0 {
		t.Errorf("left in the folder: %v", es)
	}
}
