package container

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// file is an entry of a tar in short: its type, name, and content or target.
type file struct {
	kind byte
	name string
	text string
}

func tarOf(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: f.kind, Name: f.name, Mode: 0o640, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1000, 0)}
		switch f.kind {
		case tar.TypeReg:
			h.Size = int64(len(f.text))
		case tar.TypeDir:
			h.Mode = 0o750
		case tar.TypeXGlobalHeader:
			h = &tar.Header{Typeflag: f.kind, Name: f.name, PAXRecords: map[string]string{"comment": f.text}}
		default:
			h.Linkname = f.text
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f.kind == tar.TypeReg {
			if _, err := io.WriteString(w, f.text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// jail is a root with a folder beside it that nothing may reach.
type jail struct{ dir, outside string }

func newJail(t *testing.T) jail {
	t.Helper()
	top := t.TempDir()
	j := jail{filepath.Join(top, "root"), filepath.Join(top, "outside")}
	for _, d := range []string{j.dir, j.outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(j.outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	return j
}

func (j jail) open(t *testing.T) *fsroot.Root {
	t.Helper()
	r, err := fsroot.Open(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// untouched fails when anything outside was changed.
func (j jail) untouched(t *testing.T) {
	t.Helper()
	list, err := os.ReadDir(j.outside)
	b, rerr := os.ReadFile(filepath.Join(j.outside, "secret"))
	if err != nil || rerr != nil || len(list) != 1 || string(b) != "secret" {
		t.Errorf("outside was touched: %v %v %q %v", list, err, b, rerr)
	}
	up, err := os.ReadDir(filepath.Dir(j.outside))
	if err != nil || len(up) != 2 {
		t.Errorf("beside it there is %v, %v", up, err)
	}
}

// tree lists a folder: names, link targets, contents.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(p)
			rel += " -> " + to
		default:
			b, _ := os.ReadFile(p)
			rel += "=" + string(b)
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPutStaysInTheContainer(t *testing.T) {
	tests := map[string]struct {
		in   []file
		want []string // below the destination "d", which the root has
	}{
		"dot dot":          {[]file{{tar.TypeReg, "../../../x", "1"}}, []string{"d/", "d/x=1"}},
		"absolute":         {[]file{{tar.TypeReg, "/a/b", "1"}}, []string{"d/", "d/a/", "d/a/b=1"}},
		"dot dot inside":   {[]file{{tar.TypeReg, "a/../../b", "1"}}, []string{"d/", "d/b=1"}},
		"through a link":   {[]file{{tar.TypeSymlink, "l", "/outside"}, {tar.TypeReg, "l/x", "1"}}, []string{"d/", "d/l -> /outside", "outside/", "outside/x=1"}},
		"through dot dots": {[]file{{tar.TypeSymlink, "l", "../../../outside"}, {tar.TypeReg, "l/x", "1"}}, []string{"d/", "d/l -> ../../../outside", "outside/", "outside/x=1"}},
		"onto a link":      {[]file{{tar.TypeSymlink, "l", "/d/target"}, {tar.TypeReg, "l", "1"}}, []string{"d/", "d/l=1"}},
		"folder on a link": {[]file{{tar.TypeDir, "real/", ""}, {tar.TypeSymlink, "l", "real"}, {tar.TypeDir, "l/", ""}, {tar.TypeReg, "l/x", "1"}}, []string{"d/", "d/l -> real", "d/real/", "d/real/x=1"}},
		"hard link":        {[]file{{tar.TypeReg, "a", "1"}, {tar.TypeLink, "sub/b", "/../a"}}, []string{"d/", "d/a=1", "d/sub/", "d/sub/b=1"}},
		"git's comment":    {[]file{{tar.TypeXGlobalHeader, "pax_global_header", "commit"}, {tar.TypeReg, "a", "1"}}, []string{"d/", "d/a=1"}},
		"twice":            {[]file{{tar.TypeReg, "a", "1"}, {tar.TypeReg, "./a", "2"}}, []string{"d/", "d/a=2"}},
		"itself":           {[]file{{tar.TypeDir, "./", ""}, {tar.TypeReg, "..", "1"}}, []string{"d/"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := newJail(t)
			if err := os.Mkdir(filepath.Join(j.dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := put(j.open(t), &Container{}, "d", bytes.NewReader(tarOf(t, tt.in...))); err != nil {
				t.Fatal(err)
			}
			if got := tree(t, j.dir); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			j.untouched(t)
		})
	}
}

func TestPutRefusesWhatDoesNotFit(t *testing.T) {
	tests := map[string]struct {
		in   []file
		part string
	}{
		"file on folder":      {[]file{{tar.TypeDir, "a/", ""}, {tar.TypeReg, "a", "1"}}, "/d/a: is a directory"},
		"folder on file":      {[]file{{tar.TypeReg, "a", "1"}, {tar.TypeDir, "a/", ""}}, "/d/a: is no directory"},
		"below a file":        {[]file{{tar.TypeReg, "a", "1"}, {tar.TypeReg, "a/b", "1"}}, "/d/a/b: "},
		"folder on dead link": {[]file{{tar.TypeSymlink, "a", "none"}, {tar.TypeDir, "a/", ""}}, "/d/a: is a link to no directory"},
		"a loop":              {[]file{{tar.TypeSymlink, "a", "a"}, {tar.TypeReg, "a/b", "1"}}, "too many levels"},
		"link to nothing":     {[]file{{tar.TypeLink, "a", "none"}}, "/d/a: "},
		"link to outside":     {[]file{{tar.TypeLink, "a", "../../outside/secret"}}, "/d/a: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := newJail(t)
			if err := os.Mkdir(filepath.Join(j.dir, "d"), 0o755); err != nil {
				t.Fatal(err)
			}
			err := put(j.open(t), &Container{}, "d", bytes.NewReader(tarOf(t, tt.in...)))
			if err == nil || !strings.Contains(err.Error(), tt.part) {
				t.Errorf("got %v, want an error with %q", err, tt.part)
			}
			j.untouched(t)
		})
	}
}

func TestPutRemovesNothingForAnEntryThatItRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		h    tar.Header
		part string
	}{
		"a 0/0 device":             {tar.Header{Typeflag: tar.TypeChar}, "character device 0/0 would delete a file"},
		"an unknown kind":          {tar.Header{Typeflag: 'Z'}, "entry type 'Z' is unknown"},
		"an owner that nobody has": {tar.Header{Typeflag: tar.TypeReg, Uid: maxID + 1}, "there is no such id"},
		"a link to nothing":        {tar.Header{Typeflag: tar.TypeSymlink}, "symlink with a target of 0 bytes"},
		"a hard link to nothing":   {tar.Header{Typeflag: tar.TypeLink, Linkname: "none"}, "none"},
		"a hard link to a folder":  {tar.Header{Typeflag: tar.TypeLink, Linkname: "etc"}, "hard link to /etc"},
		"a hard link to itself":    {tar.Header{Typeflag: tar.TypeLink, Linkname: "./etc/passwd"}, "hard link to /etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJail(t)
			old := filepath.Join(j.dir, "etc/passwd")
			err := errors.Join(os.Mkdir(filepath.Dir(old), 0o755), os.WriteFile(old, []byte("root"), 0o644))
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			tt.h.Name, tt.h.Mode = "etc/passwd", 0o644
			if err := errors.Join(w.WriteHeader(&tt.h), w.Close()); err != nil {
				t.Fatal(err)
			}
			err = put(j.open(t), &Container{}, ".", &b)
			if err == nil || !strings.Contains(err.Error(), "/etc/passwd: ") || !strings.Contains(err.Error(), tt.part) {
				t.Errorf("got %v, want an error with %q", err, tt.part)
			}
			if got, err := os.ReadFile(old); string(got) != "root" {
				t.Errorf("the old file: %q, %v", got, err)
			}
		})
	}
}

func TestPutTellsOfADamagedArchive(t *testing.T) {
	j := newJail(t)
	whole := tarOf(t, file{tar.TypeReg, "a", strings.Repeat("x", 2000)})
	for name, in := range map[string][]byte{"cut off": whole[:1500], "no tar": bytes.Repeat([]byte("x"), 1024)} {
		if err := put(j.open(t), &Container{}, ".", bytes.NewReader(in)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := put(j.open(t), &Container{}, ".", bytes.NewReader(nil)); err != nil {
		t.Errorf("an empty stream: %v", err)
	}
}

func TestPutSetsModeOwnerAndTimes(t *testing.T) {
	j := newJail(t)
	in := tarOf(t, file{tar.TypeDir, "d/", ""}, file{tar.TypeReg, "d/f", "1"}, file{tar.TypeSymlink, "d/l", "f"})
	if err := put(j.open(t), &Container{}, ".", bytes.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"d": fs.ModeDir | 0o750, "d/f": 0o640} {
		st, err := os.Stat(filepath.Join(j.dir, name))
		if err != nil || st.Mode() != mode || st.ModTime().Unix() != 1000 {
			t.Errorf("%s: %v, %v, %v", name, st.Mode(), st.ModTime(), err)
		}
	}
}

// evil is a file system with names and kinds that no image should have.
type evil struct{ list []entry.Entry }

func (e evil) Lstat(p string) (entry.Entry, error) {
	for _, x := range e.list {
		if x.Path == p {
			return x, nil
		}
	}
	return entry.Entry{}, fs.ErrNotExist
}

func (e evil) ReadDir(p string) ([]entry.Entry, error) {
	var out []entry.Entry
	for _, x := range e.list {
		if x.Path != p && strings.HasPrefix(x.Path, p+"/") && !strings.Contains(strings.TrimPrefix(x.Path, p+"/"), "/") {
			out = append(out, x)
		}
	}
	return out, nil
}

func (e evil) Open(p string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("evil")), nil
}

func extractInto(t *testing.T, dir string, fsys entry.FS, top, base string) (int, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	e, err := fsys.Lstat(top)
	if err != nil {
		t.Fatal(err)
	}
	x := extraction{root: root, fs: fsys, until: t.Context()}
	err = x.tree(e, base)
	return x.Skipped, err
}

func TestExtractionStaysWhereItBelongs(t *testing.T) {
	dir := func(p string) entry.Entry { return entry.Entry{Path: p, Kind: entry.Dir, Mode: 0o755} }
	reg := func(p string) entry.Entry { return entry.Entry{Path: p, Kind: entry.File, Mode: 0o6755} }
	link := func(p, to string) entry.Entry { return entry.Entry{Path: p, Kind: entry.Symlink, Link: to} }
	tests := map[string][]entry.Entry{
		"a link that becomes a folder": {dir("d"), link("d/l", "../../outside"), reg("d/l/x")},
		"an absolute one":              {dir("d"), link("d/l", "/tmp"), reg("d/l/x")},
		"a file through a link":        {dir("d"), link("d/secret", "../../outside/secret"), reg("d/secret")},
		"names with dots":              {dir("d"), reg("d/.."), dir("d/..")},
	}
	for name, list := range tests {
		t.Run(name, func(t *testing.T) {
			j := newJail(t)
			_, err := extractInto(t, j.dir, evil{list}, "d", "d")
			t.Logf("error: %v", err)
			j.untouched(t)
		})
	}
}

func TestExtractionDoesNotWriteThroughLinksOfTheHost(t *testing.T) {
	j := newJail(t)
	if err := os.Symlink(filepath.Join(j.outside, "secret"), filepath.Join(j.dir, "f")); err != nil {
		t.Fatal(err)
	}
	if _, err := extractInto(t, j.dir, evil{[]entry.Entry{{Path: "f", Kind: entry.File, Mode: 0o6755}}}, "f", "f"); err != nil {
		t.Fatal(err)
	}
	j.untouched(t)
	st, err := os.Lstat(filepath.Join(j.dir, "f"))
	if err != nil || st.Mode() != 0o755 {
		t.Errorf("the copy: %v, %v: want a file without set-id bits", st.Mode(), err)
	}
}

func TestExtractionLeavesOutWhatOnlyAKernelReads(t *testing.T) {
	j := newJail(t)
	list := []entry.Entry{{Path: "d", Kind: entry.Dir, Mode: 0o700}, {Path: "d/null", Kind: entry.Char, Major: 1, Minor: 3}, {Path: "d/s", Kind: entry.Socket}, {Path: "d/p", Kind: entry.Fifo}}
	skipped, err := extractInto(t, j.dir, evil{list}, "d", "d")
	if got := tree(t, j.dir); skipped != 3 || err != nil || !slices.Equal(got, []string{"d/"}) {
		t.Errorf("skipped %d, %v; got %q", skipped, err, got)
	}
}

func TestHostTargetIsDockersRule(t *testing.T) {
	top := t.TempDir()
	at := func(p string) string { return filepath.Join(top, p) }
	for _, err := range []error{os.Mkdir(at("dir"), 0o755), os.WriteFile(at("file"), nil, 0o644), os.Symlink("file", at("link")),
		os.Symlink("dir", at("dirlink")), os.Symlink("none", at("dead"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		dest, base string
		isDir      bool
		dir, name  string // or
		part       string
	}{
		{"dir", "x", false, "dir", "x", ""},
		{"dir/", "x", true, "dir/", "x", ""},
		{"dir", ".", true, "dir", ".", ""},
		{"dirlink", "x", false, "dirlink", "x", ""},
		{"file", "x", false, "", "file", ""},
		{"link", "x", false, "", "file", ""},
		{"new", "x", false, "", "new", ""},
		{"new/", "x", true, "", "new", ""},
		{"new", ".", true, "", "new", ""},
		{"file", "x", true, "", "", "is not a directory"},
		{"file/", "x", false, "", "", "not a directory"},
		{"new/", "x", false, "", "", "no such directory"},
		{"new/sub", "x", false, "", "", "no such directory"},
		{"dead", "x", false, "", "", "is a link to none"},
	}
	for _, tt := range tests {
		dir, name, err := hostTarget(top+"/"+tt.dest, tt.base, tt.isDir)
		want := top
		if tt.dir != "" {
			want = top + "/" + tt.dir
		}
		switch {
		case tt.part != "" && (err == nil || !strings.Contains(err.Error(), tt.part)):
			t.Errorf("%+v: got %v", tt, err)
		case tt.part == "" && (err != nil || dir != want || name != tt.name):
			t.Errorf("%+v: got %s, %s, %v", tt, dir, name, err)
		}
	}
	if _, _, err := hostTarget("/dev/null", "x", false); err == nil {
		t.Error("a device is taken")
	}
	if _, _, err := hostTarget("", "x", false); err == nil {
		t.Error("nothing is taken")
	}
}

func TestNamesOfCopiesAreDockers(t *testing.T) {
	for in, want := range map[string]string{"/a/b": "b", "a": "a", "/a/b/": "b", "/a/.": ".", ".": ".", "/": ".", "": ".", "/a/..": ".", "/.env": ".env", "/a/../b": "b"} {
		if got := baseName(in); got != want {
			t.Errorf("container path %q: got %q, want %q", in, got, want)
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"a/b": "b", "a/b/": "b", ".": ".", "a/.": ".", "..": filepath.Base(filepath.Dir(cwd)), "/": ".", "./": filepath.Base(cwd), ".env": ".env"} {
		if got, err := hostBase(in); got != want || err != nil {
			t.Errorf("host path %q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for in, want := range map[[2]string]string{{".", ".env"}: ".env", {".", "."}: "", {"a", "a"}: "", {"a", "a/.b"}: ".b", {".a", ".a/b"}: "b"} {
		if got := below(in[0], in[1]); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestArchiveAndPutAreEachOthersInverse(t *testing.T) {
	from, to := newJail(t), newJail(t)
	in := []file{{tar.TypeDir, "d/", ""}, {tar.TypeReg, "d/.f", "1"}, {tar.TypeLink, "d/g", "d/.f"}, {tar.TypeSymlink, "d/l", "../../x"},
		{tar.TypeDir, "d/" + strings.Repeat("n", 200) + "/", ""}, {tar.TypeReg, "d/" + strings.Repeat("n", 200) + "/" + strings.Repeat("m", 200), "2"}}
	if err := put(from.open(t), &Container{}, ".", bytes.NewReader(tarOf(t, in...))); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fsys := from.open(t).FS()
	e, err := fsys.Lstat("d")
	if err != nil {
		t.Fatal(err)
	}
	if err := archive(&b, fsys, e, "d"); err != nil {
		t.Fatal(err)
	}
	if err := put(to.open(t), &Container{}, ".", &b); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, to.dir), tree(t, from.dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	a, aerr := os.Stat(filepath.Join(to.dir, "d/.f"))
	g, gerr := os.Stat(filepath.Join(to.dir, "d/g"))
	if err := errors.Join(aerr, gerr); err != nil || !os.SameFile(a, g) {
		t.Errorf("the hard link is a file of its own (%v)", err)
	}
}

func TestArchiveTellsOfAFileThatShrinks(t *testing.T) {
	list := []entry.Entry{{Path: "f", Kind: entry.File, Size: 100}} // and Open gives four bytes
	if err := archive(io.Discard, evil{list}, list[0], "f"); err == nil || !strings.Contains(err.Error(), "/f: it became shorter") {
		t.Errorf("got %v", err)
	}
}
