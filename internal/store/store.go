// Package store owns what whittle keeps on disk: blobs, layers, records,
// documents, mutable folders, caches and locks, all of them plain files below
// one folder, shared by any number of processes without a daemon.
//
//	store.json            format version and owner
//	blobs/ab/HEX          bytes by their SHA-256
//	layers/ab/HEX/…       one folder a layer; what is in it is its maker's business
//	records/ab/HEX        key → layer, and what is known of it
//	docs/KIND/NAME        small JSON files
//	folders/KIND/NAME/…   mutable folders: containers, cache mounts, logs
//	cache/KIND/HEX        files that may vanish at any time
//	locks/…               held by flock(2); a killed process holds nothing
//	tmp/…                 unfinished work and rubbish
//
// What it promises:
//
//   - Every write is temporary file or folder → complete → rename. A process
//     killed at any instant leaves at most rubbish in tmp/, which [Store.Prune]
//     and [Store.Sweep] tell from other processes' work by its lock.
//   - A repeat is harmless, and of two processes that make the same thing one
//     wins and both succeed.
//   - Nothing is fsynced on its own. [Store.Sync], at the end of a build,
//     makes everything durable with one syncfs(2). A layer carries a mark of
//     the boot that made it until then; after a power cut a layer with the
//     mark of another boot counts as absent, and so do the records that name
//     it (see durable.go). Records carry a checksum, layers the sizes of
//     their files.
//   - What a process has been told is there stays there for as long as it
//     holds a [Store.Use] lock, pruning or not (see use.go).
//
// What it does not do: it does not know what is inside a layer or a document,
// and it never follows a link inside a layer. The folder is closed to other
// users (0700): layers hold set-id programs.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
)

// format is the version of the layout on disk.
const format = 1

const (
	headName   = "store.json"
	tmpDir     = "tmp"
	blobDir    = "blobs"
	layerDir   = "layers"
	recordDir  = "records"
	docDir     = "docs"
	folderDir  = "folders"
	cacheDir   = "cache"
	lockDir    = "locks"
	folderMode = 0o700
	fileMode   = 0o600
)

// folderNames lists everything that a store has beside its head.
func folderNames() []string {
	return []string{tmpDir, blobDir, layerDir, recordDir, docDir, folderDir, cacheDir, lockDir}
}

// notFound is the type of ErrNotFound, so that it is fs.ErrNotExist too.
type notFound struct{}

func (notFound) Error() string        { return "not in the store" }
func (notFound) Is(target error) bool { return target == fs.ErrNotExist }

// ErrNotFound says that the store does not have what was asked for. It is
// fs.ErrNotExist as well.
var ErrNotFound error = notFound{}

// ErrDamaged says that the store has what was asked for, but not whole.
var ErrDamaged = errors.New("damaged in the store")

// Owner says whose files a store holds. Files of a user namespace mean
// nothing outside it, and the other way round, so each kind has its store.
type Owner struct {
	Kind        string `json:"kind"`  // "root" or "user"
	IDMap       string `json:"idmap"` // the mapping of ids, as text; "" is the identity
	XattrPrefix string `json:"xattr"` // of overlay marks: "trusted." or "user."
}

// Options are the surroundings of a store.
type Options struct {
	Owner Owner
	Now   func() time.Time // nil means time.Now
}

// Store is one open store. Its methods may be called by several goroutines.
type Store struct {
	dir   string
	owner Owner
	now   func() time.Time
	boot  func() string // id of this boot of the machine

	mu     sync.Mutex
	dirty  bool                       // something was written since the last Sync
	fresh  map[digest.Digest]struct{} // layers seen that are not durable yet
	use    *useFile                   // what this process has been told is there
	ownUse int                        // holders of use
}

// head is the content of store.json.
type head struct {
	Format int   `json:"format"`
	Owner  Owner `json:"owner"`
}

// Open opens the store in dir and makes it when it is absent. A folder that
// holds something else, a store of another owner or of a newer format is
// refused with a *RefusedError.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, owner: o.Owner, now: o.Now, boot: sync.OnceValue(bootID),
		fresh: map[digest.Digest]struct{}{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	b, err := os.ReadFile(s.path(headName))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = s.create()
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, &RefusedError{dir, err.Error(), "it belongs to another user, or lies where this one may not write: " +
			"give a folder of your own with --root or WHITTLE_ROOT"}
	}
	if err != nil {
		return nil, s.Explain(fmt.Errorf("store %s: %w", dir, err))
	}
	if err := s.check(b); err != nil {
		return nil, err
	}
	return s, nil
}

