package fsroot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeAllUndoesWhatItMade(t *testing.T) {
	dir := t.TempDir()
	old, file := filepath.Join(dir, "old"), filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(old, 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	there := func(name string) bool { _, err := os.Lstat(name); return err == nil }

	undo, err := MakeAll(filepath.Join(old, "a", "b"))
	if err != nil || !there(filepath.Join(old, "a", "b")) {
		t.Fatal(err)
	}
	if undo(); there(filepath.Join(old, "a")) || !there(old) {
		t.Error("undo does not remove what was made, or more")
	}

	undo, err = MakeAll(filepath.Join(old, "a", "b"))
	if err := errors.Join(err, os.WriteFile(filepath.Join(old, "a", "mine"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if undo(); there(filepath.Join(old, "a", "b")) || !there(filepath.Join(old, "a", "mine")) {
		t.Error("undo removes a folder in which something is, or leaves an empty one")
	}

	undo, err = MakeAll(old)
	if err != nil {
		t.Fatal(err)
	}
	if undo(); !there(old) {
		t.Error("undo removes what was there")
	}

	// One that cannot be made, below those that can.
	undo, err = MakeAll(filepath.Join(old, "c", "d", strings.Repeat("x", 300)))
	if undo(); err == nil || there(filepath.Join(old, "c")) {
		t.Errorf("%v, and something of it is left", err)
	}

	undo, err = MakeAll(filepath.Join(file, "a"))
	if err == nil {
		t.Error("a folder in a file was made")
	}
	if undo(); !there(file) {
		t.Error("undo removes a file")
	}
}
