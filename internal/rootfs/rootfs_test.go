package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/store"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	// A user's builds run in a user namespace, and so do a user's tests.
	if os.Geteuid() != 0 {
		if code, err := sandbox.ReexecInUserNS(); err == nil {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// inUserNS says which sort of overlay attributes this process can write.
func inUserNS(t testing.TB) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// rig is a store with roots on it.
type rig struct {
	t     testing.TB
	store *store.Store
	*Roots
}

func newRig(t testing.TB, p Provider) *rig {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Owner: store.Owner{Kind: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	user := inUserNS(t)
	if _, err := Choose(s.Dir(), string(p), user); err != nil {
		t.Skipf("needs the %s provider: %v", p, err)
	}
	r := &rig{t, s, New(s, func() (Provider, error) { return p, nil }, user)}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// file is an entry with its content.
type file struct {
	entry.Entry
	text string
}

func dir(path string, mode, owner uint32) file {
	return file{entry.Entry{Path: path, Kind: entry.Dir, Mode: mode, UID: owner, GID: owner, Mtime: entry.Time{Sec: 1e9}}, ""}
}

func text(path, s string) file {
	return file{entry.Entry{Path: path, Mode: 0o644, Size: int64(len(s)), Mtime: entry.Time{Sec: 1e9}}, s}
}

func gone(path string) file {
	return file{entry.Entry{Path: path, Kind: entry.Whiteout}, ""}
}

func opaque(f file) file {
	f.Opaque = true
	return f
}

// tar commits a layer in tar form.
func (r *rig) tar(files ...file) digest.Digest {
	r.t.Helper()
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := layer.Create(tmp.Path)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		if err := b.Add(f.Entry, strings.NewReader(f.text)); err != nil {
			r.t.Fatal(err)
		}
	}
	meta, err := b.Finish()
	if err != nil {
		r.t.Fatal(err)
	}
	return r.commit(tmp, meta.DiffID)
}

// tree commits a layer in tree form.
func (r *rig) tree(name string, files ...file) digest.Digest {
	r.t.Helper()
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := layer.NewTree(filepath.Join(tmp.Path, layer.TreeName), layer.UnpackOptions{Userxattr: r.UserNS()})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range files {
		if err := b.Add(f.Entry, strings.NewReader(f.text)); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := b.Finish(); err != nil {
		r.t.Fatal(err)
	}
	return r.commit(tmp, digest.Of([]byte(name)))
}

func (r *rig) commit(tmp *store.Temp, id digest.Digest) digest.Digest {
	r.t.Helper()
	if err := r.store.CommitLayer(tmp, id); err != nil {
		r.t.Fatal(err)
	}
	return id
}

// mounted mounts chain with an upper until the test ends.
func (r *rig) mounted(chain Chain) (*os.File, Upper) {
	r.t.Helper()
	up := r.upper()
	m, err := r.Mount(r.t.Context(), chain, &up)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { m.Close() })
	return m, up
}

func (r *rig) upper() Upper {
	r.t.Helper()
	// Below tmp/, where steps have theirs.
	tmp, err := r.store.Temp("test")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { tmp.Remove() })
	up := Upper{Dir: filepath.Join(tmp.Path, "tree"), Work: filepath.Join(tmp.Path, "work"), Volatile: true}
	for _, d := range []string{up.Dir, up.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	return up
}

// at is the file system at a mount.
func at(t testing.TB, m *os.File) entry.FS {
	t.Helper()
	fd, err := unix.Openat(int(m.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	root := fsroot.FromFd(os.NewFile(uintptr(fd), "root"))
	t.Cleanup(func() { root.Close() })
	return root.FS()
}

// lines describes a whole file system, one line a file.
func lines(t testing.TB, fsys entry.FS) []string {
	t.Helper()
	var out []string
	groups := map[uint64]string{}
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		line := fmt.Sprintf("%s %s %o %d:%d %d", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Mtime.Sec)
		for n, v := range e.Xattrs {
			if !strings.Contains(n, ".overlay.") {
				line += fmt.Sprintf(" %s=%q", n, v)
			}
		}
		if e.Inode != 0 {
			if groups[e.Inode] == "" {
				groups[e.Inode] = e.Path
			}
			line += " link of " + groups[e.Inode]
		}
		switch e.Kind {
		case entry.Symlink:
			line += " -> " + e.Link
		case entry.File:
			f, err := fsys.Open(e.Path)
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func diff(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// everyWay runs a test with each provider and each way to mount.
func everyWay(t *testing.T, run func(t *testing.T, r *rig)) {
	for _, p := range []Provider{Erofs, Tree} {
		for _, old := range []bool{false, true} {
			name := string(p)
			if old {
				name += " with mount(2)"
			}
			t.Run(name, func(t *testing.T) {
				needRoot(t)
				r := newRig(t, p)
				r.old.Store(old)
				run(t, r)
			})
		}
	}
}

func TestViewsAndMountsShowTheSameFiles(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		linked := text("usr/a", "linked")
		linked.Inode = 7
		second := linked
		second.Path = "usr/b"
		user := text("usr/attr", "x")
		user.Xattrs = map[string]string{"user.note": "kept"}
		base := r.tar(
			dir(".", 0o755, 0), dir("etc", 0o751, 3), text("etc/passwd", "root"), text("etc/shadow", "secret"),
			dir("opt", 0o755, 0), dir("opt/old", 0o755, 0), text("opt/old/x", "x"),
			dir("usr", 0o2775, 8), linked, user, second,
			file{entry.Entry{Path: "usr/link", Kind: entry.Symlink, Mode: 0o777, Link: "/etc/passwd", Mtime: entry.Time{Sec: 5}}, ""},
		)
		implied := r.tar(text("etc/conf", "implied parent"), text("new/deep/file", "implied, new"))
		deletes := r.tree("deletes", dir("etc", 0o751, 3), gone("etc/shadow"), opaque(dir("opt", 0o700, 9)), text("opt/only", "left"))
		again := r.tar(text("etc/shadow", "another"))
		anew := r.tar(opaque(dir(".", 0o755, 0)), text("etc/anew", "all that is left"))
		chain := Chain{base, implied, deletes, again, anew, implied}
		for i := range chain {
			v, err := r.View(chain[:i+1])
			if err != nil {
				t.Fatal(err)
			}
			m, _ := r.mounted(chain[:i+1])
			diff(t, fmt.Sprintf("mount of %d layers", i+1), lines(t, at(t, m)), lines(t, v))
			ro, err := r.Mount(t.Context(), chain[:i+1], nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ro.Close()
			// A root that only an upper can set right is not compared.
			diff(t, fmt.Sprintf("read-only mount of %d layers", i+1), lines(t, at(t, ro))[1:], lines(t, v)[1:])
			if _, err := unix.Openat(int(ro.Fd()), "w", unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
				t.Error("a root without an upper can be written to")
			}
		}
	})
}

func TestADirectoryThatALayerImpliesIsThatOfTheLayersBelow(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		implied := r.tar(text("srv/file", "x"))
		one := Chain{r.tar(dir("srv", 0o710, 11)), implied}
		two := Chain{r.tar(dir("srv", 0o750, 22)), implied}
		for _, c := range []struct {
			chain Chain
			want  string
		}{
			{one, "srv directory 710 11:11"}, {two, "srv directory 750 22:22"},
			{Chain{implied}, "srv directory 755 0:0"},
			{two.Push(r.tar(text("other", ""))).Push(implied), "srv directory 750 22:22"},
		} {
			v, err := r.View(c.chain)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := r.mounted(c.chain)
			for _, fsys := range []entry.FS{v, at(t, m)} {
				e, err := fsys.Lstat("srv")
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%s %s %o %d:%d", e.Path, e.Kind, e.Mode, e.UID, e.GID); got != c.want {
					t.Errorf("%T: %s, want %s", fsys, got, c.want)
				}
			}
		}
	})
}

func TestALayerThatRepeatsIsStackedOnce(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		empty := r.tar()
		a, b := r.tar(text("x", "first"), text("y", "y")), r.tar(text("x", "second"), gone("y"))
		run := r.tree("run", text("z", "z"))
		chain := Chain{empty, a, empty, b, run, empty, a, run, empty}
		v, err := r.View(chain)
		if err != nil {
			t.Fatal(err)
		}
		m, _ := r.mounted(chain)
		diff(t, "mount", lines(t, at(t, m))[1:], lines(t, v)[1:])
		if got := readAt(t, m, "x") + readAt(t, m, "y"); got != "firsty" {
			t.Errorf("x and y are %q", got)
		}
	})
}

func TestAChainMayHaveAsManyLayersAsOverlayfsStacks(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		if p, _ := r.Provider(); r.old.Load() == (p == Erofs) {
			return // each provider once and each way to mount once: it takes seconds
		}
		var chain Chain
		for i := range maxLowers + 1 {
			chain = chain.Push(r.tar(text("last", fmt.Sprint(i)), text(fmt.Sprintf("f%d", i), "x")))
		}
		for _, n := range []int{130, maxLowers} {
			m, _ := r.mounted(chain[:n])
			if got := readAt(t, m, "last"); got != fmt.Sprint(n-1) {
				t.Errorf("%d layers: last is %s", n, got)
			}
			if got := readAt(t, m, "f0"); got != "x" {
				t.Errorf("%d layers: the lowest shows %q", n, got)
			}
		}
		up := r.upper()
		_, err := r.Mount(t.Context(), chain, &up)
		var deep *DepthError
		if !errors.As(err, &deep) || deep.Layers != maxLowers+1 || deep.Hint() == "" {
			t.Errorf("%d layers: %v, want a DepthError with a way out", len(chain), err)
		}
	})
}

