package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// A yard is a folder in which a layer is taken and unpacked, with files
// beside and above it that must stay as they are.
type yard struct {
	t    *testing.T
	top  string
	dir  string
	want string
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t, top: t.TempDir()}
	y.dir = filepath.Join(y.top, "deep", "deeper", "layer")
	for _, n := range []string{"outside.txt", "deep/outside.txt", "deep/deeper/outside.txt", "deep/deeper/victim/file", "etc/passwd"} {
		p := filepath.Join(y.top, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("canary"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(y.top)
	y.want = y.outside()
	return y
}

// outside describes all that is not the layer's.
func (y *yard) outside() string {
	y.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(y.top, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == y.dir || p == y.dir+"-tree" || p == filepath.Join(filepath.Dir(y.dir), SideName) {
			if err == nil && d.IsDir() {
				return filepath.SkipDir
			}
			return err
		}
		text, _ := os.ReadFile(p)
		i, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(p + " " + i.Mode().String() + " " + string(text) + "\n")
		return nil
	})
	if err != nil {
		y.t.Fatal(err)
	}
	return b.String()
}

// take imports a tar and unpacks it, and says what the layer then has.
func (y *yard) take(b []byte) (view string, err error) {
	y.t.Helper()
	defer func() { diff(y.t, "outside of the layer", y.outside(), y.want) }()
	if _, err := Import(y.t.Context(), y.dir, bytes.NewReader(b), nil); err != nil {
		if left, _ := os.ReadDir(y.dir); len(left) > 0 {
			y.t.Errorf("a failed import left %v", left)
		}
		return "", err
	}
	v := openTar(y.t, y.dir)
	view = paths(y.t, v)
	if err := Verify(y.dir); err != nil {
		y.t.Error(err)
	}
	if os.Geteuid() != 0 || inUserNamespace() {
		return view, nil // only root can make all that a tar can hold
	}
	if err := Unpack(y.t.Context(), y.dir, "", y.dir+"-tree", UnpackOptions{}); err != nil {
		y.t.Fatal(err)
	}
	diff(y.t, "unpacked", dump(y.t, openTree(y.t, y.dir+"-tree")), dump(y.t, v))
	return view, nil
}

// paths lists a view: path, and a letter for what is not a file.
func paths(t *testing.T, fsys entry.FS) string {
	t.Helper()
	var out []string
	err := entry.Walk(fsys, ".", func(e entry.Entry) error {
		s := e.Path
		switch e.Kind {
		case entry.Dir:
			s += "/"
		case entry.Symlink:
			s += "->" + e.Link
		case entry.Whiteout:
			s += "!"
		}
		if e.Opaque {
			s += "!"
		}
		if e.Path != "." || e.Opaque {
			out = append(out, s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func regular(name string) tar.Header { return tar.Header{Name: name, Uname: "evil"} }

func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func hardlink(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

func folder(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

// attack is one hostile or odd tar: either what the layer then has, or what
// the error says.
type attack struct {
	headers []tar.Header
	want    string
	err     string
}

func runAttacks(t *testing.T, attacks map[string]attack) {
	t.Helper()
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			got, err := newYard(t).take(makeTar(t, a.headers...))
			if a.err != "" {
				if err == nil || !strings.Contains(err.Error(), a.err) {
					t.Fatalf("error %v, want one about %q (layer has %q)", err, a.err, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != a.want {
				t.Errorf("layer has %q, want %q", got, a.want)
			}
		})
	}
}

func TestAttack11_NamesThatPointOutStayInside(t *testing.T) {
	runAttacks(t, map[string]attack{
		"dotdot":           {headers: []tar.Header{regular("../outside.txt")}, want: "outside.txt"},
		"many dotdots":     {headers: []tar.Header{regular("../../../../../../../../outside.txt")}, want: "outside.txt"},
		"dotdot in middle": {headers: []tar.Header{regular("a/../../../outside.txt")}, want: "outside.txt"},
		"absolute":         {headers: []tar.Header{regular("/etc/passwd")}, want: "etc/ etc/passwd"},
		"double slash":     {headers: []tar.Header{regular("//etc//passwd")}, want: "etc/ etc/passwd"},
		"dots as a name":   {headers: []tar.Header{regular("...")}, want: "..."},
		"the root itself":  {headers: []tar.Header{regular("..")}, err: "root directory"},
		"windows":          {headers: []tar.Header{regular(`..\outside.txt`)}, want: `..\outside.txt`},
	})
}

func TestAttack12_LinksOfAnArchiveLeadNowhereElse(t *testing.T) {
	runAttacks(t, map[string]attack{
		"write through a link": {
			headers: []tar.Header{symlink("l", "../../.."), regular("l/outside.txt")},
			want:    "l->../../.. outside.txt",
		},
		"write through an absolute link": {
			headers: []tar.Header{symlink("l", "/"), regular("l/outside.txt")},
			want:    "l->/ outside.txt",
		},
		"write through a chain of links": {
			headers: []tar.Header{folder("d"), symlink("d/a", ".."), symlink("d/b", "a/.."), regular("d/b/../../outside.txt")},
			want:    "d/ d/a->.. d/b->a/.. outside.txt",
		},
		"write through the last link": {
			headers: []tar.Header{symlink("l", "../outside.txt"), regular("l")},
			want:    "l",
		},
		"folder over a link": {
			headers: []tar.Header{symlink("l", "/etc"), folder("l"), regular("l/passwd")},
			want:    "l/ l/passwd",
		},
		"hard link outside": {
			headers: []tar.Header{hardlink("h", "../../../etc/passwd")},
			err:     "hard link to",
		},
		"hard link through a link": {
			headers: []tar.Header{symlink("l", "../../../etc"), hardlink("h", "l/passwd")},
			err:     "hard link to",
		},
		"hard link to a link, then written": {
			headers: []tar.Header{symlink("l", "../outside.txt"), hardlink("h", "l"), regular("h")},
			want:    "h l->../outside.txt",
		},
		"hard link to a folder": {
			headers: []tar.Header{folder("d"), hardlink("h", "d")},
			err:     "hard link to directory",
		},
		"deletion through a link": {
			headers: []tar.Header{symlink("l", "../victim"), regular("l/.wh.file")},
			want:    "l->../victim victim/ victim/file!",
		},
		"opaque through a link": {
			headers: []tar.Header{symlink("l", "/victim"), regular("l/.wh..wh..opq")},
			want:    "l->/victim victim/!",
		},
		"a loop": {
			headers: []tar.Header{symlink("a", "b"), symlink("b", "a"), regular("a/x")},
			err:     "too many levels",
		},
		"a file as a folder": {
			headers: []tar.Header{regular("f"), regular("f/x")},
			err:     "not a directory",
		},
		"replaced folder": {
			headers: []tar.Header{folder("d"), regular("d/x"), symlink("d", "../victim"), regular("d/file")},
			want:    "d->../victim victim/ victim/file",
		},
	})
}

func TestAttack13_LegalLinksOfAnArchiveStillWork(t *testing.T) {
	runAttacks(t, map[string]attack{
		"var/run": {
			headers: []tar.Header{folder("run"), folder("var"), symlink("var/run", "/run"), regular("var/run/app.pid")},
			want:    "run/ run/app.pid var/ var/run->/run",
		},
		"usr merge": {
			headers: []tar.Header{folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"), regular("lib/x.so"), hardlink("lib/y.so", "lib/x.so")},
			want:    "lib->usr/lib usr/ usr/lib/ usr/lib/x.so usr/lib/y.so",
		},
		"link before its folder": {
			headers: []tar.Header{symlink("var/run", "/run"), regular("var/run/app.pid"), folder("run")},
			want:    "run/ run/app.pid var/ var/run->/run",
		},
	})
}

func TestAttack14_EntriesOfABaseLayerStayInside(t *testing.T) {
	runAttacks(t, map[string]attack{
		"folder through a link": {
			headers: []tar.Header{symlink("out", "/../../.."), folder("out/etc"), regular("out/etc/passwd")},
			want:    "etc/ etc/passwd out->/../../..",
		},
		"device through a link": {
			headers: []tar.Header{symlink("out", ".."), {Name: "out/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
			want:    "null out->..",
		},
		"link through a link": {
			headers: []tar.Header{symlink("out", "/etc"), symlink("out/passwd", "/etc/shadow")},
			want:    "etc/ etc/passwd->/etc/shadow out->/etc",
		},
	})
}

func TestAttack18_DeletionsStayInTheirFolder(t *testing.T) {
	runAttacks(t, map[string]attack{
		"of the parent":         {headers: []tar.Header{folder("d"), regular("d/.wh...")}, err: "deletes no name"},
		"of the folder":         {headers: []tar.Header{folder("d"), regular("d/.wh..")}, err: "deletes no name"},
		"of nothing":            {headers: []tar.Header{regular(".wh.")}, err: "deletes no name"},
		"with a path":           {headers: []tar.Header{regular(".wh.../outside.txt")}, err: "is no directory"},
		"dotdot before":         {headers: []tar.Header{regular("../../.wh.outside.txt")}, want: "outside.txt!"},
		"of a link":             {headers: []tar.Header{symlink("l", "../outside.txt"), regular(".wh.l")}, want: "l->../outside.txt"},
		"opaque at the root":    {headers: []tar.Header{regular("../.wh..wh..opq")}, want: "./!"},
		"a folder as deletion":  {headers: []tar.Header{folder(".wh.x")}, want: "x!"},
		"a link as deletion":    {headers: []tar.Header{symlink(".wh.x", "../outside.txt")}, want: "x!"},
		"what aufs left behind": {headers: []tar.Header{folder(".wh..wh.plnk"), regular(".wh..wh.plnk/1.2"), hardlink("a", ".wh..wh.plnk/1.2"), regular(".wh..wh.aufs")}, want: "a"},
		"before its own file":   {headers: []tar.Header{regular(".wh.d"), folder("d"), regular("d/x")}, want: "d/! d/x"},
		"after its own file":    {headers: []tar.Header{folder("d"), regular("d/x"), regular(".wh.d")}, want: "d/! d/x"},
	})
}

func TestAttack20_HardLinksAreNotLookedUpInTheWorkingDirectory(t *testing.T) {
	// The yard is the working directory and has all of these.
	runAttacks(t, map[string]attack{
		"relative":      {headers: []tar.Header{hardlink("h", "outside.txt")}, err: "hard link to"},
		"with a folder": {headers: []tar.Header{hardlink("h", "etc/passwd")}, err: "hard link to"},
		"with a dot":    {headers: []tar.Header{hardlink("h", "./outside.txt")}, err: "hard link to"},
		"to itself":     {headers: []tar.Header{hardlink("h", "h")}, err: "hard link to"},
		"inside":        {headers: []tar.Header{regular("outside.txt"), hardlink("h", "outside.txt")}, want: "h outside.txt"},
	})
}

func TestAttack35_WhiteoutDevicesAreRefused(t *testing.T) {
	runAttacks(t, map[string]attack{
		"a character device 0/0": {
			headers: []tar.Header{{Name: "etc/passwd", Typeflag: tar.TypeChar}},
			err:     "would delete a file",
		},
		"hidden in what AUFS left": {
			headers: []tar.Header{{Name: ".wh..wh.plnk/1", Typeflag: tar.TypeChar}, hardlink("x", ".wh..wh.plnk/1")},
			err:     "hard link to",
		},
		"a block device 0/0 deletes nothing": {
			headers: []tar.Header{{Name: "b", Typeflag: tar.TypeBlock}},
			want:    "b",
		},
	})
	b, err := Create(filepath.Join(t.TempDir(), "l"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	if err := b.Add(entry.Entry{Path: "x", Kind: entry.Char}, nil); err == nil {
		t.Error("a builder took a 0/0 device for a file")
	}
}

func TestAttack36_OverlayAttributesAreDroppedOnTheWayIn(t *testing.T) {
	needRoot(t)
	names := []string{"metacopy", "redirect", "opaque", "whiteout", "origin", "overlay.opaque"}
	hostile := map[string]string{"SCHILY.xattr.user.fine": "1", "SCHILY.xattr.security.selinux": "label"}
	for _, n := range names {
		hostile["SCHILY.xattr.trusted.overlay."+n] = "y"
		hostile["SCHILY.xattr.user.overlay."+n] = "/etc/shadow"
	}
	f, d := regular("file"), folder("dir")
	f.PAXRecords, d.PAXRecords = hostile, hostile
	dir, _ := importBytes(t, makeTar(t, f, d))
	check := func(what string, v *View) {
		t.Helper()
		for _, p := range []string{"file", "dir"} {
			e, err := v.Lstat(p)
			if err != nil {
				t.Fatal(err)
			}
			if e.Opaque || len(e.Xattrs) != 1 || e.Xattrs["user.fine"] != "1" {
				t.Errorf("%s: %s has %v, opaque %v", what, p, e.Xattrs, e.Opaque)
			}
		}
	}
	check("index", openTar(t, dir))
	tree := filepath.Join(t.TempDir(), "tree")
	if err := Unpack(t.Context(), dir, "", tree, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	check("tree", openTree(t, tree))
	for _, p := range []string{"file", "dir"} {
		b := make([]byte, 4096)
		n, err := listxattr(filepath.Join(tree, p), b)
		if err != nil || string(b[:n]) != "user.fine\x00" {
			t.Errorf("the tree's %s has attributes %q (%v)", p, b[:n], err)
		}
	}
	sealed := filepath.Join(t.TempDir(), "sealed")
	if _, err := Seal(t.Context(), tree, sealed); err != nil {
		t.Fatal(err)
	}
	check("sealed", openTar(t, sealed))
}

// What a step or an older kernel may have left in an upper directory is never
// followed.
func TestAttack36_SteeringAttributesInATreeAreAnError(t *testing.T) {
	needRoot(t)
	for _, attr := range []string{"metacopy", "redirect", "whiteout"} {
		tree := filepath.Join(t.TempDir(), "tree")
		if err := os.MkdirAll(tree+"/d", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tree+"/d/f", []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := setxattr(tree+"/d/f", "trusted.overlay."+attr, "/etc/shadow"); err != nil {
			t.Skipf("needs trusted attributes: %v", err)
		}
		v := openTree(t, tree)
		if _, err := v.Lstat("d/f"); err == nil {
			t.Errorf("%s: Lstat does not mind", attr)
		}
		if _, err := v.ReadDir("d"); err == nil {
			t.Errorf("%s: ReadDir does not mind", attr)
		}
		if _, err := v.Open("d/f"); err == nil {
			t.Errorf("%s: Open does not mind", attr)
		}
		if _, err := Seal(t.Context(), tree, filepath.Join(t.TempDir(), "s")); err == nil {
			t.Errorf("%s: Seal does not mind", attr)
		}
	}
}

// An opaque mark of this kind says that files below stand for deletions.
func TestAttack36_ADirectoryOfDisguisedDeletionsIsAnError(t *testing.T) {
	needRoot(t)
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(tree+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := setxattr(tree+"/d", opaqueTrusted, "x"); err != nil {
		t.Skipf("needs trusted attributes: %v", err)
	}
	if e, err := openTree(t, tree).Lstat("d"); err == nil {
		t.Errorf("taken as %+v", e)
	}
}

// A step may set user attributes as it likes; where overlayfs keeps its state
// in trusted ones, they mean nothing.
func TestAttack36_UserAttributesDoNotSteerARootTree(t *testing.T) {
	needRoot(t)
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(tree+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"opaque", "redirect", "metacopy"} {
		if err := setxattr(tree+"/d", "user.overlay."+n, "y"); err != nil {
			t.Skipf("needs user attributes: %v", err)
		}
	}
	e, err := openTree(t, tree).Lstat("d")
	if err != nil || e.Opaque || e.Xattrs != nil {
		t.Errorf("d is %+v (%v)", e, err)
	}
}
