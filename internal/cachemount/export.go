package cachemount

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// Source is a cache that is exported.
type Source struct {
	Identity
	// Hold keeps steps that want the cache alone from it until release; it
	// waits for those that have it. Dir is then its folder.
	Hold func(ctx context.Context) (dir string, release func() error, err error)
	// Note is what SetNote kept, in an earlier export or import, beside the
	// cache; nil if it kept nothing.
	Note    []byte
	SetNote func([]byte) error
}

// note says that at this moment the cache was what a tree says. What has not
// been changed since, as the kernel tells by ctime, need not be read again.
type note struct {
	Tree digest.Digest `json:"tree"`
	At   time.Time     `json:"at"`
}

// Exported says what an export did.
type Exported struct {
	Caches  int
	Files   int
	Bytes   int64 // of files
	Read    int64 // of those, the bytes that were read: the rest was known to be unchanged
	Written int64 // bytes of blobs that were not in the folder before
	Stored  int64 // bytes of all blobs of the folder
	LeftOut int   // files that changed all the time while they were read; sockets, pipes and devices
}

// Export makes dir hold these caches and nothing else. What an older export
// has in it already is not written again. A crash leaves the older one as it
// was; another export into dir waits for this one.
//
// A cache is held for slices of time only, so that no step waits for long; what
// is exported is nevertheless the state of one moment, but for what steps that
// share it write meanwhile: of that each file is whole.
func Export(ctx context.Context, dir string, sources []*Source) (Exported, error) {
	return export(ctx, dir, sources, slice)
}

func export(ctx context.Context, dir string, sources []*Source, slice time.Duration) (Exported, error) {
	var done Exported
	f, err := openFolder(ctx, dir, true)
	if err != nil {
		return done, err
	}
	defer f.close()
	old := map[digest.Digest]*saved{}
	if list, err := f.caches(); err == nil { // a damaged one is replaced
		for _, s := range list {
			old[s.Name()] = s
		}
	}
	before := f.blobNames()
	slices.SortFunc(sources, func(a, b *Source) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Name().Hex(), b.Name().Hex()))
	})
	var list []manifest.Descriptor
	needed := map[digest.Digest]bool{}
	for _, src := range sources {
		x := &exporter{f: f, src: src, done: &done, slice: slice}
		m, err := x.export(ctx, old[src.Name()])
		if err != nil {
			return done, fmt.Errorf("cache %s: %w", src.ID, err)
		}
		list = append(list, m.desc)
		for _, d := range append([]manifest.Descriptor{m.desc, m.manifest.Config}, m.manifest.Layers...) {
			if !needed[d.Digest] {
				done.Stored += d.Size
				if !before[d.Digest.Hex()] {
					done.Written += d.Size
				}
			}
			needed[d.Digest] = true
		}
		done.Caches++
	}
	return done, f.commit(list, needed)
}

