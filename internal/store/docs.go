package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// PutDoc stores a document, b being JSON, under a kind and a name. It
// replaces what is there; a reader sees the old or the new one, whole.
func (s *Store) PutDoc(kind, name string, b []byte) error {
	return s.UpdateDoc(kind, name, func([]byte) ([]byte, error) { return b, nil })
}

// UpdateDoc replaces a document by what fn makes of it, while no other process
// changes it. fn gets nil when there is none; when it returns nil the document
// is deleted, when it fails nothing changes. fn must not wait for other locks.
func (s *Store) UpdateDoc(kind, name string, fn func(old []byte) ([]byte, error)) error {
	path, err := s.named(docDir, kind, name)
	if err != nil {
		return err
	}
	l, err := s.lock(context.Background(), s.briefPath("doc", lockNamed(kind, name)), flock.Exclusive, true, nil)
	if err != nil {
		return fmt.Errorf("%s %q: %w", kind, name, err)
	}
	defer l.Close()
	old, err := readDoc(path)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s %q: %w", kind, name, err)
	}
	b, err := fn(old)
	if err != nil {
		return err
	}
	if err := s.replaceDoc(path, old, b); err != nil {
		return fmt.Errorf("%s %q: %w", kind, name, err)
	}
	return nil
}

func (s *Store) replaceDoc(path string, old, b []byte) error {
	if b == nil {
		s.wrote()
		return ignoreAbsent(os.Remove(path))
	}
	if !json.Valid(b) {
		return errors.New("the document is not JSON")
	}
	if old != nil && bytes.Equal(old, b) {
		return nil
	}
	return s.write("doc", path, b)
}

// Doc reads a document; it is ErrNotFound when there is none.
func (s *Store) Doc(kind, name string) ([]byte, error) {
	path, err := s.named(docDir, kind, name)
	if err != nil {
		return nil, err
	}
	b, err := readDoc(path)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", kind, name, err)
	}
	return b, nil
}

// readDoc reads a file of JSON. An empty one is what a power cut leaves of a
// document that was never made durable: it counts as absent.
func readDoc(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return nil, ErrNotFound
	}
	return b, err
}

// Docs lists the names of a kind's documents, in order of their paths.
func (s *Store) Docs(kind string) ([]string, error) {
	return s.listNamed(docDir, kind)
}

func (s *Store) listNamed(dir, kind string) ([]string, error) {
	var names []string
	err := s.eachNamed(dir, kind, func(_, name string, bad error) error {
		if bad == nil {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// DeleteDoc deletes a document; one that is not there is no error.
func (s *Store) DeleteDoc(kind, name string) error {
	return s.UpdateDoc(kind, name, func([]byte) ([]byte, error) { return nil, nil })
}

// Folder returns a folder that its user may change at will: a container's, a
// cache mount's. It is made when it is absent. Folders of kinds "cache" and "mounts"
// can be pruned, others go only by RemoveFolder.
func (s *Store) Folder(kind, name string) (string, error) {
	path, err := s.named(folderDir, kind, name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(path, folderMode); err != nil {
		return "", fmt.Errorf("%s %q: %w", kind, name, s.Explain(err))
	}
	now := s.now()
	if err := os.Chtimes(path, now, now); err != nil {
		return "", fmt.Errorf("%s %q: %w", kind, name, s.Explain(err))
	}
	return path, nil
}

// FolderPath returns the path of a folder, which need not be there.
func (s *Store) FolderPath(kind, name string) (string, error) {
	return s.named(folderDir, kind, name)
}

// Folders lists the names of a kind's folders.
func (s *Store) Folders(kind string) ([]string, error) { return s.listNamed(folderDir, kind) }

// RemoveFolder removes a folder and all that is in it; one that is not there
// is no error.
func (s *Store) RemoveFolder(kind, name string) error {
	path, err := s.named(folderDir, kind, name)
	if err != nil {
		return err
	}
	if _, err := s.discard(path); err != nil {
		return fmt.Errorf("%s %q: %w", kind, name, err)
	}
	return nil
}

// CacheFile returns the path of a file that may vanish at any time, such as
// the stat cache of a context. Its folder exists when the store can be
// written; PutCacheFile writes it.
func (s *Store) CacheFile(kind, name string) string {
	dir := s.path(cacheDir, digest.Of([]byte(kind)).Hex())
	if checkKind(kind) == nil {
		dir = s.path(cacheDir, kind)
	}
	// Without the folder the file is as good as absent.
	_ = os.MkdirAll(dir, folderMode)
	return dir + "/" + digest.Of([]byte(name)).Hex()
}

// PutCacheFile replaces a cache file, whole.
func (s *Store) PutCacheFile(kind, name string, b []byte) error {
	return s.WriteCacheFile(kind, name, writeBytes(b))
}

// WriteCacheFile replaces a cache file, whole, by what fn writes.
func (s *Store) WriteCacheFile(kind, name string, fn func(io.Writer) error) error {
	if err := s.writeWith("cache", s.CacheFile(kind, name), fn); err != nil {
		return fmt.Errorf("cache of %s: %w", kind, err)
	}
	crash.Point("store.cache.done")
	return nil
}
