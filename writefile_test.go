package whittle

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func mustHave(t *testing.T, name, want string, mode os.FileMode) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil || string(b) != want {
		t.Errorf("%s: %q, %v, want %q", name, b, err, want)
	}
	if st, err := os.Lstat(name); err != nil || st.Mode() != mode {
		t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, mode)
	}
}

func TestWriteFileKeepsTheModeOfWhatItReplaces(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o600, 0o644, 0o666, 0o755} {
		name := filepath.Join(dir, mode.String())
		if err := errors.Join(os.WriteFile(name, []byte("old, and longer"), 0o600), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(name, text("new")); err != nil {
			t.Fatal(err)
		}
		mustHave(t, name, "new", mode)
	}
}

func TestWriteFileWritesWhereALinkLeads(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "to"), 0o755), os.Symlink("to/file", link)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("full")
	err := WriteFile(link, func(w io.Writer) error { return errors.Join(text("half")(w), full) })
	if list, _ := os.ReadDir(filepath.Join(dir, "to")); !errors.Is(err, full) || len(list) > 0 {
		t.Errorf("after a failure: %v, %v", list, err)
	}
	if err := WriteFile(link, text("new")); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != "to/file" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "to", "file")); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestLandingIsOneForAllNamesOfAFile(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for link, to := range map[string]string{"l": "d", "d/back": "../file", "far": "d/deep", "d/new": "../nothing/new", "loop": "loop", "abs": dir + "/d"} {
		if err := errors.Join(os.MkdirAll("d/deep", 0o755), os.Symlink(to, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"file": "file", "./d/../file": "file", dir + "/file": "file", "l/back": "file", "abs/back": "file",
		"l/x": "d/x", "abs/none/x/": "d/none/x", "l/new": "nothing/new", "far/../x": "d/x", "far/none/../x": "d/deep/x", "loop/x": "loop/x", "": "", ".": "",
	} {
		if got := landing(name); got != filepath.Join(dir, want) {
			t.Errorf("%q: %s, want %s", name, got, filepath.Join(dir, want))
		}
	}
	if got := landing("/"); got != "/" {
		t.Errorf("/: %s", got)
	}
}

func TestCheckFileFindsWhatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		dir: "is a folder", filepath.Join(dir, "none", "file"): "no such file", filepath.Join(file, "x"): "not a directory", "/proc/x": "/proc/x",
		file: "", filepath.Join(dir, "new"): "", "/dev/null": "",
	} {
		err := CheckFile(name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
}
