package fsroot

import (
	"os"
	"path/filepath"
)

// MakeAll makes the folder dir of the host, and those above it that are missing, with the
// modes that the umask gives. undo, which is never nil, removes those that it made, as far as nobody
// has put something into them.
func MakeAll(dir string) (undo func(), err error) {
	var missing []string
	undo = func() {
		for _, dir := range missing {
			_ = os.Remove(dir) // one that is not empty stays, and so do those above it
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return undo, err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		missing = append(missing, at)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		undo()
		return func() {}, err
	}
	return undo, nil
}
