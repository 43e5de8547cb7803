package rootfs

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// garden is a rig with planted roots.
type garden struct {
	*rig
	*Plants
}

func newGarden(t *testing.T) *garden {
	t.Helper()
	needRoot(t)
	if inUserNS(t) {
		t.Skip("needs root of the machine, whom a chroot is for: a user's namespace mounts")
	}
	r := newRig(t, Chroot)
	g := &garden{r, &Plants{Roots: r.Roots}}
	t.Cleanup(func() {
		if err := g.Plants.Close(); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(filepath.Join(r.store.Dir(), "tmp"))
		if err != nil || len(left) > 0 {
			t.Errorf("left in tmp: %v, %v", left, err)
		}
	})
	return g
}

func (g *garden) take(chain Chain) *Planted {
	g.t.Helper()
	p, err := g.Take(g.t.Context(), chain)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// step makes the layer of what was changed in p and returns it.
func (g *garden) step(p *Planted) digest.Digest {
	g.t.Helper()
	tmp, err := g.store.Temp("test")
	if err != nil {
		g.t.Fatal(err)
	}
	b, err := layer.Create(tmp.Path)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Changes(g.t.Context(), p, b); err != nil {
		g.t.Fatal(err)
	}
	meta, err := b.Finish()
	if err != nil {
		g.t.Fatal(err)
	}
	return g.commit(tmp, meta.DiffID)
}

// names lists a layer.
func (g *garden) names(id digest.Digest) []string {
	g.t.Helper()
	v, err := layer.OpenTar(g.store.LayerDir(id), "")
	if err != nil {
		g.t.Fatal(err)
	}
	defer v.Close()
	var out []string
	err = entry.Walk(v, ".", func(e entry.Entry) error {
		if e.Path != "." || !v.RootImplied() {
			out = append(out, fmt.Sprintf("%s %s", e.Path, e.Kind))
		}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

func (g *garden) files(p *Planted) entry.FS {
	g.t.Helper()
	root, err := fsroot.Open(p.Dir())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { root.Close() })
	return root.FS()
}

func (g *garden) view(chain Chain) entry.FS {
	g.t.Helper()
	v, err := g.View(g.t.Context(), chain)
	if err != nil {
		g.t.Fatal(err)
	}
	return v
}

// withoutTimesOfFolders are lines in which the times of folders do not count,
// nor that a file had other names in the layer that it is from.
func withoutTimesOfFolders(in []string) []string {
	out := slices.Clone(in)
	names := map[string]int{}
	linked := regexp.MustCompile(` link of \S+`)
	for _, l := range out {
		names[linked.FindString(l)]++
	}
	for i, l := range out {
		if link := linked.FindString(l); names[link] == 1 {
			out[i] = strings.Replace(l, link, "", 1)
		}
		if f := strings.Fields(l); f[1] == "directory" {
			out[i] = strings.Join(f[:4], " ")
		}
	}
	return out
}

func (g *garden) base() Chain {
	linked := text("usr/a", "linked")
	linked.Inode = 7
	second := linked
	second.Path = "usr/b"
	program := text("usr/ping", "a program")
	program.Mode = 0o755
	program.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	big := text("usr/big", strings.Repeat("0123456789abcdef", 20000))
	return Chain{g.tar(
		dir(".", 0o755, 0), dir("etc", 0o751, 3), text("etc/passwd", "root"), text("etc/shadow", "secret"),
		dir("opt", 0o755, 0), dir("opt/old", 0o755, 0), text("opt/old/x", "x"), text("opt/old/y", ""),
		dir("usr", 0o2775, 8), linked, second, program, big,
		file{entry.Entry{Path: "usr/link", Kind: entry.Symlink, Mode: 0o777, Link: "/etc/passwd", Mtime: entry.Time{Sec: 5}}, ""},
		file{entry.Entry{Path: "usr/fifo", Kind: entry.Fifo, Mode: 0o622, UID: 4, Mtime: entry.Time{Sec: 5}}, ""},
		file{entry.Entry{Path: "usr/tty", Kind: entry.Char, Mode: 0o620, GID: 5, Major: 5, Minor: 1, Mtime: entry.Time{Sec: 5}}, ""},
	)}
}

func TestAPlantedRootIsWhatTheLayersShow(t *testing.T) {
	g := newGarden(t)
	chain := append(g.base(),
		g.tar(text("etc/conf", "implied parent"), text("new/deep/file", "implied, new")),
		g.tree("deletes", dir("etc", 0o751, 3), gone("etc/shadow"), opaque(dir("opt", 0o700, 9)), text("opt/only", "left")),
		g.tar(text("etc/shadow", "another"), text("usr", "a file in the place of a folder")),
		g.tar(dir("usr", 0o711, 1), dir("etc/shadow", 0o700, 2), text("etc/shadow/in", "in")),
		g.tar(opaque(dir(".", 0o710, 1)), text("etc/anew", "all that is left")))
	for i := range chain {
		want := lines(t, g.view(chain[:i+1]))
		p := g.take(chain[:i+1])
		diff(t, fmt.Sprintf("a root of %d layers", i+1), lines(t, g.files(p)), want)
		g.Drop(p)
		for from := range i + 1 {
			p := g.take(chain[:from])
			g.Keep(p, chain[:from])
			q := g.take(chain[:i+1])
			if p != q {
				t.Fatalf("the root of %d layers was not taken for one of %d", from, i+1)
			}
			diff(t, fmt.Sprintf("a root of %d layers with %d more", from, i+1-from), lines(t, g.files(q)), want)
			if n := g.names(g.step(q)); len(n) > 0 {
				t.Errorf("nothing was done in it, and it changed %q", n)
			}
			g.Drop(q)
		}
	}
}

func TestARootIsNeverSharedAndNothingInItIs(t *testing.T) {
	g := newGarden(t)
	chain := g.base()
	p, q := g.take(chain), g.take(chain)
	if p.Dir() == q.Dir() {
		t.Fatal("two have one root")
	}
	if err := os.WriteFile(filepath.Join(p.Dir(), "usr/big"), []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	diff(t, "the other root", lines(t, g.files(q)), lines(t, g.view(chain)))
	g.Keep(q, chain)
	if r := g.take(chain); r != q {
		t.Error("a root that was kept was not taken")
	} else if s := g.take(chain); s == q {
		t.Error("a root that has an owner was taken")
	} else {
		g.Drop(s)
		g.Drop(r)
	}
	g.Drop(p)
}

func TestALayerSaysWhatAStepChangedAndNoMore(t *testing.T) {
	at := func(p *Planted, name string) string { return filepath.Join(p.Dir(), name) }
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1500000000, 0)
	for name, c := range map[string]struct {
		do   func(p *Planted)
		want []string
	}{
		"nothing":          {func(*Planted) {}, nil},
		"a file in a file": {func(p *Planted) { must(os.WriteFile(at(p, "etc/passwd"), []byte("toor"), 0o644)) }, []string{"etc directory", "etc/passwd file"}},
		"the time of one":  {func(p *Planted) { must(os.Chtimes(at(p, "etc/passwd"), now, now)) }, []string{"etc directory", "etc/passwd file"}},
		"of a folder":      {func(p *Planted) { must(os.Chtimes(at(p, "etc"), now, now)) }, nil},
		"the mode of one":  {func(p *Planted) { must(os.Chmod(at(p, "etc"), 0o700)) }, []string{"etc directory"}},
		"the same owner":   {func(p *Planted) { must(os.Chown(at(p, "usr/big"), 0, 0), os.Chown(at(p, "etc"), 3, 3)) }, nil},
		"an attribute":     {func(p *Planted) { must(unix.Setxattr(at(p, "etc"), "user.x", []byte("y"), 0)) }, []string{"etc directory"}},
		"the root's mode":  {func(p *Planted) { must(os.Chmod(p.Dir(), 0o700)) }, []string{". directory"}},
		"came and went":    {func(p *Planted) { must(os.Mkdir(at(p, "opt/x"), 0o755), os.Remove(at(p, "opt/x"))) }, nil},
		"removed":          {func(p *Planted) { must(os.RemoveAll(at(p, "opt"))) }, []string{"opt whiteout"}},
		"removed in part":  {func(p *Planted) { must(os.Remove(at(p, "opt/old/x"))) }, []string{"opt directory", "opt/old directory", "opt/old/x whiteout"}},
		"one name of two":  {func(p *Planted) { must(os.Remove(at(p, "usr/a"))) }, []string{"usr directory", "usr/a whiteout"}},
		"a name more":      {func(p *Planted) { must(os.Link(at(p, "usr/a"), at(p, "usr/c"))) }, []string{"usr directory", "usr/c file"}},
		"a file for a folder": {func(p *Planted) {
			must(os.RemoveAll(at(p, "opt")), os.WriteFile(at(p, "opt"), nil, 0o644))
		}, []string{"opt file"}},
		"a folder for a file": {func(p *Planted) {
			must(os.Remove(at(p, "etc/passwd")), os.Mkdir(at(p, "etc/passwd"), 0o755), os.WriteFile(at(p, "etc/passwd/x"), nil, 0o644))
		}, []string{"etc directory", "etc/passwd directory", "etc/passwd/x file"}},
		"a folder made anew": {func(p *Planted) {
			must(os.RemoveAll(at(p, "opt")), os.MkdirAll(at(p, "opt/old"), 0o755), os.WriteFile(at(p, "opt/old/z"), nil, 0o644))
		}, []string{"opt directory", "opt/old directory", "opt/old/x whiteout", "opt/old/y whiteout", "opt/old/z file"}},
		"another link": {func(p *Planted) {
			must(os.Remove(at(p, "usr/link")), os.Symlink("/etc/shadow", at(p, "usr/link")))
		}, []string{"usr directory", "usr/link symlink"}},
		"a device": {func(p *Planted) {
			must(os.Remove(at(p, "usr/tty")), unix.Mknod(at(p, "usr/tty"), unix.S_IFCHR|0o620, int(unix.Mkdev(5, 2))))
		}, []string{"usr directory", "usr/tty character device"}},
		"a fifo": {func(p *Planted) { must(unix.Mkfifo(at(p, "opt/f"), 0o600)) }, []string{"opt directory", "opt/f fifo"}},
		"the same once more": {func(p *Planted) {
			when := time.Unix(1e9, 0)
			must(os.Remove(at(p, "etc/passwd")), os.WriteFile(at(p, "etc/passwd"), []byte("root"), 0o644), os.Chtimes(at(p, "etc/passwd"), when, when))
		}, nil},
		"of the same size and time": {func(p *Planted) {
			when := time.Unix(1e9, 0)
			must(os.WriteFile(at(p, "etc/passwd"), []byte("toor"), 0o644), os.Chtimes(at(p, "etc/passwd"), when, when))
		}, []string{"etc directory", "etc/passwd file"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGarden(t)
			chain := g.base()
			p := g.take(chain)
			c.do(p)
			// As a layer has it: what the root shows, but for folders' times.
			want := withoutTimesOfFolders(lines(t, g.files(p)))
			id := g.step(p)
			diff(t, "the layer", g.names(id), c.want)
			if name != "a name more" { // which is a file of its own there
				diff(t, "the next step's files", withoutTimesOfFolders(lines(t, g.view(chain.Push(id)))), want)
			}
			g.Drop(p)
		})
	}
}

func TestASocketIsInNoLayerAndInNoOtherStepsRoot(t *testing.T) {
	g := newGarden(t)
	chain := g.base()
	p := g.take(chain)
	for _, name := range []string{"run.sock", "etc/shadow"} {
		path := filepath.Join(p.Dir(), name)
		os.Remove(path)
		if err := unix.Mknod(path, unix.S_IFSOCK|0o755, 0); err != nil {
			t.Fatal(err)
		}
	}
	id := g.step(p)
	diff(t, "the layer", g.names(id), []string{"etc directory", "etc/shadow whiteout"})
	chain = chain.Push(id)
	g.Keep(p, chain)
	if q := g.take(chain); q != p {
		t.Error("the root was not kept")
	}
	diff(t, "the next step's root", withoutTimesOfFolders(lines(t, g.files(p))), withoutTimesOfFolders(lines(t, g.view(chain))))
	g.Drop(p)
}

func TestARootWhoseLinksTheLayerCannotTellIsNotHandedOn(t *testing.T) {
	g := newGarden(t)
	chain := g.base()
	p := g.take(chain)
	if err := os.Link(filepath.Join(p.Dir(), "usr/a"), filepath.Join(p.Dir(), "usr/c")); err != nil {
		t.Fatal(err)
	}
	chain = chain.Push(g.step(p))
	g.Keep(p, chain)
	q := g.take(chain)
	diff(t, "the next step's root", lines(t, g.files(q)), lines(t, g.view(chain)))
	g.Drop(q)
}

func TestWhatNoLayerCanHoldIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"a whiteout's name": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "etc/.wh.x"), nil, 0o644) }, "/etc/.wh.x: names that begin with .wh."},
		"a whiteout":        {func(dir string) error { return unix.Mknod(filepath.Join(dir, "w"), unix.S_IFCHR, 0) }, "/w: a character device 0/0"},
		"a deep path":       {nest, "longer than a layer can have"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGarden(t)
			p := g.take(g.base())
			defer g.Drop(p)
			if err := c.do(p.Dir()); err != nil {
				t.Fatal(err)
			}
			var left *LeftoverError
			if err := g.Changes(t.Context(), p, discard{}); !errors.As(err, &left) || !strings.Contains(err.Error(), c.want) || left.Hint == "" {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

type discard struct{}

func (discard) Add(entry.Entry, io.Reader) error { return nil }

// nest makes folders as deep as no path reaches.
func nest(dir string) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; i < 3000 && err == nil; i++ {
		if err = unix.Mkdirat(fd, "d", 0o755); err == nil {
			var next int
			next, err = unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(fd)
			fd = next
		}
	}
	unix.Close(fd)
	return err
}

// TestNothingThatStepsLeaveLeadsOutOfTheRoot has links in the place of folders
// that layers are then written over.
func TestNothingThatStepsLeaveLeadsOutOfTheRoot(t *testing.T) {
	g := newGarden(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "passwd"), []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	chain := g.base()
	p := g.take(chain)
	for _, name := range []string{"etc", "opt/old"} {
		os.RemoveAll(filepath.Join(p.Dir(), name))
		if err := os.Symlink(outside, filepath.Join(p.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	id := g.step(p)
	diff(t, "the layer", g.names(id), []string{"etc symlink", "opt directory", "opt/old symlink"})
	chain = chain.Push(id)
	g.Keep(p, chain)
	chain = chain.Push(g.tar(dir("etc", 0o755, 0), text("etc/passwd", "a layer's"), dir("opt", 0o755, 0), gone("opt/old")))
	q := g.take(chain)
	if q != p {
		t.Error("the root was not kept")
	}
	diff(t, "the root", withoutTimesOfFolders(lines(t, g.files(q))), withoutTimesOfFolders(lines(t, g.view(chain))))
	if b, _ := os.ReadFile(filepath.Join(outside, "passwd")); string(b) != "the host's" {
		t.Errorf("outside is %q", b)
	}
	g.Drop(q)
}

// TestStepsDoneAtRandomGiveLayersThatShowWhatTheyLeft has many steps do what
// programs do, in roots that are handed on and in new ones.
func TestStepsDoneAtRandomGiveLayersThatShowWhatTheyLeft(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := newGarden(t)
			chain := g.base()
			rng := rand.New(rand.NewPCG(seed, 7))
			for step := range 12 {
				p := g.take(chain)
				diff(t, "the root that a step gets", withoutTimesOfFolders(lines(t, g.files(p))), withoutTimesOfFolders(lines(t, g.view(chain))))
				for range rng.IntN(12) {
					act(rng, p.Dir())
				}
				want := withoutTimesOfFolders(lines(t, g.files(p)))
				chain = chain.Push(g.step(p))
				if !p.inexact {
					diff(t, fmt.Sprintf("step %d", step), withoutTimesOfFolders(lines(t, g.view(chain))), want)
				}
				g.Keep(p, chain)
				if rng.IntN(3) == 0 {
					chain = chain.Push(g.tar(dir("etc", 0o751, 3), text("etc/copied", fmt.Sprint(step)), gone("opt/old")))
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// act does one thing somewhere in dir; what cannot be done is not. It goes by
// paths from outside, so every link that it makes leads to nothing.
func act(rng *rand.Rand, dir string) {
	names := []string{"etc", "etc/passwd", "etc/shadow", "opt", "opt/old", "opt/old/x", "opt/n", "usr", "usr/a", "usr/b", "usr/link", "usr/big", "n", "n/m", "n/m/o"}
	path := func() string { return filepath.Join(dir, names[rng.IntN(len(names))]) }
	p := path()
	if s, err := os.Lstat(p); err == nil && s.Mode()&os.ModeSymlink != 0 && rng.IntN(2) == 0 {
		return
	}
	switch rng.IntN(11) {
	case 0:
		os.RemoveAll(p)
	case 1:
		os.MkdirAll(p, 0o755)
	case 2, 3:
		os.Remove(p)
		os.WriteFile(p, []byte(fmt.Sprint(rng.IntN(3))), 0o644)
	case 4:
		if f, err := os.OpenFile(p, os.O_WRONLY|unix.O_NOFOLLOW, 0); err == nil {
			f.WriteString(fmt.Sprint(rng.IntN(10)))
			f.Close()
		}
	case 5:
		os.Rename(p, path())
	case 6:
		if s, err := os.Lstat(p); err == nil && s.Mode()&os.ModeSymlink == 0 {
			os.Chmod(p, []os.FileMode{0o600, 0o644, 0o755, 0o755 | os.ModeSetgid}[rng.IntN(4)])
		}
	case 7:
		os.Lchown(p, rng.IntN(2), rng.IntN(2))
	case 8:
		os.Symlink("/nowhere/at all", p)
	case 9:
		os.Link(p, path())
	case 10:
		unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}, unix.AT_SYMLINK_NOFOLLOW)
	}
}

// TestNothingIsInheritedFromTheDisk is about disks whose folders hand down their
// group, as those of clusters do.
func TestNothingIsInheritedFromTheDisk(t *testing.T) {
	g := newGarden(t)
	tmp := filepath.Join(g.store.Dir(), "tmp")
	if err := errors.Join(os.Chown(tmp, 0, 2000), os.Chmod(tmp, 0o700|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	chain := g.base()
	p := g.take(chain)
	diff(t, "a root", lines(t, g.files(p)), lines(t, g.view(chain)))
	// And what a step's folder hands down is not for what is written over it.
	if err := errors.Join(os.Chown(filepath.Join(p.Dir(), "opt"), 0, 2000), os.Chmod(filepath.Join(p.Dir(), "opt"), 0o755|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	chain = chain.Push(g.step(p))
	g.Keep(p, chain)
	chain = chain.Push(g.tar(dir("opt", 0o755, 0), text("opt/new", "of root"), dir("opt/sub", 0o755, 0)))
	p = g.take(chain)
	diff(t, "a root with a layer more", lines(t, g.files(p)), lines(t, g.view(chain)))
	g.Drop(p)
}
