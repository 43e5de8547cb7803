package container

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

// bound is a container with a folder, a read-only folder, a file and a tmpfs
// mounted in it, one of them behind a link.
type bound struct {
	jail
	host string
	c    *Container
}

func newBound(t *testing.T) bound {
	t.Helper()
	b := bound{jail: newJail(t), host: t.TempDir()}
	for _, d := range []string{"root/var", "root/run/in", "root/ro", "root/t"} {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(b.dir), d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(b.dir, "var/run")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"in", "ro"} {
		if err := os.Mkdir(filepath.Join(b.host, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"in/old", "ro/fixed", "file"} {
		if err := os.WriteFile(filepath.Join(b.host, f), []byte("host"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/file", filepath.Join(b.host, "in/link")); err != nil {
		t.Fatal(err)
	}
	b.c = &Container{Name: "box", Spec: Spec{Mounts: []Mount{
		{Source: filepath.Join(b.host, "in"), Target: "/var/run/in"},
		{Source: filepath.Join(b.host, "ro"), Target: "/ro", ReadOnly: true},
		{Source: filepath.Join(b.host, "file"), Target: "/file"},
		{Target: "/t"},
		{Source: filepath.Join(b.host, "none"), Target: "/none"},
	}}}
	return b
}

func TestWhatIsMountedIsSeen(t *testing.T) {
	b := newBound(t)
	fsys, err := see(b.open(t).FS(), b.c.Spec.Mounts)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.close()
	var got []string
	err = entry.Walk(fsys, ".", func(e entry.Entry) error {
		got = append(got, e.Path)
		return nil
	})
	want := ". file ro ro/fixed run run/in run/in/link run/in/old t var var/run"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	for name, want := range map[string]string{"/var/run/in/old": "run/in/old", "/var/run/in/link": "file", "/run/in/../in/./old": "run/in/old"} {
		p, err := entry.Resolve(fsys, name, true)
		if err != nil || p != want {
			t.Errorf("%s leads to %s, %v, want %s", name, p, err, want)
		}
		f, err := fsys.Open(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		f.Close()
	}
	for p, part := range map[string]string{"run/in/x": "", "file": "", "t/y": "lies in the tmpfs at /t", "none": "none of this machine, which is not there", "none/x": "none/x of this machine", "other": "", ".": ""} {
		err := fsys.hidden(b.c, "p", p)
		if (err == nil) != (part == "") || err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v, want %q", p, err, part)
		}
	}
}

func TestPutGoesIntoFoldersThatAreMounted(t *testing.T) {
	b := newBound(t)
	err := put(b.open(t), b.c, ".", bytes.NewReader(tarOf(t,
		file{tar.TypeDir, "run/in", ""}, file{tar.TypeReg, "run/in/new", "1"}, file{tar.TypeReg, "var/run/in/a/b", "2"},
		file{tar.TypeLink, "run/in/same", "run/in/new"}, file{tar.TypeReg, "run/beside", "3"}, file{tar.TypeReg, "run/in/old", "4"})))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, filepath.Join(b.host, "in")), []string{"a/", "a/b=2", "link -> /file", "new=1", "old=4", "same=1"}; !slices.Equal(got, want) {
		t.Errorf("the folder of the host has %q, want %q", got, want)
	}
	if got, want := tree(t, filepath.Join(b.dir, "run")), []string{"beside=3", "in/"}; !slices.Equal(got, want) {
		t.Errorf("the container's own files are %q, want %q", got, want)
	}
}

func TestPutRefusesWhatCannotBeWrittenInAMount(t *testing.T) {
	b := newBound(t)
	for name, c := range map[string]struct {
		files []file
		part  string
	}{
		"read-only folder":       {[]file{{tar.TypeReg, "ro/x", "1"}}, "which is mounted read-only"},
		"folder in one":          {[]file{{tar.TypeReg, "ro/a/b/x", "1"}}, "which is mounted read-only"},
		"file":                   {[]file{{tar.TypeReg, "file", "1"}}, "is the file " + b.host},
		"file, through a link":   {[]file{{tar.TypeReg, "run/in/link/x", "1"}}, "is the file " + b.host},
		"tmpfs":                  {[]file{{tar.TypeReg, "t/x", "1"}}, "lies in the tmpfs"},
		"what is not there":      {[]file{{tar.TypeReg, "none/x", "1"}}, "which is not there"},
		"file instead of folder": {[]file{{tar.TypeReg, "run/in", "1"}}, "is a folder that is mounted there"},
		"hard link into a mount": {[]file{{tar.TypeReg, "own", "1"}, {tar.TypeLink, "run/in/link2", "own"}}, "is in another mount"},
	} {
		err := put(b.open(t), b.c, ".", bytes.NewReader(tarOf(t, c.files...)))
		if err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: got %v, want %q", name, err, c.part)
		}
	}
	for _, d := range []string{"ro", "t"} {
		if got := tree(t, filepath.Join(b.dir, d)); len(got) != 0 {
			t.Errorf("below the mount on /%s is %q", d, got)
		}
	}
	b.c.Spec.ReadOnly = true
	if err := put(b.open(t), b.c, "run/in", bytes.NewReader(tarOf(t, file{tar.TypeReg, "x", "1"}))); err != nil {
		t.Errorf("a folder in a read-only root: %v", err)
	}
	err := put(b.open(t), b.c, "run", bytes.NewReader(tarOf(t, file{tar.TypeReg, "x", "1"})))
	if err == nil || !strings.Contains(err.Error(), "container box has a read-only root") {
		t.Errorf("a read-only root: %v", err)
	}
}