func TestScratchIsAnEmptyRoot(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		m, up := r.mounted(nil)
		diff(t, "scratch", lines(t, at(t, m)), []string{". directory 755 0:0 0"})
		fd, err := unix.Openat(int(m.Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		if !exists(filepath.Join(up.Dir, "new")) {
			t.Error("what is written does not land in the upper")
		}
		other, _ := r.mounted(nil)
		if l := lines(t, at(t, other)); len(l) != 1 {
			t.Errorf("another root of scratch shows %q", l)
		}
		ro, err := r.Mount(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ro.Close()
	})
}

func TestAFreshUpperTakesTheRootOfTheLayers(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		root := dir(".", 0o1777, 5)
		root.Xattrs = map[string]string{"user.root": "yes"}
		chain := Chain{r.tar(root, text("a", "a")), r.tar(text("b", "says nothing of the root"))}
		m, up := r.mounted(chain)
		want := `. directory 1777 5:5 1000000000 user.root="yes"`
		if got := lines(t, at(t, m))[0]; got != want {
			t.Errorf("root is %s, want %s", got, want)
		}
		// A container's root that was changed is not changed back.
		if err := unix.Fchmodat(int(m.Fd()), ".", 0o711, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(up.Dir, "made"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		m.Close()
		up.Work += "2"
		os.Mkdir(up.Work, 0o755)
		again, err := r.Mount(t.Context(), chain, &up)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got := lines(t, at(t, again))[0]; !strings.HasPrefix(got, ". directory 711 5:5") {
			t.Errorf("mounted again the root is %s", got)
		}
	})
}

func TestMountsAreSeenByNobody(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		before, _ := os.ReadFile("/proc/self/mountinfo")
		m, _ := r.mounted(Chain{r.tar(text("a", "a")), r.tree("t", text("b", "b"))})
		if readAt(t, m, "a") != "a" {
			t.Error("nothing is mounted")
		}
		after, _ := os.ReadFile("/proc/self/mountinfo")
		if string(before) != string(after) {
			t.Errorf("a mount is visible:\n%s", after)
		}
	})
}

