package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of so many MB.
func smallDisk(t *testing.T, megabytes string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size="+megabytes+"m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// When the store's disk is full the error says which disk and how much is
// free, nothing half-done gets a name, and with room the same build works.
func TestAFullDiskIsNamedAndLeavesNoHalfLayer(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 20<<20/16)
	for _, c := range []struct {
		name       string
		dockerfile string
		explained  bool // by whittle; else the step's own process says it
	}{
		{"copy", "FROM busybox\nCOPY large /\n", true},
		{"copy that a step reads", "FROM busybox\nCOPY large /\nRUN true\n", true},
		{"run", "FROM busybox\nRUN cat /dev/zero | head -c 20971520 > /large\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := smallDisk(t, "64")
			l := newLab(t, filepath.Join(disk, "store"))
			l.env = append(l.env, "WHITTLE_ROOTFS=") // erofs is not mounted from a tmpfs
			l.standin("busybox")
			ballast := filepath.Join(disk, "ballast")
			fill(t, disk, ballast, 16<<20)
			dir := folder(t, map[string]string{"large": large, "Dockerfile": c.dockerfile})
			_, err := l.try("build", "-q", "-t", "full", dir)
			if err == nil {
				t.Fatal("it was built")
			}
			if c.explained && (!strings.Contains(err.Error(), "the file system at "+disk+" is full (") || !strings.Contains(err.Error(), "free")) {
				t.Errorf("the error does not name the file system and what is free: %v", err)
			}
			if !strings.Contains(strings.ToLower(err.Error()), "no space left on device") {
				t.Errorf("the error does not say what happened: %v", err)
			}
			l.clean()
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			l.run("build", "-q", "-t", "full", dir)
			if l.files("full")["large"] == "" {
				t.Error("with room, the image is not right")
			}
			l.clean()
		})
	}
}

// fill writes a file so that free bytes of the file system are left.
func fill(t *testing.T, disk, name string, free int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-free); err != nil {
		t.Fatal(err)
	}
}

func TestAnImportOnAFullDiskNamesTheDisk(t *testing.T) {
	disk := smallDisk(t, "8")
	l := newLab(t, filepath.Join(disk, "store"))
	tar := filepath.Join(folder(t, map[string]string{"large": strings.Repeat("0123456789abcdef", 20<<20/16)}), "root.tar")
	if out, err := exec.Command("tar", "-cf", tar, "-C", filepath.Dir(tar), "large").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := l.try("import", tar)
	if err == nil {
		t.Fatal("it was imported")
	}
	if !strings.Contains(err.Error(), "the file system at "+disk+" is full (") || strings.Contains(err.Error(), "import takes") {
		t.Errorf("the error does not name the file system: %v", err)
	}
	l.clean()
}

// A full disk keeps the store from promising what it has; the image is whole
// all the same, and nobody shall throw it away.
func TestAFullDiskIsNoFaultOfAnImage(t *testing.T) {
	disk := smallDisk(t, "16")
	l := newLab(t, filepath.Join(disk, "store"), "busybox")
	dir := folder(t, map[string]string{"Dockerfile": "FROM busybox\nLABEL a=b\n"})
	ballast := filepath.Join(disk, "ballast")
	fill(t, disk, ballast, 0)
	for _, args := range [][]string{{"build", dir}, {"run", "--rm", "busybox", "true"}, {"create", "busybox"}} {
		_, err := l.try(args...)
		if err == nil {
			t.Fatalf("%s works on a full disk", args[0])
		}
		if s := err.Error(); !strings.Contains(s, "is full (") || strings.Contains(s, "not in the store") || strings.Contains(s, "Dockerfile:1") {
			t.Errorf("%s does not say what is wrong: %s", args[0], s)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	l.run("build", "-q", dir)
	l.clean()
}

func TestAStoreWorksWhateverItsFolderIsCalled(t *testing.T) {
	for _, name := range []string{`back\slash`, `quo"te`, "new\nline", "com,ma", "co:lon", `\054`} {
		l := newLab(t, filepath.Join(t.TempDir(), name), "busybox")
		l.run("build", "-q", "-t", "app", folder(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo made > /made\n"}))
		if l.files("app")["made"] == "" {
			t.Errorf("%q: the image is not right", name)
		}
	}
}
