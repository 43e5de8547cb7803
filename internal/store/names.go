package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/whittle-build/whittle/internal/digest"
)

// Names of documents and folders come from outside: image references,
// container names, ids of cache mounts. They become paths by an encoding that
// gives every name a path of its own, on file systems that fold case too:
// lower-case letters, digits and "._-" stand for themselves, except a dot at
// the beginning; every other byte is "%" and two hex digits. Long ones are cut
// into folders: "…+/+…+/+…".
const (
	maxName   = 1024 // bytes of a name
	maxElem   = 200  // bytes of an element of its path
	plainByte = "abcdefghijklmnopqrstuvwxyz0123456789._-"
)

func encodeName(name string) (string, error) {
	if name == "" || len(name) > maxName {
		return "", fmt.Errorf("name of %d bytes: want 1 to %d", len(name), maxName)
	}
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if strings.IndexByte(plainByte, c) >= 0 && (i > 0 || c != '.') {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02x", c)
	}
	s := b.String()
	if len(s) <= maxElem {
		return s, nil
	}
	elems := make([]string, 0, len(s)/maxElem+1)
	for len(s) > maxElem {
		elems = append(elems, s[:maxElem])
		s = s[maxElem:]
	}
	return strings.Join(append(elems, s), "+/+"), nil
}

// decodeName is the inverse of encodeName, and refuses all that encodeName
// does not make.
func decodeName(path string) (string, error) {
	s := strings.ReplaceAll(path, "+/+", "")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		var c byte
		if len(s) < i+3 {
			return "", fmt.Errorf("%q: not a name of the store", path)
		}
		if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &c); err != nil {
			return "", fmt.Errorf("%q: not a name of the store", path)
		}
		b.WriteByte(c)
		i += 2
	}
	if back, err := encodeName(b.String()); err != nil || back != path {
		return "", fmt.Errorf("%q: not a name of the store", path)
	}
	return b.String(), nil
}

// checkKind guards the one element of a path that callers write as a constant.
func checkKind(kind string) error {
	if kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("kind %q: want lower-case letters, digits and dashes", kind)
	}
	return nil
}

// named is the path of the thing called name of a kind below dir.
func (s *Store) named(dir, kind, name string) (string, error) {
	if err := checkKind(kind); err != nil {
		return "", err
	}
	enc, err := encodeName(name)
	if err != nil {
		return "", fmt.Errorf("%s %.64q: %w", kind, name, err)
	}
	return s.path(dir, kind, enc), nil
}

// eachNamed calls fn for everything that named has a path for, with its name,
// or with an error where the path is none of the store's.
func (s *Store) eachNamed(dir, kind string, fn func(path, name string, bad error) error) error {
	if err := checkKind(kind); err != nil {
		return err
	}
	return eachEncoded(s.path(dir, kind), "", fn)
}

func eachEncoded(root, sub string, fn func(path, name string, bad error) error) error {
	elems, err := readNames(root + "/" + sub)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range elems {
		enc := sub + e
		if strings.HasSuffix(e, "+") && isFolder(root+"/"+enc) {
			if err := eachEncoded(root, enc+"/", fn); err != nil {
				return err
			}
			continue
		}
		name, bad := decodeName(enc)
		if err := fn(root+"/"+enc, name, bad); err != nil {
			return err
		}
	}
	return nil
}

func isFolder(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// lockNamed is the name of the lock of one document.
func lockNamed(kind, name string) string {
	k := digest.NewKey("lock of a document")
	k.Text("kind", kind)
	k.Text("name", name)
	return k.Sum().Hex()
}
