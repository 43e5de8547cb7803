package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"

	"github.com/whittle-build/whittle/internal/entry"
)

func TestFsckErofsFindsNoFault(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("needs fsck.erofs of erofs-utils")
	}
	for _, items := range [][]item{nil, sample(), manyFiles(3000)} {
		dir, _ := build(t, items)
		cmd := exec.Command(fsck, "--device="+filepath.Join(dir, TarName), filepath.Join(dir, IndexName))
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "isn't supported on this platform") {
			t.Skip("needs a fsck.erofs that knows 512-byte blocks")
		}
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// manyFiles are n files in one directory and one more in each of 40 others.
func manyFiles(n int) []item {
	var items []item
	for i := range n {
		items = append(items, item{entry.Entry{Path: fmt.Sprintf("file-%07d", i), Kind: entry.File, Mode: 0o644}, fmt.Sprint(i)})
	}
	for i := range 40 {
		d := fmt.Sprintf("dir-%d", i)
		items = append(items,
			item{entry.Entry{Path: d, Kind: entry.Dir, Mode: 0o755}, ""},
			item{entry.Entry{Path: d + "/-", Kind: entry.File, Mode: 0o644}, d},
			item{entry.Entry{Path: d + "/.-", Kind: entry.File, Mode: 0o644}, d},
			item{entry.Entry{Path: d + "/.a", Kind: entry.File, Mode: 0o644}, d})
	}
	return items
}

// An independent reader of the format agrees with ours on every file.
func TestAnotherReaderOfTheFormatAgrees(t *testing.T) {
	for name, items := range map[string][]item{"sample": sample(), "many": manyFiles(2000)} {
		t.Run(name, func(t *testing.T) {
			dir, _ := build(t, items)
			compareReaders(t, dir)
		})
	}
}

func compareReaders(t *testing.T, dir string) {
	t.Helper()
	var files [2]*os.File
	for i, n := range []string{IndexName, TarName} {
		f, err := os.Open(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	other, err := erofs.Open(files[0], erofs.WithExtraDevices(files[1]))
	if err != nil {
		t.Fatal(err)
	}
	v := openTar(t, dir)
	seen := 0
	err = entry.Walk(v, ".", func(e entry.Entry) error {
		seen++
		return compareEntry(other, v, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	theirs := 0
	err = fs.WalkDir(other, ".", func(string, fs.DirEntry, error) error {
		theirs++
		return nil
	})
	if err != nil || theirs != seen {
		t.Errorf("the other reader has %d names, ours %d (%v)", theirs, seen, err)
	}
}

func compareEntry(other fs.FS, v *View, e entry.Entry) error {
	fi, err := fs.Lstat(other, e.Path)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	st, ok := fi.Sys().(*erofs.Stat)
	if !ok {
		return errors.New("no erofs.Stat")
	}
	got := fmt.Sprint(st.UID, st.GID, int64(st.Mtime), st.MtimeNs, fi.Mode().Perm())
	want := fmt.Sprint(e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec, fs.FileMode(e.Mode).Perm())
	if got != want {
		return fmt.Errorf("%s: other reader says %s, ours %s", e.Path, got, want)
	}
	for n, value := range e.Xattrs {
		if strings.HasPrefix(n, "system.posix_acl_") {
			n += "." // the other reader takes these whole names for prefixes
		}
		if st.Xattrs[n] != value {
			return fmt.Errorf("%s: attribute %s is %q, want %q", e.Path, n, st.Xattrs[n], value)
		}
	}
	if e.Kind != entry.File {
		return nil
	}
	f, err := other.Open(e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	theirs, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	r, err := v.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	ours, err := io.ReadAll(r)
	if err != nil || string(ours) != string(theirs) || strings.HasPrefix(e.Path, "file-") && len(ours) == 0 {
		return fmt.Errorf("%s: contents differ (%v)", e.Path, err)
	}
	return nil
}
