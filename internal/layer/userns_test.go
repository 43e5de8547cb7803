package layer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

const childEnv = "WHITTLE_TEST_USERNS"

// In a user namespace a tree cannot hold devices and trusted attributes, and in
// one of a single id no owners; the layer has them all the same.
func TestALayerIsEqualInAllItsFormsInAUserNamespace(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		inNamespace(t)
		return
	}
	needRoot(t)
	for name, size := range map[string]int{"many ids": 65536, "one id": 1} {
		t.Run(name, func(t *testing.T) { againInNamespace(t, size) })
	}
}

// againInNamespace runs the test that calls it in a user namespace of so many
// ids.
func againInNamespace(t *testing.T, size int) {
	const first = 200000
	dir := t.TempDir()
	if err := os.Chown(dir, first, first); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode().Perm()&0o011 == 0 {
			os.Chmod(d, st.Mode()|0o011)
		}
	}
	exe := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	ids := []syscall.SysProcIDMap{{HostID: first, Size: size}}
	cmd := exec.Command(exe, "-test.run=^TestALayerIsEqualInAllItsFormsInAUserNamespace$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), childEnv+"="+dir, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: ids, GidMappings: ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(err.Error(), "operation not permitted") {
		t.Skipf("needs user namespaces: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v: %s", err, out)
	}
}

func inNamespace(t *testing.T) {
	items := []item{
		dirAt(".", 0o711), dirAt("dev", 0o755),
		{entry.Entry{Path: "dev/null", Kind: entry.Char, Mode: 0o666, Major: 1, Minor: 3, UID: 5, Mtime: entry.Time{Sec: 9}}, ""},
		{entry.Entry{Path: "dev/sda", Kind: entry.Block, Mode: 0o660, Major: 8, Minor: 0, Xattrs: map[string]string{"trusted.x": "\xff"}}, ""},
		{entry.Entry{Path: "dev/pipe", Kind: entry.Fifo, Mode: 0o600}, ""},
		{entry.Entry{Path: "dev/zz", Kind: entry.File, Mode: 0o4755, UID: 1000, GID: 1000, Xattrs: map[string]string{
			"trusted.y": "\x00\xfe", "user.z": "1", "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}}, "zz"},
		goneAt("gone"), opaqueAt("d"), goneAt("d/x"), linkAt("l", "/etc"),
	}
	if !inUserNamespace() {
		t.Fatal("not taken for a user namespace")
	}
	dir, _ := build(t, items)
	want := dump(t, openTar(t, dir))
	if !strings.Contains(want, "trusted.y") || !strings.Contains(want, "dev 8:0") {
		t.Fatalf("the layer lacks something:\n%s", want)
	}
	tree := filepath.Join(t.TempDir(), "tree")
	if err := Unpack(t.Context(), dir, "", tree, UnpackOptions{Userxattr: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(tree + "/dev/null"); err == nil {
		t.Error("a device could be made: this test tests nothing")
	}
	diff(t, "unpacked", dump(t, openTree(t, tree)), want)
	sealed := filepath.Join(t.TempDir(), "sealed")
	if _, err := Seal(t.Context(), tree, sealed); err != nil {
		t.Fatal(err)
	}
	diff(t, "sealed", dump(t, openTar(t, sealed)), want)
	tb, err := NewTree(filepath.Join(t.TempDir(), "tree"), UnpackOptions{Userxattr: true})
	if err != nil {
		t.Fatal(err)
	}
	addAll(t, tb, items)
	diff(t, "planted", dump(t, openTree(t, tb.to)), want)
	if SingleID() {
		changedByAStep(t, tree)
		return
	}

	stranger, _ := build(t, []item{{entry.Entry{Path: "f", Kind: entry.File, UID: 70000}, ""}})
	err = Unpack(t.Context(), stranger, "", filepath.Join(t.TempDir(), "tree"), UnpackOptions{Userxattr: true})
	var owner *OwnerError
	if !errors.As(err, &owner) || owner.Error() != "/f: owner 70000:0 does not exist in this user namespace" || owner.Hint() == "" {
		t.Errorf("an owner that is not mapped: %v", err)
	}
}

// changedByAStep: of what a step left, files that overlayfs copied keep the
// owners that they have below, and what the step made is its own, whatever
// attributes it sets.
func changedByAStep(t *testing.T, below string) {
	upper := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{upper, upper + "/dev"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(upper+"/dev/zz", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	owners := func() (uid, gid uint32) {
		if err := KeepOwners(upper, openTree(t, below)); err != nil {
			t.Fatal(err)
		}
		e, err := openTree(t, upper).Lstat("dev/zz")
		if err != nil {
			t.Fatal(err)
		}
		return e.UID, e.GID
	}
	for _, forged := range []string{"user.whittle.owner", "user.origin", "user.overlay.overlay.origin"} {
		if err := syscall.Setxattr(upper+"/dev/zz", forged, []byte("1000:1000"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if uid, gid := owners(); uid != 0 || gid != 0 {
		t.Errorf("a file that the step made is of %d:%d", uid, gid)
	}
	if err := syscall.Setxattr(upper+"/dev/zz", "user.overlay.origin", nil, 0); err != nil { // as overlayfs does
		t.Fatal(err)
	}
	if uid, gid := owners(); uid != 1000 || gid != 1000 {
		t.Errorf("a file that was copied up is of %d:%d, want 1000:1000", uid, gid)
	}
}
