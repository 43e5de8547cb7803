package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// FsckOptions say how to check.
type FsckOptions struct {
	// VerifyLayer, if not nil, checks what is in a layer's folder.
	VerifyLayer func(dir string) error
	// VerifyPart, if not nil, checks a folder in a layer's folder, of which only the
	// part is removed.
	VerifyPart func(dir string) error
	// Repair removes what is damaged, so that a build makes it again, and sets
	// permissions right. It waits for running builds: the caller holds no Use.
	Repair bool
}

// Problem is one broken promise.
type Problem struct {
	Kind     string // "blob", "layer", "record", "doc", "folder", "cache", "tmp", "permission", "name"
	Path     string // below the store's folder
	Text     string
	Repaired bool
}

// Leftover says that the promise is kept: what a killed process leaves in tmp
// harms nobody, and the next build or prune removes it.
func (p Problem) Leftover() bool { return p.Kind == "tmp" }

func (p Problem) String() string {
	done := ""
	if p.Repaired {
		done = " (repaired)"
	}
	return fmt.Sprintf("%s: %s: %s%s", p.Kind, p.Path, p.Text, done)
}

// checker is one run of Fsck.
type checker struct {
	s        *Store
	ctx      context.Context
	o        FsckOptions
	problems []Problem
}

// Fsck reads everything in the store and returns each promise that is broken;
// it fails only when it cannot go on. Builds may run beside it unless it
// repairs.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) ([]Problem, error) {
	one, err := s.lock(ctx, s.path(lockDir, lockPrune), flock.Exclusive, false, nil)
	if err != nil {
		return nil, fmt.Errorf("store %s: fsck: %w", s.dir, err)
	}
	defer one.Close()
	if o.Repair {
		alone, err := s.Exclusive(ctx)
		if err != nil {
			return nil, err
		}
		defer alone.Close()
	}
	c := &checker{s: s, ctx: ctx, o: o}
	for _, check := range []func() error{
		c.top, c.blobs, c.layers, c.records, c.docs, c.folders, c.caches, c.tmp,
	} {
		if err := check(); err != nil {
			return c.problems, fmt.Errorf("store %s: fsck: %w", s.dir, err)
		}
	}
	return c.problems, nil
}

// report notes a problem and, when repairing, runs repair; a problem with a
// nil repair is for people.
func (c *checker) report(kind, path, text string, repair func() error) error {
	p := Problem{Kind: kind, Path: path, Text: text}
	if len(path) > len(c.s.dir) {
		p.Path = path[len(c.s.dir)+1:]
	}
	var err error
	if c.o.Repair && repair != nil {
		err = repair()
		p.Repaired = err == nil
	}
	c.problems = append(c.problems, p)
	return err
}

// drop is the repair of what can be made again.
func (c *checker) drop(path string) func() error {
	return func() error {
		_, err := c.s.discard(path)
		return err
	}
}

