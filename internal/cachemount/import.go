package cachemount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// An Import is an export that is being read. It is the caller's to close.
type Import struct {
	f      *folder
	Caches []*Saved
}

// Saved is one cache of an export.
type Saved struct {
	Identity
	Files  int
	Bytes  int64 // of all files
	Stored int64 // of all blobs
	f      *folder
	s      *saved
	t      *tree
}

// OpenImport reads what an export in dir holds, of which want chooses; nil is
// all. The content of files is checked when it is unpacked. An export into dir
// waits until Close.
func OpenImport(ctx context.Context, dir string, want func(id string) bool) (*Import, error) {
	f, err := openFolder(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	in := &Import{f: f}
	list, err := f.caches()
	for _, s := range list {
		if err != nil {
			break
		}
		if want != nil && !want(s.ID) {
			continue
		}
		var t *tree
		if t, err = f.readTree(s); err != nil {
			err = &DamagedError{dir, fmt.Errorf("cache %s: %w", clip(s.ID), err)}
			break
		}
		in.Caches = append(in.Caches, describe(f, s, t))
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return in, nil
}

func describe(f *folder, s *saved, t *tree) *Saved {
	out := &Saved{Identity: s.Identity, Files: len(t.files), f: f, s: s, t: t}
	for _, d := range s.manifest.Layers {
		out.Stored += d.Size
	}
	for _, x := range t.files {
		out.Bytes += x.Size
	}
	return out
}

// Close ends the reading.
func (in *Import) Close() { in.f.close() }

// Unpack makes the folder dir what the cache was. It returns the note for the
// next export, and how many owners and attributes of files this process could
// not give them. After an error dir is rubbish.
func (s *Saved) Unpack(ctx context.Context, dir string) (noted []byte, lacking int, err error) {
	u := &unpacker{Saved: s, ctx: ctx, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, 0, err
	}
	if u.root, err = fsroot.Open(dir); err != nil {
		return nil, 0, err
	}
	defer u.root.Close()
	if err := u.run(); err != nil {
		return nil, 0, fmt.Errorf("cache %s: %w", clip(s.ID), err)
	}
	now := time.Now()
	// What is written to from now on must look later.
	time.Sleep(grain)
	noted, err = json.Marshal(note{s.s.manifest.Layers[0].Digest, now})
	return noted, u.lacking, err
}

// unpacker unpacks one cache: folders, then packs side by side, then what needs
// all files to be there.
type unpacker struct {
	*Saved
	ctx      context.Context
	root     *fsroot.Root
	uid, gid uint32

	mu      sync.Mutex
	lacking int
	err     error
}

// part is where a piece goes.
type part struct {
	f      *file
	offset int64
}

func (u *unpacker) run() error {
	wanted := map[digest.Digest][]part{}
	for _, f := range u.t.files {
		if err := u.prepare(f, wanted); err != nil {
			return fmt.Errorf("%s: %w", clip(f.Path), err)
		}
	}
	if err := u.fill(wanted); err != nil {
		return err
	}
	for _, f := range slices.Backward(u.t.files) {
		if f.Kind == entry.File && f.same == "" && len(f.pieces) < 2 {
			continue // done when it was written
		}
		if err := u.end(f); err != nil {
			return fmt.Errorf("%s: %w", clip(f.Path), err)
		}
	}
	return nil
}

// prepare makes folders and links, and notes what goes into files.
func (u *unpacker) prepare(f *file, wanted map[digest.Digest][]part) error {
	switch {
	case f.Path == ".":
		return nil
	case f.Kind == entry.Dir:
		return u.root.Mkdir(f.Path, 0o700)
	case f.Kind == entry.Symlink:
		return u.root.Symlink(f.Entry.Link, f.Path)
	case f.same != "":
		return nil
	case len(f.pieces) == 0:
		return u.writeFile(f, nil)
	}
	var offset int64
	for _, p := range f.pieces {
		wanted[p.sum] = append(wanted[p.sum], part{f, offset})
		offset += int64(p.size)
	}
	return nil
}

// fill writes the pieces of all packs.
func (u *unpacker) fill(wanted map[digest.Digest][]part) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, p := range u.t.packs {
		slots <- struct{}{}
		mine := u.claim(p, wanted)
		wg.Go(func() {
			defer func() { <-slots }()
			u.fail(u.pack(p, mine))
		})
		if u.failed() != nil {
			break
		}
	}
	wg.Wait()
	return u.failed()
}

// claim takes what one pack will write out of wanted: a piece that is in two
// packs is written once.
func (u *unpacker) claim(p *pack, wanted map[digest.Digest][]part) [][]part {
	out := make([][]part, len(p.pieces))
	for i, x := range p.pieces {
		out[i] = wanted[x.sum]
		delete(wanted, x.sum)
	}
	return out
}

func (u *unpacker) pack(p *pack, parts [][]part) error {
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	raw, err := u.f.unpack(p)
	if err != nil {
		return &DamagedError{u.f.dir, err}
	}
	for i, x := range p.pieces {
		for _, to := range parts[i] {
			if err := u.write(to, raw[:x.size]); err != nil {
				return fmt.Errorf("%s: %w", clip(to.f.Path), err)
			}
		}
		raw = raw[x.size:]
	}
	return nil
}

func (u *unpacker) write(to part, b []byte) (err error) {
	if len(to.f.pieces) == 1 {
		return u.writeFile(to.f, b)
	}
	w, err := u.root.OpenNoFollow(to.f.Path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	_, err = w.WriteAt(b, to.offset)
	return err
}

// writeFile makes a file that is one piece, or empty.
func (u *unpacker) writeFile(f *file, b []byte) (err error) {
	w, err := u.root.OpenNoFollow(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return u.end(f)
}

// end gives a name what it needs when its content is there. Folders come after
// all that is in them. The order matters: chown takes away the set-id bits and
// the capability attribute, and all of it but the last changes no mtime.
func (u *unpacker) end(f *file) error {
	if f.same != "" {
		return u.root.Link(f.same, f.Path)
	}
	if f.UID != u.uid || f.GID != u.gid {
		err := u.root.Chown(f.Path, f.UID, f.GID)
		if err := u.optional(err); err != nil {
			return err
		}
	}
	if f.Kind != entry.Symlink {
		if err := u.root.Chmod(f.Path, f.Mode); err != nil {
			return err
		}
	}
	for n, v := range f.Xattrs {
		if err := u.optional(u.root.Setxattr(f.Path, n, v)); err != nil {
			return err
		}
	}
	return u.root.Utimes(f.Path, f.Mtime)
}

// optional drops the error of what this process, or this file system, cannot
// give a file, and counts it.
func (u *unpacker) optional(err error) error {
	if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lacking++
	return nil
}

func (u *unpacker) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil {
		u.err = err
	}
}

func (u *unpacker) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
