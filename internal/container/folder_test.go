package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/whittle-build/whittle/internal/entry"
)

func oneFile() *entry.Mem {
	m := entry.NewMem()
	m.Add(entry.Entry{Path: "file", Kind: entry.File, Mode: 0o644}, "content")
	return m
}

func TestWriteFolderFollowsNoLinkToTheFolderWithin(t *testing.T) {
	dir := t.TempDir()
	out, elsewhere := filepath.Join(dir, "out"), filepath.Join(dir, "elsewhere")
	for name, link := range map[string]string{"outside": "../elsewhere", "absolute": elsewhere, "inside": "real", "dangling": "nosuch"} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []string{elsewhere, filepath.Join(out, "real")} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			under := "linux_" + name
			if err := os.Symlink(link, filepath.Join(out, under)); err != nil {
				t.Fatal(err)
			}
			_, err := WriteFolder(t.Context(), oneFile(), out, FolderOptions{Under: under})
			if hint := (*Error)(nil); !errors.As(err, &hint) || hint.Way == "" {
				t.Errorf("error %v, want one with a way out", err)
			}
			for _, d := range []string{elsewhere, filepath.Join(out, "real")} {
				if list, err := os.ReadDir(d); err != nil || len(list) > 0 {
					t.Errorf("%s: has %v, %v", d, list, err)
				}
			}
		})
	}
}

func TestWriteFolderAddsToTheFolderWithin(t *testing.T) {
	out := filepath.Join(t.TempDir(), "new", "out")
	for range 2 {
		for _, under := range []string{"linux_amd64", "linux_arm64"} {
			if done, err := WriteFolder(t.Context(), oneFile(), out, FolderOptions{Under: under}); err != nil || done.Files != 1 {
				t.Fatalf("%+v, %v", done, err)
			}
			if b, err := os.ReadFile(filepath.Join(out, under, "file")); err != nil || string(b) != "content" {
				t.Errorf("%s: %q, %v", under, b, err)
			}
		}
	}
	list, err := os.ReadDir(out)
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

// failing is a file system of which no file can be read.
type failing struct{ entry.FS }

func (failing) ReadDir(string) ([]entry.Entry, error) { return nil, errors.New("broken") }

func TestWriteFolderLeavesNoFolderWhenItFails(t *testing.T) {
	for _, under := range []string{"", "linux_amd64"} {
		dir := t.TempDir()
		_, err := WriteFolder(context.Background(), failing{oneFile()}, filepath.Join(dir, "new", "out"), FolderOptions{Under: under})
		if err == nil {
			t.Error("there is no error")
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
			t.Errorf("under %q: %v is left, %v", under, list, err)
		}
	}
}

func TestWriteFolderFollowsTheUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	if _, err := WriteFolder(t.Context(), oneFile(), filepath.Join(dir, "new", "out"), FolderOptions{Under: "linux_amd64"}); err != nil {
		t.Fatal(err)
	}
	var modes []os.FileMode
	for _, name := range []string{"new", "new/out", "new/out/linux_amd64", "new/out/linux_amd64/file"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		modes = append(modes, st.Mode().Perm())
	}
	if want := []os.FileMode{0o700, 0o700, 0o700, 0o644}; !slices.Equal(modes, want) {
		t.Errorf("modes %v, want %v", modes, want)
	}
}