// create makes the folders and the head; when two processes do so at once,
// the head of the first counts for both.
func (s *Store) create() ([]byte, error) {
	if err := s.refuseForeign(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, folderMode); err != nil {
		return nil, err
	}
	for _, name := range folderNames() {
		if err := os.MkdirAll(s.path(name), folderMode); err != nil {
			return nil, err
		}
	}
	// A full disk must not keep Prune from its locks.
	for _, name := range []string{lockUse, lockGate, lockPrune} {
		f, err := openLock(s.path(lockDir, name))
		if err != nil {
			return nil, err
		}
		f.Close()
	}
	crash.Point("store.create.folders")
	b, err := json.MarshalIndent(head{format, s.owner}, "", "\t")
	if err != nil {
		return nil, err
	}
	f, err := s.tempFile("head")
	if err != nil {
		return nil, err
	}
	defer f.drop()
	if _, err := f.Write(b); err != nil {
		return nil, err
	}
	crash.Point("store.create.head")
	err = os.Link(f.Name(), s.path(headName))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(s.path(headName))
}

// refuseForeign keeps a store from being spread over a folder of other things.
// The parts of a store that is being made, or whose making was interrupted, are
// not foreign.
func (s *Store) refuseForeign() error {
	names, err := readNames(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != "lost+found" && n != headName && !slices.Contains(folderNames(), n) {
			return &RefusedError{
				Dir:    s.dir,
				Reason: fmt.Sprintf("not a store, and not empty: it holds %q", n),
				Way:    "give an empty or new folder with --root",
			}
		}
	}
	return nil
}

func (s *Store) check(b []byte) error {
	var h head
	if err := json.Unmarshal(b, &h); err != nil {
		return &RefusedError{s.dir, fmt.Sprintf("%s is not readable: %v", headName, err),
			"give another folder with --root, or remove this one"}
	}
	if h.Format != format {
		return &RefusedError{s.dir, fmt.Sprintf("made in format %d; this whittle knows format %d", h.Format, format),
			"use the version of whittle that made it, or give another folder with --root"}
	}
	if h.Owner == s.owner {
		return nil
	}
	way := fmt.Sprintf("give a folder of your own: --root %s-%s", s.dir, s.owner.Kind)
	if h.Owner.Kind != s.owner.Kind {
		return &RefusedError{s.dir, fmt.Sprintf("a store of kind %q; this process needs one of kind %q", h.Owner.Kind, s.owner.Kind), way}
	}
	return &RefusedError{s.dir, fmt.Sprintf("made for the id map %q and attributes %q, not for %q and %q",
		h.Owner.IDMap, h.Owner.XattrPrefix, s.owner.IDMap, s.owner.XattrPrefix), way}
}

// RefusedError says why a folder cannot serve as this process's store.
type RefusedError struct {
	Dir    string
	Reason string
	Way    string // the way out
}

func (e *RefusedError) Error() string { return fmt.Sprintf("store %s: %s", e.Dir, e.Reason) }

// Hint returns the way out.
func (e *RefusedError) Hint() string { return e.Way }

// Dir returns the store's folder, absolute.
func (s *Store) Dir() string { return s.dir }

// Owner returns the owner that the store was opened for.
func (s *Store) Owner() Owner { return s.owner }

// path joins elements that are safe already: constants, hex digits, encoded
// names and names that readNames has returned.
func (s *Store) path(elem ...string) string {
	return s.dir + "/" + strings.Join(elem, "/")
}

// sharded is where the thing named d lies below a folder of the store.
func (s *Store) sharded(dir string, d digest.Digest) string {
	h := d.Hex()
	return s.path(dir, h[:2], h)
}

// wrote notes that Sync has something to do.
func (s *Store) wrote() {
	s.mu.Lock()
	s.dirty = true
	s.mu.Unlock()
}

// readNames lists a folder of the store, sorted.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// eachSharded calls fn for everything in a sharded folder; fn gets false for
// ok when the place or the name is not one that the store gives.
func (s *Store) eachSharded(dir string, fn func(path string, d digest.Digest, ok bool) error) error {
	shards, err := readNames(s.path(dir))
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, shard := range shards {
		names, err := readNames(s.path(dir, shard))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			if err := fn(s.path(dir, shard), digest.Digest{}, false); err != nil {
				return err
			}
			continue
		}
		for _, n := range names {
			d, err := digest.ParseHex(n)
			if err := fn(s.path(dir, shard, n), d, err == nil && n[:2] == shard); err != nil {
				return err
			}
		}
	}
	return nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
