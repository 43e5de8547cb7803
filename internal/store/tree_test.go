package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hostile fills dir with what a step can leave behind.
func hostile(dir, outside string) error {
	mk := func(name string, mode os.FileMode) error {
		return errors.Join(os.MkdirAll(dir+"/"+name, 0o700), os.WriteFile(dir+"/"+name+"/file", []byte("x"), 0), os.Chmod(dir+"/"+name, mode))
	}
	return errors.Join(
		mk("none", 0), mk("noread", 0o300), mk("nowrite", 0o500), mk("nosearch", 0o600), mk("sticky", 0o1777),
		os.Symlink(outside, dir+"/link"), os.Symlink(outside, dir+"/none-link"),
		os.Symlink("loop", dir+"/loop"),
		unix.Mkfifo(dir+"/fifo", 0),
		mk("a\nb \xff", 0o700),
		os.Chmod(dir, 0o500),
	)
}

// deep makes n folders inside each other, deeper than any path can say.
func deep(dir string, n int) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	for range n {
		if err := unix.Mkdirat(fd, strings.Repeat("d", 100), 0o700); err != nil {
			return err
		}
		next, err := unix.Openat(fd, strings.Repeat("d", 100), unix.O_DIRECTORY|unix.O_RDONLY, 0)
		unix.Close(fd)
		if err != nil {
			return err
		}
		fd = next
	}
	return unix.Close(fd)
}

func removeHostile(s *Store) error {
	outside := s.Dir() + "-outside"
	if err := os.MkdirAll(outside+"/sub", 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(outside+"/canary", nil, 0o600); err != nil {
		return err
	}
	t, err := s.Temp("hostile")
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(t.Path+"/t", 0o700), deep(t.Path, 1200), hostile(t.Path+"/t", outside)); err != nil {
		return err
	}
	if err := t.Remove(); err != nil {
		return err
	}
	if _, err := os.Stat(t.Path); err == nil {
		return errors.New("the tree is still there")
	}
	if _, err := os.Stat(outside + "/canary"); err != nil {
		return fmt.Errorf("a file outside: %w", err)
	}
	if fi, err := os.Stat(outside); err != nil || fi.Mode().Perm() != 0o700 {
		return fmt.Errorf("the mode of a folder outside was changed: %v, %v", fi.Mode(), err)
	}
	if left, err := readNames(s.path(tmpDir)); err != nil || len(left) > 0 {
		return fmt.Errorf("left in tmp: %v, %v", left, err)
	}
	return nil
}

func TestAttack07RemovingAHostileTreeStaysInside(t *testing.T) {
	check(t, removeHostile(open(t)))
}

// The same without any privilege, where modes are obeyed: this test binary
// runs again as an ordinary user.
func TestRemovingAHostileTreeWithoutPrivilege(t *testing.T) {
	if dir := os.Getenv("STORE_TEST_DIR"); dir != "" {
		few := syscall.Rlimit{Cur: 256, Max: 256} // fewer than the tree is deep
		check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		check(t, removeHostile(openIn(t, dir)))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: to become another user; the test above is the same here")
	}
	dir, err := os.MkdirTemp("", "store-test-")
	check(t, err)
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "test")
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	check(t, errors.Join(os.WriteFile(bin, self, 0o755), os.Chmod(dir, 0o777)))
	cmd := exec.Command(bin, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "STORE_TEST_DIR="+dir+"/store", "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRemovalAndMeasureAgreeOnBytes(t *testing.T) {
	s := open(t)
	tmp, err := s.Temp("test")
	check(t, err)
	check(t, os.WriteFile(tmp.Path+"/a", make([]byte, 100000), 0o600))
	check(t, os.Link(tmp.Path+"/a", tmp.Path+"/b"))
	bytes, entries, err := measure(tmp.Path)
	check(t, err)
	if entries != 3 || bytes < 100000 || bytes > 120000 {
		t.Errorf("measured %d bytes, %d entries", bytes, entries)
	}
	freed, err := s.removeTree(tmp.Path)
	check(t, err)
	if freed < 100000 || freed > bytes {
		t.Errorf("freed %d of %d bytes", freed, bytes)
	}
	check(t, tmp.Remove())
}
