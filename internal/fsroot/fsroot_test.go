package fsroot

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
)

// trap makes a root with links that lead out, and a canary outside.
func trap(t *testing.T) (r *Root, outside string) {
	t.Helper()
	top := t.TempDir()
	outside = filepath.Join(top, "outside")
	write(t, outside, "canary")
	dir := filepath.Join(top, "root")
	for _, d := range []string{"etc", "run", "var", "d/e"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root")
	write(t, filepath.Join(dir, "outside"), "inside")
	for name, to := range map[string]string{
		"var/run": "/run", "abs": outside, "up": "../outside", "far": "../../../../../../../../outside",
		"loop": "loop", "dirlink": "d", "updir": "..", "proc": "/proc/self/root",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if b, err := os.ReadFile(outside); err != nil || string(b) != "canary" {
			t.Errorf("the file outside is %q (%v)", b, err)
		}
	})
	return r, outside
}

func write(t *testing.T, p, text string) {
	t.Helper()
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFollowsLinksAsAProcessInTheRootWould(t *testing.T) {
	r, _ := trap(t)
	for name, want := range map[string]string{
		"etc/passwd": "root", "/etc/passwd": "root", "../../etc/passwd": "root",
		"up": "inside", "far": "inside", "updir/updir/outside": "inside", "dirlink/../outside": "inside",
	} {
		f, err := r.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, _ := io.ReadAll(f)
		f.Close()
		if string(b) != want {
			t.Errorf("%s is %q, want %q", name, b, want)
		}
	}
	for _, name := range []string{"abs", "loop", "proc/etc/passwd", "none"} {
		if f, err := r.Open(name, unix.O_RDONLY, 0); err == nil {
			f.Close()
			t.Errorf("%s could be opened", name)
		}
	}
	f, err := r.Open("var/run/new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if i, err := r.Lstat("run/new"); err != nil || i.Kind != entry.File {
		t.Errorf("run/new: %+v %v", i, err)
	}
}

// Every call on physical paths refuses a link on the way, whatever it is.
func TestPhysicalPathsRefuseLinks(t *testing.T) {
	r, _ := trap(t)
	calls := map[string]func(string) error{
		"OpenNoFollow": func(p string) error {
			f, err := r.OpenNoFollow(p, unix.O_RDONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		},
		"create":    func(p string) error { _, err := r.OpenNoFollow(p, unix.O_CREAT|unix.O_WRONLY, 0o644); return err },
		"Lstat":     func(p string) error { _, err := r.Lstat(p); return err },
		"Mkdir":     func(p string) error { return r.Mkdir(p, 0o755) },
		"MkdirAll":  func(p string) error { return r.MkdirAll(p, 0o755) },
		"Symlink":   func(p string) error { return r.Symlink("x", p) },
		"Mknod":     func(p string) error { return r.Mknod(p, unix.S_IFIFO|0o600, 0, 0) },
		"Link":      func(p string) error { return r.Link("etc/passwd", p) },
		"Link from": func(p string) error { return r.Link(p, "fresh") },
		"Rename":    func(p string) error { return r.Rename("etc/passwd", p) },
		"Remove":    func(p string) error { return r.Remove(p) },
		"RemoveAll": func(p string) error { return r.RemoveAll(p) },
		"Chown":     func(p string) error { return r.Chown(p, 0, 0) },
		"Chmod":     func(p string) error { return r.Chmod(p, 0o777) },
		"Utimes":    func(p string) error { return r.Utimes(p, entry.Time{}) },
		"Setxattr":  func(p string) error { return r.Setxattr(p, "user.a", "b") },
		"Remxattr":  func(p string) error { return r.Removexattr(p, "user.a") },
		"Getxattrs": func(p string) error { _, err := r.Getxattrs(p); return err },
		"ReadDir":   func(p string) error { _, err := r.ReadDir(p); return err },
		"Readlink":  func(p string) error { _, err := r.Readlink(p); return err },
	}
	for name, call := range calls {
		for _, p := range []string{"updir/outside", "updir/new", "dirlink/e", "proc/etc", "..", "../outside", "d/../../outside"} {
			if err := call(p); err == nil {
				t.Errorf("%s(%q) worked", name, p)
			}
		}
	}
}

func TestTheLastLinkIsWorkedOnItself(t *testing.T) {
	r, outside := trap(t)
	before, _ := os.Stat(outside)
	if err := r.Utimes("abs", entry.Time{Sec: 42}); err != nil {
		t.Error(err)
	}
	if err := r.Chown("abs", uint32(os.Getuid()), uint32(os.Getgid())); err != nil {
		t.Error(err)
	}
	if err := r.Chmod("abs", 0o777); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("chmod of a link: %v", err)
	}
	if i, err := r.Lstat("abs"); err != nil || i.Kind != entry.Symlink || i.Mtime.Sec != 42 || i.Link != outside {
		t.Errorf("link is %+v (%v)", i, err)
	}
	if err := r.Link("abs", "abs2"); err != nil {
		t.Error(err)
	}
	if err := r.RemoveAll("abs"); err != nil {
		t.Error(err)
	}
	if err := r.Remove("up"); err != nil {
		t.Error(err)
	}
	after, err := os.Stat(outside)
	if err != nil || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		t.Errorf("the target was changed: %v %v (%v)", before, after, err)
	}
}

func TestModesAreExactWhateverTheUmask(t *testing.T) {
	r, _ := trap(t)
	if err := r.Mkdir("m", 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := r.Mknod("m/p", unix.S_IFIFO|0o666, 0, 0); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]uint32{"m": 0o1777, "m/p": 0o666} {
		if i, err := r.Lstat(p); err != nil || i.Mode != want {
			t.Errorf("%s has mode %o (%v), want %o", p, i.Mode, err, want)
		}
	}
}

