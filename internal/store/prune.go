package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/flock"
)

// PruneOptions say what goes. The zero value takes only rubbish: what dead
// processes left in tmp/ and locks/, layers that cannot be used, and layers
// that neither a record nor Keep wants.
type PruneOptions struct {
	// Keep reports layers that something outside the store's knowledge uses:
	// images, containers. Nil keeps every layer.
	Keep func(layer digest.Digest) bool
	// Recheck, if not nil, returns a Keep of this moment. It is called just
	// before layers go, while no process can be told that one is there: a
	// layer that got an image since Keep was made stays, also when the build
	// that made the image has ended. It must not ask the store for layers.
	Recheck func() (keep func(layer digest.Digest) bool, err error)
	// KeepBlob is the same for blobs.
	KeepBlob func(blob digest.Digest) bool
	// MaxBytes, if not 0, is what the store may take on disk. The least
	// recently used of what may go goes until it fits.
	MaxBytes int64
	// Unused, if not 0, takes what was last used that long before Now. The
	// store notes use to the hour.
	Unused time.Duration
	// All takes everything that nothing keeps and no running build uses.
	All bool
	// CacheMounts leaves alone all but cache mounts.
	CacheMounts bool
	// Now is the time to count from; zero is the store's clock.
	Now time.Time
}

// Freed says what a pruning has removed.
type Freed struct {
	Layers, Records, Blobs, Caches int
	Temps                          int   // left by processes that died
	Bytes                          int64 // of disk
	// Busy is set when builds were running. Then what they have asked the
	// store for was kept, and cache folders were not touched.
	Busy bool
}

// item is something that can be pruned as one.
type item struct {
	kind    string // layerDir, recordDir, blobDir, cacheDir, folderDir
	id      digest.Digest
	path    string
	records []string // paths of the records that name a layer
	bytes   int64
	used    time.Time
	kept    bool // something outside needs it
	rubbish bool // nobody can use it
	free    bool // a folder that no build reads
}

// Prune removes what o says, never what a running build has been told is
// there (see Use), and never waits for builds. One process prunes at a time;
// the others wait for it until ctx ends. A crash loses nothing but the rest of
// the work.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Freed, error) {
	var freed Freed
	one, err := s.lock(ctx, s.path(lockDir, lockPrune), flock.Exclusive, false, nil)
	if err != nil {
		return freed, fmt.Errorf("store %s: prune: %w", s.dir, err)
	}
	defer one.Close()
	freed.Temps, freed.Bytes, err = s.Sweep()
	if err != nil {
		return freed, err
	}
	alone, err := s.tryLockPath(s.path(lockDir, lockUse), flock.Exclusive)
	if err != nil {
		return freed, err
	}
	if alone != nil {
		defer alone.Close()
	}
	freed.Busy = alone == nil
	items, err := s.items(ctx, o)
	if err != nil {
		return freed, err
	}
	return freed, s.removeItems(ctx, s.victims(items, o, freed.Busy), o.Recheck, &freed)
}

// victims chooses from items, which it sorts by last use.
func (s *Store) victims(items []*item, o PruneOptions, busy bool) []*item {
	now := o.Now
	if now.IsZero() {
		now = s.now()
	}
	var total int64
	for _, it := range items {
		total += it.bytes
	}
	slices.SortStableFunc(items, func(a, b *item) int {
		return cmp.Or(a.used.Compare(b.used), strings.Compare(a.path, b.path))
	})
	var out []*item
	take := func(it *item) { out = append(out, it); total -= it.bytes }
	for _, it := range items {
		if it.rubbish && !o.CacheMounts {
			take(it)
		}
	}
	for _, it := range items {
		if it.rubbish || it.kept || busy && it.kind == folderDir && !it.free || o.CacheMounts && (it.kind != folderDir || it.free) {
			continue
		}
		old := o.Unused > 0 && now.Sub(it.used) >= o.Unused
		if o.All || old || o.MaxBytes > 0 && total > o.MaxBytes {
			take(it)
		}
	}
	return out
}

// pruneBatch is how many things go under one hold of the gate, so that builds
// that want to ask the store something wait for a few milliseconds at most.
const pruneBatch = 32

func (s *Store) removeItems(ctx context.Context, victims []*item, recheck func() (func(digest.Digest) bool, error), freed *Freed) error {
	for batch := range slices.Chunk(victims, pruneBatch) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		trashed, err := s.trashBatch(batch, recheck, freed)
		crash.Point("store.prune.trashed")
		for _, path := range trashed {
			n, rmErr := s.removeTree(path)
			freed.Bytes += n
			err = errors.Join(err, rmErr)
		}
		if err != nil {
			return fmt.Errorf("store %s: prune: %w", s.dir, err)
		}
	}
	return nil
}

