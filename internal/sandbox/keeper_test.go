package sandbox

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ownKeeper is a keeper whose caller the test may end.
func ownKeeper(t *testing.T) *keeper {
	t.Helper()
	needSandbox(t)
	k, err := startKeeper()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func goneSoon(t *testing.T, name string) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(name); err != nil {
			return
		}
	}
	t.Errorf("%s is left", name)
}

// An OCI runtime makes groups until it has ended, which takes a while on a busy
// machine.
func TestTheKeeperRemovesGroupsWhenTheirMakerHasEnded(t *testing.T) {
	k, dir := ownKeeper(t), t.TempDir()
	group, begun := filepath.Join(dir, ownParent, "whittle-1-A"), filepath.Join(dir, "begun")
	cmd := exec.Command("sh", "-c", `trap 'sleep 0.5; mkdir -p "$0"; exit' TERM; >"$1"; while :; do sleep 0.01; done`, group, begun)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 1000 && unix.Access(begun, unix.F_OK) != nil; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	if err := k.keep(cmd.Process.Pid, unix.SIGTERM, []string{group, filepath.Dir(group)}); err != nil {
		t.Fatal(err)
	}
	unix.Close(k.sock)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the maker ended with %v", err)
	}
	goneSoon(t, filepath.Dir(group))
}

func TestTheKeeperKnowsGroupsBeforeTheyAreMade(t *testing.T) {
	k, dir := ownKeeper(t), t.TempDir()
	group := filepath.Join(dir, ownParent, "whittle-1-A")
	if err := k.send(0, []string{group, filepath.Dir(group)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	unix.Close(k.sock)
	goneSoon(t, filepath.Dir(group))

	// A process takes what was known without it upon itself.
	old := keptProcess{-1, 0, []string{"/a/whittle-1-A", "/a"}}
	its := keptProcess{3, unix.SIGKILL, []string{"/b", "/a/whittle-1-A", "/a"}}
	other := keptProcess{3, unix.SIGKILL, []string{"/a/whittle-1-B", "/a"}}
	if !its.replaces(old) || other.replaces(old) || old.replaces(its) {
		t.Error("what replaces what")
	}
}

func TestTheKeeperClosesWhatOutlivesItsCaller(t *testing.T) {
	needSandbox(t)
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r, w
	}
	// ends says whether whoever had the other end of r has closed it after a while.
	ends := func(r *os.File, within time.Duration) bool {
		if err := r.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err := r.Read(make([]byte, 1))
		return err == io.EOF
	}
	k := ownKeeper(t)
	r, w := pipe()
	k.hand(w)
	w.Close()
	if ends(r, 300*time.Millisecond) {
		t.Error("it is closed while the caller lives")
	}
	unix.Close(k.sock)
	if !ends(r, 20*time.Second) {
		t.Error("it is not closed after the caller's end")
	}

	// One that reads nothing is not waited for, however much there is.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for range 5000 {
		(&keeper{sock: fds[0]}).hand(r)
	}
}

// Of what a process has open its keeper has mounts only, and nothing that the process was given.
func TestTheKeeperHasMountsOnly(t *testing.T) {
	needSandbox(t)
	if _, err := theKeeper(); err != nil {
		t.Fatal(err)
	}
	open := func(name string, flags int) *os.File {
		fd, err := unix.Open(name, flags, 0) // without O_CLOEXEC, as a shell's 9>lock
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), name)
	}
	folder, mount, given := t.TempDir(), t.TempDir(), t.TempDir()
	// Descriptors that only name something are those of mounts.
	for _, f := range []*os.File{open(folder, unix.O_RDONLY), open(mount, unix.O_PATH)} {
		if err := Outlive(f); err != nil || f.Close() == nil {
			t.Errorf("%s: %v, or it is still open here", f.Name(), err)
		}
	}
	defer open(given, unix.O_RDONLY).Close()
	ownKeeper(t)
	for until := time.Now().Add(20 * time.Second); !elsewhere(mount); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the keeper does not have what names a mount")
		}
	}
	for _, name := range []string{folder, given} {
		if elsewhere(name) {
			t.Errorf("%s: another process has it", name)
		}
	}
}

// elsewhere says whether a process but this one has a file open.
func elsewhere(name string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	own := "/proc/" + strconv.Itoa(os.Getpid()) + "/"
	return slices.ContainsFunc(links, func(l string) bool {
		to, err := os.Readlink(l)
		return err == nil && to == name && !strings.HasPrefix(l, own)
	})
}

func TestNoPastaIsStartedForACallerThatEndsMeanwhile(t *testing.T) {
	needSandbox(t)
	if CheckPasta() != nil {
		t.Skip("needs pasta, of the package passt")
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var p pasta
	gate, err := p.start(ns)
	if err != nil {
		t.Fatal(err)
	}
	gate.Close() // as the end of the caller does
	if err := p.cmd.Wait(); err == nil || p.said.Len() > 0 {
		t.Errorf("it ended with %v: %s", err, &p.said)
	}
}

// The command may lose its parent-death signal with its first instruction, so
// that the keeper has to know it before.
func TestTheKeeperKnowsAProcessBeforeItsCommandRuns(t *testing.T) {
	needSandbox(t)
	sock, peer, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	root, err := os.Open(newRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := newSetup(&Config{Args: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	// A process that cannot be kept, since it was waited for already.
	gone := exec.Command("/proc/self/exe", "-test.run", "^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	p := &Process{proc: gone.Process}
	done := make(chan error, 1)
	go func() {
		_, _, err := p.talk(t.Context(), sock, &launch{config: &Config{Root: root, Args: []string{"true"}}, setup: s}, nil)
		sock.Close()
		done <- err
	}()
	if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
		t.Errorf("the init was told %d bytes, %v", len(b), err)
	}
	if err := <-done; err == nil {
		t.Error("it was kept")
	}
}