// A tool that read such a file as it reads /etc/passwd would hang, or be fed
// for ever, or show a file of the host.
func TestAttack08_ReadFileTakesOnlySmallRegularFilesOfTheRoot(t *testing.T) {
	r, _ := trap(t)
	if err := r.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Symlink("fifo", "tofifo"); err != nil {
		t.Fatal(err)
	}
	if err := r.Mknod("zero", unix.S_IFCHR|0o600, 1, 5); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	f, err := r.Open("big", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	f.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, p := range []string{"fifo", "tofifo", "zero", "big", "etc", "abs", "loop", "none"} {
			if b, err := r.ReadFile(p, 1<<16); err == nil {
				t.Errorf("%s was read: %d bytes", p, len(b))
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("reading hangs")
	}
	if b, err := r.ReadFile("up", 6); err != nil || string(b) != "inside" {
		t.Errorf("a file just within the limit: %q %v", b, err)
	}
	if _, err := r.ReadFile("up", 5); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a file just over the limit: %v", err)
	}
}

func TestPathsLongerThanTheKernelsLimitWork(t *testing.T) {
	r, _ := trap(t)
	el := strings.Repeat("n", 200)
	p := "deep"
	if err := r.Mkdir(p, 0o755); err != nil {
		t.Fatal(err)
	}
	for len(p) < 9000 {
		p += "/" + el
		if err := r.Mkdir(p, 0o755); err != nil {
			t.Fatalf("at %d: %v", len(p), err)
		}
	}
	if i, err := r.Lstat(p); err != nil || i.Kind != entry.Dir {
		t.Errorf("%+v %v", i, err)
	}
	if err := entry.Walk(r.FS(), "deep", func(entry.Entry) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := r.RemoveAll("deep"); err != nil {
		t.Error(err)
	}
	if _, err := r.Lstat("deep"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after RemoveAll: %v", err)
	}
}

// While a writer swaps a folder for a link that leads out, nothing outside
// is ever read or removed.
func TestASwappedFolderNeverLeadsOut(t *testing.T) {
	r, outside := trap(t)
	dir := r.Name()
	if err := os.Mkdir(filepath.Join(filepath.Dir(outside), "victim"), 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(filepath.Dir(outside), "victim", "f")
	write(t, victim, "canary")
	if err := os.Symlink(filepath.Dir(victim), filepath.Join(dir, "evil")); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(int(r.Dir().Fd()), "d", int(r.Dir().Fd()), "evil", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 1000 {
		if f, err := r.OpenNoFollow("d/f", unix.O_RDONLY, 0); err == nil {
			t.Error("opened a file that the folder does not have")
			f.Close()
		}
		if b, err := r.ReadFile("d/f", 100); err == nil {
			t.Errorf("read %q", b)
		}
		r.RemoveAll("d/f")
	}
	close(stop)
	<-stopped
	if b, err := os.ReadFile(victim); err != nil || string(b) != "canary" {
		t.Errorf("victim is %q (%v)", b, err)
	}
}

func TestTheTreeAsEntries(t *testing.T) {
	r, _ := trap(t)
	if err := r.Link("etc/passwd", "etc/shadow"); err != nil {
		t.Fatal(err)
	}
	fsys := r.FS()
	list, err := fsys.ReadDir("etc")
	if err != nil || len(list) != 2 || list[0].Path != "etc/passwd" || list[0].Inode == 0 || list[0].Inode != list[1].Inode {
		t.Errorf("etc is %+v (%v)", list, err)
	}
	if e, err := fsys.Lstat("var/run"); err != nil || e.Link != "/run" || e.Inode != 0 {
		t.Errorf("var/run is %+v (%v)", e, err)
	}
	for _, p := range []string{"none", "etc/passwd/x", "dirlink/e", "none/x"} {
		if _, err := fsys.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want one that is ErrNotExist", p, err)
		}
		if _, err := fsys.Open(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v, want one that is ErrNotExist", p, err)
		}
	}
	for _, p := range []string{"etc", "var/run"} {
		if f, err := fsys.Open(p); err == nil {
			f.Close()
			t.Errorf("%s could be opened", p)
		}
	}
	if p, err := entry.Resolve(fsys, "var/run/x", true); err != nil || p != "run/x" {
		t.Errorf("resolved to %s (%v)", p, err)
	}
}

func TestAttributesOfFilesAndLinks(t *testing.T) {
	r, _ := trap(t)
	long := strings.Repeat("v", 3000)
	if err := r.Setxattr("outside", "user.long", long); err != nil {
		t.Skipf("needs user attributes: %v", err)
	}
	if err := r.Setxattr("outside", "user.empty", ""); err != nil {
		t.Fatal(err)
	}
	got, err := r.Getxattrs("outside")
	if err != nil || len(got) != 2 || got["user.long"] != long {
		t.Errorf("%d attributes (%v)", len(got), err)
	}
	f, err := r.Open("outside", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if i, err := Stat(f); err != nil || len(i.Xattrs) != 2 || i.Size != 6 {
		t.Errorf("stat says %+v (%v)", i, err)
	}
	if got, err := r.Getxattrs("up"); err != nil || got != nil {
		t.Errorf("a link has %v (%v)", got, err)
	}
	if err := r.LinkFile(f, "d/e/linked"); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Lstat("d/e/linked"); err != nil || i.Nlink != 2 {
		t.Errorf("linked: %+v (%v)", i, err)
	}
}
