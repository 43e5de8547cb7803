package sharedcache

import (
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
)

// mostRecords is how many records a writer leaves, and contents of copies: far fewer than
// are read, so that what writers leave is always read.
const mostRecords = 100_000

// Trim leaves no more records than a cache is to have, those that were made last, and no more
// blobs than one manifest can name: those of the layers that were made last. Of the others
// only the records stay.
func (s *Set) Trim() {
	s.trimRecords(mostRecords)
	s.trim(manifest.MaxEntries - 1)
}

func (s *Set) trimRecords(most int) {
	for _, name := range slices.Sorted(maps.Keys(s.contents))[min(most, len(s.contents)):] {
		delete(s.contents, name) // which only has to be found out anew
	}
	if s.Len() <= most {
		return
	}
	made := map[digest.Digest]time.Time{}
	for key, list := range s.records {
		for _, r := range list {
			if made[key].Before(r.Created) {
				made[key] = r.Created
			}
		}
	}
	used, n := map[digest.Digest]bool{}, 0
	for _, key := range newest(made) {
		if n += len(s.records[key]); n > most {
			delete(s.records, key)
			continue
		}
		for _, r := range s.records[key] {
			used[r.Layer] = true
		}
	}
	maps.DeleteFunc(s.layers, func(id digest.Digest, _ Layer) bool { return !used[id] })
}

// newest lists digests, those first that were made last.
func newest(made map[digest.Digest]time.Time) []digest.Digest {
	ids := sorted(made)
	sort.SliceStable(ids, func(i, k int) bool { return made[ids[k]].Before(made[ids[i]]) })
	return ids
}

func (s *Set) trim(most int) {
	made := map[digest.Digest]time.Time{}
	for _, list := range s.records {
		for _, r := range list {
			if s.layers[r.Layer].Blob != nil && made[r.Layer].Before(r.Created) {
				made[r.Layer] = r.Created
			}
		}
	}
	ids := newest(made)
	for _, id := range ids[min(most, len(ids)):] {
		s.lose(id)
	}
}
