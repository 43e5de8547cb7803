package store

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/whittle-build/whittle/internal/flock"
)

// A build's log is a folder of kind logKind, named by the build's id, with one
// file that is written while the build runs: what was written is there,
// whatever becomes of the build. The writer's lock says that it goes on.
const (
	logKind = "log"
	logName = "events"
)

// How many logs are kept, and how many bytes all but the newest have at most.
const (
	maxLogs     = 100
	maxLogBytes = 256 << 20
)

// NewLog makes the log of a build under a short id that no other has, and lets
// go of the oldest when there are many. Closing the file ends the log.
func (s *Store) NewLog() (id string, f *os.File, err error) {
	for {
		id = strings.ToLower(rand.Text()[:8])
		path, err := s.FolderPath(logKind, id)
		if err != nil {
			return "", nil, err
		}
		err = withParent(path, func() error { return os.Mkdir(path, folderMode) })
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", nil, s.Explain(err)
		}
		f, err := createNew(path + "/" + logName)
		if err != nil {
			return "", nil, s.Explain(err)
		}
		if _, err := flock.Try(f, flock.Exclusive); err != nil {
			return "", nil, errors.Join(err, f.Close())
		}
		s.trimLogs(maxLogs, maxLogBytes)
		return id, f, nil
	}
}

// FindLog opens the log of a build by its id, or by the beginning of it. going
// says whether the build still writes it.
func (s *Store) FindLog(ref string) (id string, f *os.File, going func() bool, err error) {
	ids, err := s.Folders(logKind)
	if err != nil {
		return "", nil, nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return ref == "" || !strings.HasPrefix(id, strings.ToLower(ref)) })
	if len(ids) != 1 {
		return "", nil, nil, fmt.Errorf("log of build %q: %w", ref, ErrNotFound)
	}
	path, err := s.FolderPath(logKind, ids[0])
	if err != nil {
		return "", nil, nil, err
	}
	f, err = os.Open(path + "/" + logName)
	if err != nil {
		return "", nil, nil, fmt.Errorf("log of build %q: %w", ref, err)
	}
	return ids[0], f, func() bool { return !ownerDead(f.Name()) }, nil
}

// logItems lists the logs that nobody writes.
func (s *Store) logItems() ([]*item, error) {
	var items []*item
	err := s.eachNamed(folderDir, logKind, func(path, _ string, bad error) error {
		if bad != nil || !ownerDead(path+"/"+logName) {
			return nil
		}
		it, err := fileItem(folderDir, path)
		if it == nil || err != nil {
			return err
		}
		it.free = true
		it.bytes, _, err = measure(path)
		items = append(items, it)
		return err
	})
	return items, err
}

type buildLog struct {
	id, path string
	at       time.Time // written last
	size     int64
}

// logs lists all logs, the youngest first, as far as they can be read.
func (s *Store) logs() []buildLog {
	var logs []buildLog
	_ = s.eachNamed(folderDir, logKind, func(path, id string, bad error) error {
		if fi, err := os.Lstat(path + "/" + logName); err == nil && bad == nil {
			logs = append(logs, buildLog{id, path, fi.ModTime(), fi.Size()})
		}
		return nil
	})
	sort.Slice(logs, func(i, k int) bool {
		return cmp.Or(logs[k].at.Compare(logs[i].at), strings.Compare(logs[i].path, logs[k].path)) < 0
	})
	return logs
}

// LatestLogs returns the ids of the n logs that were written last.
func (s *Store) LatestLogs(n int) (ids []string) {
	for _, l := range s.logs() {
		ids = append(ids, l.id)
	}
	return ids[:min(n, len(ids))]
}

// trimLogs removes the oldest logs that nobody writes, so that at most so many
// stay. One that cannot be removed stays.
func (s *Store) trimLogs(most int, size int64) {
	var sum int64
	for i, l := range s.logs() {
		sum += l.size
		if i > 0 && (i >= most || sum > size) && ownerDead(l.path+"/"+logName) {
			_, _ = s.discard(l.path)
		}
	}
}
