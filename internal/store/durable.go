package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
)

// What a power cut does: renames are kept in order by the journal, but the
// bytes of files that were renamed may still be missing, as files of no
// length, or of the right length with other content. No size or count can
// tell for sure. So a layer carries, beside the sizes of its files, a file
// ".fresh" with the id of the boot that made it, from before it gets its name
// until Sync has flushed the file system. While the machine runs, a fresh
// layer is as good as any, whoever made it. After a power cut the boot id is
// another: the layer counts as absent and is made again. A part that was added
// to a layer later has a mark of its own, ".fresh.NAME", and only the part
// goes.
//
// The mark of a layer that a killed build made stays until a later build that
// uses the layer syncs. Where the boot id cannot be read (/proc is hidden)
// it is "unknown", and no power cut is noticed.

const freshMark = ".fresh"

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// markOf is the name of the mark of a part; "" is the layer as it was made.
func markOf(part string) string {
	if part == "" {
		return freshMark
	}
	return freshMark + "." + part
}

// state is what a layer's folder says of itself.
type state struct {
	there   bool     // the folder exists
	bad     string   // why the layer must not be used; "" when it may
	parts   []string // added parts that must not be used
	away    bool     // it stands for a layer that is elsewhere
	fresh   bool     // some of it is of this boot and not durable yet
	touched time.Time
}

// look examines the layer in dir as far as that is cheap. A layer may take the
// place of what stands for it at any moment: then what was seen in parts of the
// one and of the other counts for nothing.
func (s *Store) look(dir string) (state, error) {
	for {
		st, was, err := s.lookOnce(dir)
		if err == nil && st.there && st.bad == "" || was == nil {
			return st, err
		}
		if is, serr := os.Lstat(dir); serr != nil || os.SameFile(was, is) {
			return st, err
		}
	}
}

// lookOnce also returns the folder that it saw, if there was one.
func (s *Store) lookOnce(dir string) (state, fs.FileInfo, error) {
	f, err := os.Open(dir)
	if err != nil {
		return state{}, nil, ignoreAbsent(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return state{}, nil, err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return state{}, fi, ignoreAbsent(err) // a pruning has removed it since it was opened
	}
	st := state{there: true, touched: fi.ModTime()}
	for _, n := range names {
		if !strings.HasPrefix(n, freshMark) {
			st.away = st.away || n == AwayName
			continue
		}
		boot, err := os.ReadFile(dir + "/" + n)
		switch {
		case errors.Is(err, fs.ErrNotExist): // became durable just now
		case err != nil:
			return state{}, fi, err
		case string(boot) == s.boot():
			st.fresh = true
		case n == freshMark:
			st.bad = "it was not durable when the machine went down"
		default:
			st.parts = append(st.parts, strings.TrimPrefix(n, freshMark+"."))
		}
	}
	if st.bad == "" {
		st.bad, err = unlike(dir)
	}
	return st, fi, err
}

// Sync makes everything durable that is in the store now, with one flush of
// its file system. It costs nothing when this process has neither written
// anything nor met a layer that is not durable.
func (s *Store) Sync() error {
	s.mu.Lock()
	fresh, idle := s.fresh, !s.dirty
	s.fresh, s.dirty = map[digest.Digest]struct{}{}, false
	s.mu.Unlock()
	if idle {
		return nil
	}
	err := s.makeDurable(fresh)
	if err == nil {
		return nil
	}
	for id := range fresh {
		s.noteFresh(id)
	}
	s.wrote()
	return fmt.Errorf("store %s: %w", s.dir, s.Explain(err))
}

func (s *Store) makeDurable(layers map[digest.Digest]struct{}) error {
	var marks []string
	for id := range layers {
		m, err := filesIn(s.LayerDir(id), freshMark)
		if err != nil {
			return fmt.Errorf("layer %s: %w", id.Short(), err)
		}
		marks = append(marks, m...)
	}
	if err := s.flush(); err != nil {
		return err
	}
	crash.Point("store.sync.flushed")
	// Only marks that were there before the flush: what came later is not durable.
	for _, m := range marks {
		if err := ignoreAbsent(os.Remove(m)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) flush() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs: %w", err)
	}
	return nil
}

// filesIn lists the paths in dir whose names begin with prefix.
func filesIn(dir, prefix string) ([]string, error) {
	names, err := readNames(dir)
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	var paths []string
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			paths = append(paths, dir+"/"+n)
		}
	}
	return paths, nil
}

// recency is the grain of "last used", so that a build that is repeated all
// day writes nothing (as Go's build cache does it).
const recency = time.Hour

// touch notes that path was used now. It is a hint for pruning: a failure
// costs nothing but order.
func (s *Store) touch(path string, fi fs.FileInfo) { s.touchAt(path, fi.ModTime()) }

func (s *Store) touchAt(path string, last time.Time) {
	now := s.now()
	if now.Sub(last) < recency {
		return
	}
	_ = os.Chtimes(path, now, now)
}
