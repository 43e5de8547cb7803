package store

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// Pruning beside running builds rests on pins. A process that holds a Use
// lock has a file in locks/users/, locked while it lives, to which it appends
// the digest of every layer and blob that the store tells it about: by
// Record, HasLayer, CommitLayer, StatBlob, OpenBlob, ReadBlob and PutBlob.
// Telling and pinning happen under the shared gate lock, while pruning reads
// all pins and moves its victims away under the exclusive one. So either the
// pruner sees the pin, or the process sees that the thing is gone.

// useFile is the file of pins of one process.
type useFile struct {
	mu     sync.Mutex
	file   *os.File // nil once closed
	pinned map[digest.Digest]struct{}
}

// Use says that this process works with the store. Until Close nothing that
// the store has told it about goes away. It waits while another process
// holds Exclusive. A process may hold several.
func (s *Store) Use(ctx context.Context) (*Lock, error) {
	l, err := s.lock(ctx, s.path(lockDir, lockUse), flock.Shared, false, nil)
	if err != nil {
		return nil, fmt.Errorf("use of store %s: %w", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.use == nil {
		f, err := s.newLocked(s.path(lockDir, lockUsers, "pins"), createNew)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("use of store %s: %w", s.dir, err)
		}
		s.use = &useFile{file: f, pinned: map[digest.Digest]struct{}{}}
	}
	s.ownUse++
	l.after = s.endUse
	return l, nil
}

func (s *Store) endUse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ownUse--; s.ownUse > 0 {
		return
	}
	s.use.close()
	s.use = nil
}

// holding runs look, which finds or makes the thing named d, and pins d when
// look succeeds and this process holds a Use lock.
func (s *Store) holding(d digest.Digest, look func() error) error {
	s.mu.Lock()
	u := s.use
	s.mu.Unlock()
	if u == nil || u.has(d) {
		return look()
	}
	gate, err := s.gate(flock.Shared)
	if err != nil {
		return err
	}
	defer gate.Close()
	if err := look(); err != nil {
		return err
	}
	return s.Explain(u.pin(d))
}

// Pin is for who makes or uses something of which the store does not know
// that it could be pruned, such as a document: d is pinned like what the store
// tells of. See Unpinned.
func (s *Store) Pin(d digest.Digest) error {
	return s.holding(d, func() error { return nil })
}

// Unpinned calls fn, which may remove what is not pinned, while nothing can be
// pinned. fn must be short and must not ask the store for layers or blobs.
func (s *Store) Unpinned(fn func(pinned func(digest.Digest) bool) error) error {
	gate, err := s.gate(flock.Exclusive)
	if err != nil {
		return err
	}
	defer gate.Close()
	all, err := s.pins()
	if err != nil {
		return err
	}
	return fn(func(d digest.Digest) bool { _, ok := all[d]; return ok })
}

// gate is held for moments only, so nothing calls its waiting off.
func (s *Store) gate(how int) (*Lock, error) {
	return s.lock(context.Background(), s.path(lockDir, lockGate), how, false, nil)
}

func (u *useFile) has(d digest.Digest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.pinned[d]
	return ok
}

func (u *useFile) pin(d digest.Digest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.file == nil {
		return nil
	}
	if _, err := u.file.WriteAt(d[:], int64(len(u.pinned)*len(d))); err != nil {
		return err
	}
	u.pinned[d] = struct{}{}
	return nil
}

func (u *useFile) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	os.Remove(u.file.Name())
	u.file.Close()
	u.file = nil
}

// pins returns what living processes have been told is there. The caller
// holds the gate exclusively.
func (s *Store) pins() (map[digest.Digest]struct{}, error) {
	all := map[digest.Digest]struct{}{}
	names, err := readNames(s.path(lockDir, lockUsers))
	if err != nil {
		return all, ignoreAbsent(err)
	}
	for _, n := range names {
		if err := addPins(all, s.path(lockDir, lockUsers, n)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func addPins(all map[digest.Digest]struct{}, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer f.Close()
	dead, err := flock.Try(f, flock.Shared)
	if err != nil || dead {
		return err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	for ; len(b) >= len(digest.Digest{}); b = b[len(digest.Digest{}):] {
		all[digest.Digest(b[:len(digest.Digest{})])] = struct{}{}
	}
	return nil
}
