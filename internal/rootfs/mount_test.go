package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, or a user with subordinate ids: mounts")
	}
}

func openDir(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readAt(t *testing.T, root *os.File, name string) string {
	t.Helper()
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b := make([]byte, 100)
	n, _ := f.Read(b)
	return string(b[:n])
}

// Every way to mount gives the same merged, detached root.
func TestOverlayMountsDetachedAndMerged(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name           string
		userxattr, old bool
		volatile       bool
	}{{"new", false, false, true}, {"new userxattr", true, false, true}, {"old", false, true, false}, {"old userxattr", true, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			d := t.TempDir()
			write(t, d+"/a/x", "lower")
			write(t, d+"/a/y", "y")
			write(t, d+"/b/x", "upper")
			for _, n := range []string{"up", "work", "scratch"} {
				os.Mkdir(filepath.Join(d, n), 0o755)
			}
			before, _ := os.ReadFile("/proc/self/mountinfo")
			o := overlay{lowers: []*os.File{openDir(t, d+"/b"), openDir(t, d+"/a")}, upper: d + "/up", work: d + "/work",
				userxattr: c.userxattr, old: c.old, volatile: c.volatile, scratch: d + "/scratch"}
			m, _, err := o.mountAnyhow()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if got := readAt(t, m, "x") + readAt(t, m, "y"); got != "uppery" {
				t.Errorf("merged content %q", got)
			}
			after, _ := os.ReadFile("/proc/self/mountinfo")
			if string(before) != string(after) {
				t.Errorf("a mount is visible:\n%s", after)
			}
		})
	}
}

// A value of fsconfig(2) has at most 255 bytes, a path up to 4095, with any
// characters in it.
func TestAStoreMayLieAtAnyPath(t *testing.T) {
	needRoot(t)
	for name, dir := range map[string]string{
		"long": strings.Repeat("a-long-name/", 30), "odd characters": `a\b"c,d:e f` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			store := filepath.Join(t.TempDir(), dir)
			if err := os.MkdirAll(filepath.Join(store, "tmp"), 0o755); err != nil {
				t.Fatal(err)
			}
			user, providers := inUserNS(t), []Provider{Erofs, Tree}
			if user {
				providers = []Provider{Tree} // EROFS is not mounted in a user namespace
			}
			for _, p := range providers {
				if err := try(filepath.Join(store, "tmp"), p, user, nil); err != nil {
					t.Errorf("%s: %v", p, err)
				}
			}
		})
	}
}
