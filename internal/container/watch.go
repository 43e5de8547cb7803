package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The lock file of the run is a list of the runs as well: a monitor writes
// runBegun when it begins, and the exit code and a line feed as the last thing
// that it does. Who has the file open can read there how a run ended when the
// container was removed with it, or runs again already.
const runBegun = '+'

// noteBegin adds a run to the list in f. On a full disk it is not there, and
// who waits learns the code from the container's document alone.
func noteBegin(f *os.File) { _, _ = f.Write([]byte{runBegun}) }

// noteEnd tells how that run ended.
func noteEnd(f *os.File, code int) { _, _ = fmt.Fprintln(f, code) }

// A Watch waits for the end of one run of a container, whatever becomes of the
// container meanwhile.
type Watch struct {
	set  *Set
	c    *Container
	f    *os.File // nil: it never ran
	from int64    // what the list has from here on was written after the watch began
}

// Watch begins to watch the run that c is in, or the last one.
func (s *Set) Watch(c *Container) (*Watch, error) {
	w := &Watch{set: s, c: c}
	dir, err := s.folder(c)
	if err != nil {
		return nil, err
	}
	w.f, err = os.Open(filepath.Join(dir, runLock))
	if errors.Is(err, fs.ErrNotExist) {
		w.f = nil
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := w.f.Stat()
	if err != nil {
		return nil, errors.Join(err, w.f.Close())
	}
	w.from = st.Size()
	return w, nil
}

// Close ends the watch.
func (w *Watch) Close() { w.f.Close() } // nil is fine

// Wait waits for the end of the run, at most for limit unless that is 0.
func (w *Watch) Wait(ctx context.Context, limit time.Duration) error {
	if w.f == nil {
		return nil
	}
	var late <-chan time.Time
	if limit > 0 {
		late = time.After(limit)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for w.goesOn() {
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("container %s: %w", w.c.Name, errStillThere)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// goesOn says whether the run has a monitor still. When a next one has begun,
// it has not.
func (w *Watch) goesOn() bool {
	return lockedIn(w.f) && !bytes.ContainsRune(w.later(), runBegun)
}

// later is what the list has of after the watch began. Of a run that was just
// beginning then, its own mark is left out.
func (w *Watch) later() []byte {
	b := make([]byte, 64)
	n, _ := w.f.ReadAt(b, w.from) // to the end, or as much as is of interest
	b = b[:n]
	if len(b) > 0 && b[0] == runBegun && !w.begun() {
		w.from++
		b = b[1:]
	}
	return b
}

// begun says whether the list had the mark of the watched run when the watch
// began.
func (w *Watch) begun() bool {
	last := make([]byte, 1)
	n, _ := w.f.ReadAt(last, w.from-1) // nothing is before the beginning
	return n == 1 && last[0] == runBegun
}

// Code is the exit code of the run, which has ended.
func (w *Watch) Code() (int, error) {
	if w.f != nil {
		line, _, ended := bytes.Cut(w.later(), []byte("\n"))
		if bytes.ContainsRune(line, runBegun) {
			return codeKilled, nil // its monitor could not tell
		}
		if code, err := strconv.Atoi(string(line)); ended && err == nil {
			return code, nil
		}
	}
	now, err := w.set.get(w.c.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, &Error{Msg: fmt.Sprintf("container %s had ended before and was removed", w.c.Name),
			Way: "leave --rm out to learn its exit code afterwards", Err: ErrNotFound}
	}
	if err != nil {
		return 0, err
	}
	return now.ExitCode, nil
}