// trashBatch takes victims out of sight, except those that are pinned.
func (s *Store) trashBatch(batch []*item, recheck func() (func(digest.Digest) bool, error), freed *Freed) (trashed []string, err error) {
	gate, err := s.gate(flock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	pinned, err := s.pins()
	if err != nil {
		return nil, err
	}
	keep := func(digest.Digest) bool { return false }
	if recheck != nil {
		if keep, err = recheck(); err != nil {
			return nil, err
		}
	}
	for _, it := range batch {
		if _, ok := pinned[it.id]; ok && !it.id.IsZero() {
			continue
		}
		if it.kind == layerDir && keep(it.id) {
			continue
		}
		to, err := s.trashItem(it, freed)
		if err != nil {
			return trashed, err
		}
		if to != "" {
			trashed = append(trashed, to)
		}
	}
	return trashed, nil
}

// trashItem removes a layer's records before the layer, so that at no instant
// a record points at nothing.
func (s *Store) trashItem(it *item, freed *Freed) (string, error) {
	for _, r := range it.records {
		if err := ignoreAbsent(os.Remove(r)); err != nil {
			return "", err
		}
		freed.Records++
	}
	crash.Point("store.prune.records")
	to, err := s.trash(it.path)
	if err != nil || to == "" {
		return "", err
	}
	switch it.kind {
	case layerDir:
		freed.Layers++
	case recordDir:
		freed.Records++
	case blobDir:
		freed.Blobs++
	default:
		freed.Caches++
	}
	return to, nil
}

// items lists everything that can be pruned or counts towards the size.
func (s *Store) items(ctx context.Context, o PruneOptions) ([]*item, error) {
	records, items, err := s.recordItems()
	if err != nil {
		return nil, err
	}
	err = s.eachLayer(func(id digest.Digest, dir string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		it, err := s.layerItem(id, dir, records[id])
		if it == nil || err != nil {
			return err
		}
		it.kept = o.Keep == nil || o.Keep(id)
		it.rubbish = it.rubbish || !it.kept && len(it.records) == 0
		items = append(items, it)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.eachSharded(blobDir, func(path string, id digest.Digest, ok bool) error {
		if !ok {
			return nil
		}
		it, err := fileItem(blobDir, path)
		if it == nil || err != nil {
			return err
		}
		it.id, it.kept = id, o.KeepBlob == nil || o.KeepBlob(id)
		items = append(items, it)
		return nil
	})
	if err != nil {
		return nil, err
	}
	caches, err := s.cacheItems()
	if err != nil {
		return nil, err
	}
	logs, err := s.logItems()
	return slices.Concat(items, caches, logs), err
}

// recordItems returns the records by layer, and those without a layer as
// items of their own.
func (s *Store) recordItems() (map[digest.Digest][]*item, []*item, error) {
	byLayer := map[digest.Digest][]*item{}
	var alone []*item
	err := s.eachSharded(recordDir, func(path string, key digest.Digest, ok bool) error {
		it, err := fileItem(recordDir, path)
		if it == nil || err != nil || !ok {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return ignoreAbsent(err)
		}
		file, err := parseRecord(key, b)
		switch {
		case err != nil:
			it.rubbish = true
			alone = append(alone, it)
		case file.Layer.IsZero():
			alone = append(alone, it)
		case !isFolder(s.LayerDir(file.Layer)):
			it.rubbish = true
			alone = append(alone, it)
		default:
			byLayer[file.Layer] = append(byLayer[file.Layer], it)
		}
		return nil
	})
	return byLayer, alone, err
}

// layerItem describes a layer; it was used when its latest record was.
func (s *Store) layerItem(id digest.Digest, dir string, records []*item) (*item, error) {
	st, err := s.look(dir)
	if err != nil || !st.there {
		return nil, err
	}
	it := &item{kind: layerDir, id: id, path: dir, used: st.touched, rubbish: st.bad != ""}
	it.bytes, err = s.layerBytes(dir)
	for _, r := range records {
		it.records = append(it.records, r.path)
		it.bytes += r.bytes
		if r.used.After(it.used) {
			it.used = r.used
		}
	}
	return it, err
}

// layerBytes is what a layer takes on disk. A layer does not change, so it is
// measured once; adding a part forgets the measure.
func (s *Store) layerBytes(dir string) (int64, error) {
	b, err := os.ReadFile(dir + "/" + sizeName)
	if err == nil {
		if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
			return n, nil
		}
	}
	n, _, err := measure(dir)
	if err != nil {
		return 0, err
	}
	s.rememberBytes(dir, n)
	return n, nil
}

// rememberBytes may fail, and must not look like use. When the layer has gone
// meanwhile, its folder must not come back: this makes no folders.
func (s *Store) rememberBytes(dir string, n int64) {
	fi, err := os.Lstat(dir)
	if err != nil {
		return
	}
	f, err := s.tempFile("size")
	if err != nil {
		return
	}
	defer f.drop()
	if _, err := f.Write(strconv.AppendInt(nil, n, 10)); err != nil {
		return
	}
	if f.moved = os.Rename(f.Name(), dir+"/"+sizeName) == nil; f.moved {
		_ = os.Chtimes(dir, fi.ModTime(), fi.ModTime())
	}
}

// cacheItems lists cache files and cache folders.
func (s *Store) cacheItems() ([]*item, error) {
	var items []*item
	kinds, err := readNames(s.path(cacheDir))
	if err := ignoreAbsent(err); err != nil {
		return nil, err
	}
	for _, k := range kinds {
		if !isFolder(s.path(cacheDir, k)) {
			continue
		}
		names, err := readNames(s.path(cacheDir, k))
		if err := ignoreAbsent(err); err != nil {
			return nil, err
		}
		for _, n := range names {
			it, err := fileItem(cacheDir, s.path(cacheDir, k, n))
			if err != nil {
				return nil, err
			}
			if it != nil {
				items = append(items, it)
			}
		}
	}
	for _, kind := range []string{"cache", "mounts"} { // the second: exports of the first
		err := s.eachNamed(folderDir, kind, func(path, _ string, bad error) error {
			if bad != nil {
				return nil
			}
			it, err := fileItem(folderDir, path)
			if it == nil || err != nil {
				return err
			}
			it.bytes, _, err = measure(path)
			items = append(items, it)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return items, nil
}

// fileItem describes the file or folder at path; nil when it is gone.
func fileItem(kind, path string) (*item, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &item{kind: kind, path: path, bytes: st.Blocks * 512, used: time.Unix(st.Mtim.Unix())}, nil
}
