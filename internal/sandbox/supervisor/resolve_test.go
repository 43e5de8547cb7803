package supervisor

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPathsThatMayBeServedAreTakenALookAt(t *testing.T) {
	for name, want := range map[string]bool{
		"/proc/self/status": true, "/proc": true, "/sys/class": true, "//proc//cpuinfo": true, "/./proc/1": true, "/usr/../proc/1": true,
		"/proc/../etc/passwd": true, "/dev/fd/3": true, "/dev/stdin": true, "/dev/pts/0": true,
		"/etc/passwd": false, "/.git": false, "/src/.hidden/../f": false, "/dev/null": false, "/home//x": false, "/home/proc": false,
	} {
		if got := served(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// A link of /proc to something outside of the root is not opened: the program
// of an init, say, which is this one until it is the command.
func TestMagicLinksLeadToFilesOfTheRootOnly(t *testing.T) {
	root := t.TempDir()
	inside, err := os.Create(root + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	outside, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s := &Server{rootPath: root}
	for real, want := range map[string]error{
		"exe": unix.EACCES, "cwd": unix.EACCES, "root": unix.EACCES, "ns/mnt": unix.EACCES,
		fmt.Sprintf("fd/%d", outside.Fd()): unix.EACCES,
		fmt.Sprintf("fd/%d", inside.Fd()):  nil,
		fmt.Sprintf("fd/%d", r.Fd()):       nil,
	} {
		real = fmt.Sprintf("/proc/%d/%s", os.Getpid(), real)
		text, err := os.Readlink(real)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.checkMagic(node{kind: magic, real: real, text: text}); got != want {
			t.Errorf("%s, which is %s: got %v, want %v", real, text, got, want)
		}
	}
}

func TestOnlyDescendantsAreServed(t *testing.T) {
	s := &Server{pid: os.Getppid()}
	if !s.mine(os.Getpid()) {
		t.Error("a child is not")
	}
	for _, pid := range []int{0, 1, -1, os.Getppid(), 1 << 30} {
		if s.mine(pid) {
			t.Errorf("%d is", pid)
		}
	}
	s.pid = os.Getpid()
	if s.mine(os.Getpid()) || s.mine(unix.Gettid()) {
		t.Error("the server itself is")
	}
}

func TestAPathThatStartsInAMirrorMeansWhatTheMirrorShows(t *testing.T) {
	m := &mirrors{of: map[int]string{7: "/proc/12/fd"}}
	for name, want := range map[string]string{
		"/proc/.d/7": "/proc/12/fd", "/proc/.d/7/3": "/proc/12/fd/3", "/proc/.d/8/3": "/proc/.d/8/3", "/proc/.d/x": "/proc/.d/x", "/etc": "/etc",
	} {
		if got := m.meant(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
