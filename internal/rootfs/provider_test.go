package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// storeFolder is a folder with what the probe needs of a store.
func storeFolder(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "whittle-probe")
	if err != nil {
		t.Skipf("needs %s: %v", parent, err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAnUnknownProviderIsRefusedByName(t *testing.T) {
	_, err := Choose(storeFolder(t, t.TempDir()), "zfs", false, nil)
	if err == nil || !strings.Contains(err.Error(), `"zfs"`) || !strings.Contains(err.Error(), "erofs, tree and chroot") {
		t.Errorf("error %v", err)
	}
}

func TestAForcedProviderThatDoesNotWorkIsAnErrorThatSaysWhy(t *testing.T) {
	needRoot(t)
	// EROFS cannot be mounted from a file on a tmpfs.
	dir := storeFolder(t, "/dev/shm")
	_, err := Choose(dir, "erofs", false, nil)
	if err == nil || !strings.Contains(err.Error(), "erofs: ") || strings.Contains(err.Error(), "tree:") {
		t.Errorf("forced erofs on a tmpfs: %v", err)
	}
	if p, err := Choose(dir, "", false, nil); p != Tree || err != nil {
		t.Errorf("chose %q, %v; want tree", p, err)
	}
	if p, err := Choose(dir, "tree", false, nil); p != Tree || err != nil {
		t.Errorf("forced tree: %q, %v", p, err)
	}
}

func TestProbeTellsWhatWorksAndWhyTheRestDoesNot(t *testing.T) {
	needRoot(t)
	found := Probe(storeFolder(t, "/dev/shm"), false, nil)
	if len(found) != 2 || found[0].Provider != Erofs || found[1].Provider != Tree {
		t.Fatalf("found %+v", found)
	}
	if found[0].Works || found[0].Why == "" {
		t.Errorf("erofs on a tmpfs: %+v", found[0])
	}
	if !found[1].Works || found[1].Why != "" {
		t.Errorf("tree on a tmpfs: %+v", found[1])
	}
}

func TestTheProbeLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := storeFolder(t, t.TempDir())
	Probe(dir, false, nil)
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