// top checks the folders of the store, who may enter them, and that nothing
// else lies there.
func (c *checker) top() error {
	names, err := readNames(c.s.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == headName || n == "lost+found" || slices.Contains(folderNames(), n) {
			continue
		}
		if err := c.report("name", c.s.path(n), "not the store's", nil); err != nil {
			return err
		}
	}
	for _, path := range append(c.s.paths(folderNames()), c.s.dir) {
		if err := c.private(path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) paths(names []string) []string {
	var paths []string
	for _, n := range names {
		paths = append(paths, s.path(n))
	}
	return paths
}

// private checks that a folder is a folder, this user's, and closed to others.
func (c *checker) private(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT {
		return c.report("name", path, "the folder is missing", func() error { return os.Mkdir(path, folderMode) })
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return c.report("name", path, "not a folder", nil)
	}
	if int(st.Uid) != os.Geteuid() {
		return c.report("permission", path, fmt.Sprintf("owned by user %d", st.Uid), nil)
	}
	if perm := st.Mode & 0o777; perm != folderMode {
		return c.report("permission", path, fmt.Sprintf("mode %03o, not %03o", perm, folderMode),
			func() error { return os.Chmod(path, folderMode) })
	}
	return nil
}

func (c *checker) blobs() error {
	return c.s.eachSharded(blobDir, func(path string, d digest.Digest, ok bool) error {
		if !ok {
			return c.report("name", path, "not a blob's name, or in the wrong folder", c.drop(path))
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		got, err := hashFile(path)
		if err != nil {
			return c.report("blob", path, err.Error(), c.drop(path))
		}
		if got != d {
			return c.report("blob", path, fmt.Sprintf("the content has digest %s", got.Short()), c.drop(path))
		}
		return nil
	})
}

func hashFile(path string) (digest.Digest, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return digest.Digest{}, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return digest.Digest{}, errors.Join(errors.New("not a regular file"), err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return digest.Digest{}, err
	}
	return digest.Digest(h.Sum(nil)), nil
}

func (c *checker) layers() error {
	return c.s.eachSharded(layerDir, func(path string, id digest.Digest, ok bool) error {
		if !ok || !isFolder(path) {
			return c.report("name", path, "not a layer's folder, or in the wrong place", c.drop(path))
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		st, err := c.s.look(path)
		if err != nil || !st.there {
			return err
		}
		if st.bad != "" {
			return c.report("layer", path, st.bad, c.drop(path))
		}
		for _, part := range st.parts {
			err := c.report("layer", path+"/"+part, "it was not durable when the machine went down",
				func() error { return c.s.dropStalePart(id, part) })
			if err != nil {
				return err
			}
		}
		if c.o.VerifyLayer == nil {
			return nil
		}
		if err := c.o.VerifyLayer(path); err != nil {
			return c.report("layer", path, err.Error(), c.drop(path))
		}
		return c.parts(path, id)
	})
}

// parts checks what was added to a layer.
func (c *checker) parts(path string, id digest.Digest) error {
	if c.o.VerifyPart == nil {
		return nil
	}
	names, err := readNames(path)
	if err != nil {
		return err
	}
	for _, n := range names {
		part := path + "/" + n
		if !isFolder(part) {
			continue
		}
		if bad := c.o.VerifyPart(part); bad != nil {
			if err := c.report("layer", part, bad.Error(), func() error { return c.s.DropPart(id, n, func(string) bool { return true }) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) records() error {
	return c.s.eachSharded(recordDir, func(path string, key digest.Digest, ok bool) error {
		if !ok {
			return c.report("name", path, "not a record's name, or in the wrong folder", c.drop(path))
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return c.report("record", path, err.Error(), c.drop(path))
		}
		file, err := parseRecord(key, b)
		if err != nil {
			return c.report("record", path, err.Error(), c.drop(path))
		}
		if file.Layer.IsZero() || isFolder(c.s.LayerDir(file.Layer)) {
			return nil
		}
		return c.report("record", path, fmt.Sprintf("its layer %s is missing", file.Layer.Short()), c.drop(path))
	})
}

func (c *checker) docs() error {
	return c.named(docDir, func(path string) error {
		b, err := readDoc(path)
		if err == nil && !json.Valid(b) {
			err = errors.New("not JSON")
		}
		if errors.Is(err, ErrNotFound) {
			err = errors.New("empty")
		}
		if err != nil {
			return c.report("doc", path, err.Error(), c.drop(path))
		}
		return nil
	})
}

func (c *checker) folders() error {
	return c.named(folderDir, func(path string) error {
		if isFolder(path) {
			return nil
		}
		return c.report("folder", path, "not a folder", c.drop(path))
	})
}

// named checks the names of everything below dir, and each thing with check.
func (c *checker) named(dir string, check func(path string) error) error {
	kinds, err := readNames(c.s.path(dir))
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, k := range kinds {
		if checkKind(k) != nil || !isFolder(c.s.path(dir, k)) {
			if err := c.report("name", c.s.path(dir, k), "not a kind", nil); err != nil {
				return err
			}
			continue
		}
		err := c.s.eachNamed(dir, k, func(path, _ string, bad error) error {
			if bad != nil {
				return c.report("name", path, "not a name that the store gives", nil)
			}
			return check(path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) caches() error {
	kinds, err := readNames(c.s.path(cacheDir))
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, k := range kinds {
		path := c.s.path(cacheDir, k)
		if !isFolder(path) {
			if err := c.report("name", path, "not a kind", c.drop(path)); err != nil {
				return err
			}
			continue
		}
		names, err := readNames(path)
		if err != nil {
			return err
		}
		for _, n := range names {
			if _, err := digest.ParseHex(n); err == nil {
				continue
			}
			if err := c.report("cache", path+"/"+n, "not the name of a cache file", c.drop(path+"/"+n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) tmp() error {
	names, err := readNames(c.s.path(tmpDir))
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, n := range names {
		path := c.s.path(tmpDir, n)
		if resting(path) {
			continue
		}
		if !ownerDead(path) {
			continue
		}
		err := c.report("tmp", path, "left by a process that died", func() error {
			_, _, err := c.s.sweepOne(path)
			return err
		})
		if err != nil {
			return err
		}
	}
	if !c.o.Repair {
		return nil
	}
	return c.s.sweepLocks()
}
