package entry

import (
	"bytes"
	"errors"
	"io"
	"maps"
)

// SameAttributes reports whether mode, owner and extended attributes are equal.
func SameAttributes(a, b Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && maps.Equal(a.Xattrs, b.Xattrs)
}

// SameFile reports whether two entries of one kind that are no directories are
// alike but for their attributes and times: in size, target, device and bytes.
// The bytes are those of path in a, and of y's own path in b.
func SameFile(x Entry, a FS, path string, y Entry, b FS) (bool, error) {
	if x.Size != y.Size || x.Link != y.Link || x.Major != y.Major || x.Minor != y.Minor {
		return false, nil
	}
	if x.Kind != File || x.Size == 0 {
		return true, nil
	}
	return sameContent(a, path, b, y.Path)
}

func sameContent(a FS, path string, b FS, other string) (same bool, err error) {
	x, err := a.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	y, err := b.Open(other)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, y.Close()) }()
	return sameBytes(x, y)
}

func sameBytes(a, b io.Reader) (bool, error) {
	const piece = 64 << 10
	x, y := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(a, x)
		m, other := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		for _, err := range []error{err, other} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if err != nil || other != nil {
			return true, nil
		}
	}
}
