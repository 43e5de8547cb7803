package entry

import (
	"errors"
	"io/fs"
	"syscall"
)

// isNotExist is true for a missing path and for a path through a file.
func isNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// NotExist is the error of an FS for a path that it does not have.
func NotExist(op, path string) error {
	return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}
