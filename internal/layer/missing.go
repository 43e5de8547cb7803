package layer

import (
	"errors"
	"io/fs"
	"syscall"
)

// isMissing is true for a path that does not exist, or that goes through
// something that is not a directory.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