func TestAnErrorIsNotRemembered(t *testing.T) {
	needRoot(t)
	r := newRig(t, Tree)
	chain := Chain{r.tar(text("a", "a"))}
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	up := r.upper()
	if _, err := r.Mount(stopped, chain, &up); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Fatalf("mount in a build that was stopped: %v", err)
	}
	m, _ := r.mounted(chain)
	if got := readAt(t, m, "a"); got != "a" {
		t.Errorf("a is %q", got)
	}
}

func TestAViewOfALayerThatIsGoneIsAnError(t *testing.T) {
	r := newRig(t, Tree)
	if _, err := r.View(Chain{digest.Of([]byte("none"))}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	id := r.tar(text("a", "a"))
	if _, err := r.View(Chain{id}); err != nil {
		t.Error(err)
	}
}

func TestManyMayAskForTheSameMountAtOnce(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		chain := Chain{r.tar(dir("d", 0o700, 4)), r.tar(text("d/a", "a"))}
		var wg sync.WaitGroup
		for range 8 {
			up := r.upper()
			wg.Go(func() {
				m, err := r.Mount(t.Context(), chain, &up)
				if err != nil {
					t.Error(err)
					return
				}
				defer m.Close()
				if got := readAt(t, m, "d/a"); got != "a" {
					t.Errorf("d/a is %q", got)
				}
			})
		}
		wg.Wait()
	})
}

