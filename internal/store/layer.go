package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// AwayName is the file by which a layer's folder says that it stands for one
// whose bytes are elsewhere. It counts as there, and the layer itself takes its
// place when it is committed.
const AwayName = "away.json"

// The store's own files in a layer's folder, beside the marks of durable.go.
const (
	filesName = ".files" // what the layer was made of: a line "SIZE NAME" each, -1 for a folder
	sizeName  = ".size"  // what measure found
)

// LayerDir returns the folder of a layer, whether or not it is there. Names
// in it that begin with a dot are the store's own.
func (s *Store) LayerDir(id digest.Digest) string { return s.sharded(layerDir, id) }

// HasLayer reports whether a layer is there and whole as far as the store can
// tell. Under a Use lock, true stays true.
func (s *Store) HasLayer(id digest.Digest) bool { return s.NeedLayer(id) == nil }

// HasNoLayers reports whether the store holds nothing that a build could find.
func (s *Store) HasNoLayers() bool {
	names, err := readNames(s.path(layerDir))
	return err == nil && len(names) == 0
}

// NeedLayer is HasLayer with the reason: ErrNotFound when the layer is not there
// or not whole, all else when that cannot be told.
func (s *Store) NeedLayer(id digest.Digest) error {
	var st state
	err := s.holding(id, func() (err error) {
		st, err = s.look(s.LayerDir(id))
		if err == nil && !st.there {
			err = ErrNotFound
		}
		if err == nil && st.bad != "" {
			err = fmt.Errorf("%w: %s", ErrNotFound, st.bad)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("layer %s: %w", id.Short(), err)
	}
	for _, part := range st.parts {
		if err := s.dropStalePart(id, part); err != nil {
			return err
		}
	}
	if st.fresh {
		s.noteFresh(id)
	}
	s.touchAt(s.LayerDir(id), st.touched)
	return nil
}

func (s *Store) noteFresh(id digest.Digest) {
	s.mu.Lock()
	s.dirty = true
	s.fresh[id] = struct{}{}
	s.mu.Unlock()
}

// CommitLayer makes the folder t the layer id, for ever unchanged. When the
// layer is there already, t is removed and that is success: what has one id
// is equal. What stands for a layer (AwayName) is replaced, by one moment's
// rename. t is used up in either case, unless there is an error.
func (s *Store) CommitLayer(t *Temp, id digest.Digest) error {
	if t.lock == nil {
		return fmt.Errorf("layer %s: its temporary folder is gone", id.Short())
	}
	if err := s.finish(t.Path); err != nil {
		return fmt.Errorf("layer %s: %w", id.Short(), s.Explain(err))
	}
	crash.Point("store.layer.marked")
	var placed bool
	err := s.holding(id, func() (err error) {
		placed, err = s.place(t.Path, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("layer %s: %w", id.Short(), s.Explain(err))
	}
	crash.Point("store.layer.renamed")
	s.noteFresh(id)
	if !placed {
		return t.Remove()
	}
	return t.release()
}

// place moves from to where the layer belongs, unless a sound one is there.
// Without it, from may hold what lay there.
func (s *Store) place(from string, id digest.Digest) (placed bool, err error) {
	to := s.LayerDir(id)
	err = withParent(to, func() error { return renameNew(from, to) })
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err == nil, err
	}
	// One at a time, or the second would take away what the first has mended.
	l, err := s.lockPart(id, "")
	if err != nil {
		return false, err
	}
	defer l.Close()
	st, err := s.look(to)
	if err != nil || st.there && st.bad == "" && !st.away {
		return false, err
	}
	if st.away && unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE) == nil {
		return false, nil
	}
	if _, err := s.trash(to); err != nil {
		return false, err
	}
	crash.Point("store.layer.replacing")
	if err := renameNew(from, to); !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	return false, nil // another process made it meanwhile
}

// renameNew renames without replacing. Where the file system cannot promise
// that (NFS), rename(2) still never replaces a folder that holds something.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// finish adds the store's own files to what will be a layer. Nobody sees the
// folder yet, so they are written in place.
func (s *Store) finish(dir string) error {
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, n := range names {
		if n[0] == '.' || strings.Contains(n, "\n") {
			return fmt.Errorf("%q: not a name for a part of a layer", n)
		}
		fi, err := os.Lstat(dir + "/" + n)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%d %s\n", partSize(fi), n)
	}
	if err := os.WriteFile(dir+"/"+filesName, []byte(list.String()), fileMode); err != nil {
		return err
	}
	return os.WriteFile(dir+"/"+freshMark, []byte(s.boot()), fileMode)
}

// unlike compares a layer's folder with what it was made of, and says what
// differs. It is cheap: it does not look into folders.
func unlike(dir string) (string, error) {
	b, err := os.ReadFile(dir + "/" + filesName)
	if errors.Is(err, fs.ErrNotExist) {
		return "it was never finished", nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		size, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		want, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil {
			return filesName + " is damaged", nil
		}
		fi, err := os.Lstat(dir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			return name + " is missing", nil
		}
		if err != nil {
			return "", err
		}
		if got := partSize(fi); got != want {
			return fmt.Sprintf("%s has %d bytes, not %d", name, got, want), nil
		}
	}
	return "", nil
}

func partSize(fi fs.FileInfo) int64 {
	if fi.IsDir() {
		return -1
	}
	return fi.Size()
}

// mark says that what is in dir is of this boot and not durable.
func (s *Store) mark(dir, part string) error {
	return s.write("mark", dir+"/"+markOf(part), []byte(s.boot()))
}

// AddToLayer adds one file or folder, called name, to a layer that is there:
// something that follows from its content, such as an index. fill makes it at
// the path it is given, which lies on the same file system; an error of fill
// leaves nothing. When name is there already fill is not called. Of several
// processes that add the same name one fills and the others wait for it.
func (s *Store) AddToLayer(id digest.Digest, name string, fill func(path string) error) error {
	if name == "" || name[0] == '.' || len(name) > maxElem || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("layer %s: part %q: not a plain name", id.Short(), name)
	}
	if err := s.NeedLayer(id); err != nil {
		return err
	}
	to := s.LayerDir(id) + "/" + name
	if _, err := os.Lstat(to); err == nil {
		return nil // NeedLayer has dropped a stale one
	}
	l, err := s.lockPart(id, name)
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := s.fillPart(id, name, to, fill); err != nil {
		return fmt.Errorf("layer %s: %s: %w", id.Short(), name, s.Explain(err))
	}
	s.noteFresh(id)
	return nil
}

func (s *Store) fillPart(id digest.Digest, name, to string, fill func(path string) error) error {
	t, err := s.Temp("part")
	if err != nil {
		return err
	}
	defer t.Remove()
	from := t.Path + "/" + name
	if err := fill(from); err != nil {
		return err
	}
	crash.Point("store.part.filled")
	if err := s.mark(s.LayerDir(id), name); err != nil {
		return err
	}
	crash.Point("store.part.marked")
	if err := renameNew(from, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	crash.Point("store.part.renamed")
	return ignoreAbsent(os.Remove(s.LayerDir(id) + "/" + sizeName))
}

func (s *Store) lockPart(id digest.Digest, name string) (*Lock, error) {
	path := s.briefPath("part", lockNamed(id.Hex(), name))
	l, err := s.lock(context.Background(), path, flock.Exclusive, true, nil)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %s: %w", id.Short(), name, err)
	}
	return l, nil
}

// DropPart removes a part that is damaged: whoever wants it makes it again. That is
// asked under the part's lock, as it may have been made anew. It is no error when
// there is none.
func (s *Store) DropPart(id digest.Digest, part string, damaged func(path string) bool) error {
	dir := s.LayerDir(id)
	path := dir + "/" + part
	if _, err := os.Lstat(path); err != nil {
		return ignoreAbsent(err)
	}
	l, err := s.lockPart(id, part)
	if err != nil {
		return err
	}
	defer l.Close()
	if !damaged(path) {
		return nil
	}
	if _, err := s.discard(path); ignoreAbsent(err) != nil {
		return fmt.Errorf("layer %s: %s: %w", id.Short(), part, err)
	}
	return errors.Join(ignoreAbsent(os.Remove(dir+"/"+markOf(part))), ignoreAbsent(os.Remove(dir+"/"+sizeName)))
}

// dropStalePart removes a part that may have lost bytes in a power cut. The
// mark is read again under the part's lock: it may have been made anew.
func (s *Store) dropStalePart(id digest.Digest, part string) error {
	l, err := s.lockPart(id, part)
	if err != nil {
		return err
	}
	defer l.Close()
	dir := s.LayerDir(id)
	boot, err := os.ReadFile(dir + "/" + markOf(part))
	if err != nil || string(boot) == s.boot() {
		return ignoreAbsent(err)
	}
	if _, err := s.discard(dir + "/" + part); err != nil {
		return fmt.Errorf("layer %s: %s: %w", id.Short(), part, err)
	}
	return ignoreAbsent(os.Remove(dir + "/" + markOf(part)))
}

// eachLayer calls fn for every layer that has a proper place.
func (s *Store) eachLayer(fn func(id digest.Digest, dir string) error) error {
	return s.eachSharded(layerDir, func(path string, id digest.Digest, ok bool) error {
		if !ok {
			return nil
		}
		return fn(id, path)
	})
}