// blobNames are the blobs that are there.
func (f *folder) blobNames() map[string]bool {
	names, _ := f.names(blobs) // none, if it cannot be read: then all count as written
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

// exporter exports one cache.
type exporter struct {
	f     *folder
	src   *Source
	done  *Exported
	slice time.Duration // how long the cache is held at a time
	packs *packer
	base  map[string]*file // of the older export, of which the note says that it is what the cache was
	since time.Time        // when it was
	known map[string]*read // what was read in this export
	files []*file
	began time.Time // of the last pass
	buf   []byte
}

// read is a file as it was when it was read.
type read struct {
	info   fsroot.Info
	pieces []piece
}

func (x *exporter) export(ctx context.Context, old *saved) (*saved, error) {
	x.packs, x.known, x.buf = newPacker(x.f), map[string]*read{}, make([]byte, maxPiece)
	if old != nil {
		x.recall(old)
	}
	err := x.scan(ctx)
	need := map[digest.Digest]bool{}
	for _, f := range x.files {
		for _, p := range f.pieces {
			need[p.sum] = true
		}
	}
	if err == nil {
		err = x.packs.tidy(need)
	}
	if err := errors.Join(err, x.packs.wait()); err != nil {
		return nil, err
	}
	return x.finish(need)
}

// recall takes over what an older export has.
func (x *exporter) recall(old *saved) {
	for _, d := range old.manifest.Layers {
		if !x.f.has(d) {
			return
		}
	}
	t, err := x.f.readTree(old)
	if err != nil {
		return
	}
	for _, p := range t.packs {
		x.packs.keep(p)
	}
	var n note
	if json.Unmarshal(x.src.Note, &n) != nil || n.Tree != old.manifest.Layers[0].Digest {
		return
	}
	x.base, x.since = map[string]*file{}, n.At
	for _, f := range t.files {
		x.base[f.Path] = f
	}
	for _, f := range t.files {
		if f.same != "" {
			f.pieces = x.base[f.same].pieces
		}
	}
}

// Slices of the time that a cache is held.
const (
	slice = 300 * time.Millisecond
	pause = 50 * time.Millisecond // longer than a step that waits takes to ask again
	// patience is how long an export gives way to steps. One that gets nowhere
	// holds the cache until it is done.
	patience = 5 * time.Minute
)

// grain is more than the clock of a file system stands still.
const grain = 20 * time.Millisecond

// scan finds the state of one moment: it reads what it does not know for a
// slice, gives way, and begins again, until nothing is left to read.
func (x *exporter) scan(ctx context.Context) error {
	for end := time.Now().Add(patience); ; {
		limit := x.slice
		if time.Now().After(end) {
			limit = patience
		}
		whole, err := x.pass(ctx, limit)
		if whole || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// pass looks at everything, and reads for at most limit.
func (x *exporter) pass(ctx context.Context, limit time.Duration) (whole bool, err error) {
	dir, release, err := x.src.Hold(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, release()) }()
	root, err := fsroot.Open(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	w := &walker{exporter: x, ctx: ctx, root: root, first: map[uint64]*file{}}
	x.files, x.began = nil, time.Now()
	w.leftOut = 0
	if err := w.add("."); err != nil {
		return false, err
	}
	end := time.Now().Add(limit)
	for _, f := range w.todo {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if time.Now().After(end) {
			return false, nil
		}
		if err := w.read(f); err != nil {
			return false, err
		}
	}
	x.files = slices.DeleteFunc(x.files, func(f *file) bool { return w.gone[f] })
	x.done.LeftOut += w.leftOut
	return true, nil
}

// walker is one pass over the folder of a cache.
type walker struct {
	*exporter
	ctx     context.Context
	root    *fsroot.Root
	first   map[uint64]*file // of files with several names
	todo    []*todo
	gone    map[*file]bool // or not to be read
	leftOut int
}

type todo struct {
	*file
	info fsroot.Info
}

// add takes name and what is in it.
func (w *walker) add(name string) error {
	info, err := w.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a step that shares the cache has removed it
	}
	if err != nil {
		return err
	}
	switch info.Kind {
	case entry.File, entry.Dir, entry.Symlink:
	default:
		w.leftOut++
		return nil
	}
	if len(w.files) >= maxEntries {
		return fmt.Errorf("more than %d files", maxEntries)
	}
	f := &file{Entry: info.Entry}
	attrs, err := w.root.Getxattrs(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.Xattrs = attributes(attrs)
	w.files = append(w.files, f)
	switch info.Kind {
	case entry.Dir:
		return w.folder(name)
	case entry.File:
		w.content(f, info)
	}
	return nil
}

func (w *walker) folder(name string) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	names, err := w.root.ReadDir(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		if err := w.add(entry.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

// content finds out what is in a file without reading it, if that can be.
func (w *walker) content(f *file, info fsroot.Info) {
	if info.Inode != 0 {
		if first := w.first[info.Inode]; first != nil {
			f.same = first.Path
			return
		}
		w.first[info.Inode] = f
	}
	if info.Size == 0 {
		return
	}
	if k := w.known[f.Path]; k != nil && alike(k.info, info) {
		f.pieces = k.pieces
		return
	}
	b := w.base[f.Path]
	if b != nil && b.Kind == entry.File && b.Size == info.Size && b.Mtime == info.Mtime && when(info.Ctime).Before(w.since) {
		f.pieces = b.pieces
		return
	}
	w.todo = append(w.todo, &todo{f, info})
}

// alike says whether nothing was done to the file between the two.
func alike(a, b fsroot.Info) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Size == b.Size && a.Mtime == b.Mtime && a.Ctime == b.Ctime
}

func when(t entry.Time) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// read reads a file. One that changes meanwhile is tried again.
func (w *walker) read(f *todo) error {
	for range 3 {
		now, k, err := w.try(f.Path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, fsroot.ErrNotRegular) {
			break
		}
		if err != nil {
			return err
		}
		if k != nil {
			w.known[f.Path] = k
			f.Entry.Size, f.Mode, f.UID, f.GID, f.Mtime = now.Size, now.Mode, now.UID, now.GID, now.Mtime
			f.file.pieces = k.pieces
			return nil
		}
	}
	w.leave(f.file)
	return nil
}

// leave leaves a file out, and the other names that it has.
func (w *walker) leave(f *file) {
	if w.gone == nil {
		w.gone = map[*file]bool{}
	}
	for _, other := range w.files {
		if other == f || other.same == f.Path {
			w.gone[other] = true
			w.leftOut++
		}
	}
}

// try reads a file once; nil if it was changed while it was read.
func (w *walker) try(name string) (fsroot.Info, *read, error) {
	r, err := w.root.OpenNoFollow(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fsroot.Info{}, nil, err
	}
	defer r.Close()
	before, err := fsroot.Stat(r)
	if err != nil {
		return before, nil, err
	}
	if before.Kind != entry.File {
		return before, nil, fsroot.ErrNotRegular
	}
	began := time.Now()
	k := &read{info: before}
	var size int64
	err = pieces(r, w.buf, func(b []byte) error {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		sum, err := w.packs.add(b)
		k.pieces = append(k.pieces, piece{sum, len(b)})
		size += int64(len(b))
		return err
	})
	if err != nil {
		return before, nil, err
	}
	w.done.Read += size
	after, err := fsroot.Stat(r)
	if err != nil || !alike(before, after) || size != after.Size {
		return after, nil, err
	}
	if when(after.Ctime).After(began.Add(-grain)) {
		// It may be written to again within the same tick of the clock, unseen:
		// a later pass reads it again.
		k.info.Ctime = entry.Time{}
	}
	return after, k, nil
}

// finish writes the tree and the manifest.
func (x *exporter) finish(need map[digest.Digest]bool) (*saved, error) {
	t := &tree{files: x.files}
	var number map[digest.Digest]int
	t.packs, number = x.packs.result(need)
	var text bytes.Buffer
	if err := t.write(&text, number); err != nil {
		return nil, err
	}
	blob, err := x.f.compress(treeType, &text)
	if err != nil {
		return nil, err
	}
	layers := []manifest.Descriptor{blob}
	for _, p := range t.packs {
		layers = append(layers, p.blob)
	}
	id, err := json.Marshal(x.src.Identity)
	if err != nil {
		return nil, err
	}
	config, err := x.f.put(configType, id)
	if err != nil {
		return nil, err
	}
	m := &manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: config, Layers: layers}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	desc, err := x.f.put(manifest.OCIManifest, b)
	if err != nil {
		return nil, err
	}
	desc.Annotations = map[string]string{idMark: x.src.ID}
	for _, f := range x.files {
		x.done.Files++
		if f.same == "" {
			x.done.Bytes += f.Size
		}
	}
	n, err := json.Marshal(note{blob.Digest, x.began.Add(-grain)})
	if err == nil && x.src.SetNote != nil {
		err = x.src.SetNote(n)
	}
	return &saved{desc: desc, manifest: m, Identity: x.src.Identity}, err
}
