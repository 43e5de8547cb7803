package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
)

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
			v, err := r.View(t.Context(), chain[:i+1])
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
			v, err := r.View(t.Context(), c.chain)
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
		v, err := r.View(t.Context(), chain)
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
	if _, err := r.View(t.Context(), Chain{digest.Of([]byte("none"))}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	id := r.tar(text("a", "a"))
	if _, err := r.View(t.Context(), Chain{id}); err != nil {
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
		view, err := r.View(t.Context(), nil)
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