func TestMemoMakesOnceAndForgetsErrors(t *testing.T) {
	var m memo[int]
	calls := 0
	fail := errors.New("no")
	if _, err := m.get("a", func() (int, error) { calls++; return 0, fail }); err != fail {
		t.Fatalf("error %v", err)
	}
	for range 3 {
		if v, err := m.get("a", func() (int, error) { calls++; return 7, nil }); v != 7 || err != nil {
			t.Fatalf("got %d, %v", v, err)
		}
	}
	if calls != 2 {
		t.Errorf("made %d times, want one failure and one success", calls)
	}
	// Who waited for somebody else's failure tries for itself.
	inside, leave := make(chan struct{}), make(chan struct{})
	go m.get("b", func() (int, error) { close(inside); <-leave; return 0, fail })
	<-inside
	got := make(chan int)
	go func() {
		v, _ := m.get("b", func() (int, error) { return 8, nil })
		got <- v
	}()
	close(leave)
	if v := <-got; v != 8 {
		t.Errorf("the second got %d", v)
	}
	var drained []int
	if err := m.drain(func(v int) error { drained = append(drained, v); return nil }); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(drained); !slices.Equal(drained, []int{7, 8}) {
		t.Errorf("drained %v", drained)
	}
}

func TestMountPointsAreInTheMountedRootAndInNoViewAndNoLayer(t *testing.T) {
	everyWay(t, func(t *testing.T, r *rig) {
		up := r.upper()
		up.MountPoints = true
		m, err := r.Mount(t.Context(), nil, &up)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		want := []string{"dev", "etc", "etc/hosts", "etc/resolv.conf", "proc", "sys"}
		var got []string
		err = entry.Walk(at(t, m), ".", func(e entry.Entry) error {
			if e.Path != "." {
				got = append(got, e.Path)
			}
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("the mounted root has %v (%v), want %v", got, err, want)
		}
		view, err := r.View(nil)
		if err != nil {
			t.Fatal(err)
		}
		if kids, _ := view.ReadDir("."); len(kids) > 0 {
			t.Errorf("the view has %v", kids)
		}
		if names, _ := os.ReadDir(up.Dir); len(names) > 0 {
			t.Errorf("the upper has %v", names)
		}
	})
}
