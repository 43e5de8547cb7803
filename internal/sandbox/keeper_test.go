package sandbox

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	if err := k.send(outlive, nil, unix.UnixRights(int(w.Fd()))); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if ends(r, 300*time.Millisecond) {
		t.Error("it is closed while the caller lives")
	}
	unix.Close(k.sock)
	if !ends(r, 20*time.Second) {
		t.Error("it is not closed after the caller's end")
	}

	// This process's own keeper ends with this process only.
	r, w = pipe()
	if _, err := theKeeper(); err != nil {
		t.Fatal(err)
	}
	if err := Outlive(w); err != nil || w.Close() == nil {
		t.Errorf("%v, or it is still open here", err)
	}
	if ends(r, 300*time.Millisecond) {
		t.Error("the keeper does not have it")
	}
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
