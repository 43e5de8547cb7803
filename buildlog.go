package whittle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/store"
)

// recorder keeps what a build tells, in the store, from the first step that
// runs or fails: a build that does nothing writes nothing. What cannot be
// written is lost, and is no failure of the build.
type recorder struct {
	next  progress.Sink
	store *store.Store

	mu      sync.Mutex
	before  []progress.Event // until there is a log
	id      string           // of the log; "" while there is none
	file    *os.File
	journal *progress.Journal
	left    int64 // bytes that may still be written
	tails   map[int]*bytes.Buffer
}

const (
	maxBuildLog = 1 << 30  // bytes of steps' output that one log keeps
	tailBytes   = 16 << 10 // of a running step's output that are at hand
	tailLines   = 20
)

// logFull is the last that a log keeps of what steps wrote.
const logFull = "[whittle: the log is full: what steps wrote from here on is not kept]"

func newRecorder(next progress.Sink, s *store.Store) *recorder {
	return &recorder{next: next, store: s, left: maxBuildLog, tails: map[int]*bytes.Buffer{}}
}

// Emit implements progress.Sink.
func (r *recorder) Emit(e progress.Event) {
	r.mu.Lock()
	r.take(&e)
	r.mu.Unlock()
	r.next.Emit(e)
}

// take keeps e, and adds the log's id to the start of a step.
func (r *recorder) take(e *progress.Event) {
	ran := e.Kind == progress.Started && e.Key != ""
	if r.id == "" {
		bad := e.Kind == progress.Done && e.Err != nil && !errors.Is(e.Err, context.Canceled)
		if !ran && !bad {
			if e.Kind != progress.Log && e.Kind != progress.Status {
				r.before = append(r.before, *e)
			}
			return
		}
		r.begin()
	}
	if ran && r.journal != nil {
		e.Build = r.id
	}
	r.keep(*e)
}

// begin makes the log, with what was told so far.
func (r *recorder) begin() {
	id, f, err := r.store.NewLog()
	if err != nil {
		r.id = "-"
		return
	}
	r.id, r.file, r.journal = id, f, progress.NewJournal(f)
	for _, e := range r.before {
		_ = r.journal.Put(e)
	}
	r.before = nil
}

func (r *recorder) keep(e progress.Event) {
	switch e.Kind {
	case progress.Log:
		t := r.tails[e.Vertex]
		if t == nil {
			t = &bytes.Buffer{}
			r.tails[e.Vertex] = t
		}
		t.Write(e.Data)
		if n := t.Len() - tailBytes; n > tailBytes {
			t.Next(n)
		}
		if r.left < 0 {
			return
		}
		if r.left -= int64(len(e.Data)); r.left < 0 {
			e.Data = []byte("\n" + logFull + "\n")
		}
	case progress.Status:
		return // how far a download is matters while it goes on
	case progress.Done, progress.Cached:
		delete(r.tails, e.Vertex)
	}
	if r.journal != nil {
		_ = r.journal.Put(e) // a full disk must not end a build that works
	}
}

// tail is the last lines that a running step wrote.
func (r *recorder) tail(vertex int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tails[vertex]
	if t == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimRight(t.Bytes(), "\r\n"), []byte("\n"))
	var out []string
	for _, l := range lines[max(0, len(lines)-tailLines):] {
		out = append(out, progress.Clean(string(l)))
	}
	return out
}

// name is the log's id; "" when there is none.
func (r *recorder) name() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.journal == nil {
		return ""
	}
	return r.id
}

// close ends the log.
func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		r.file.Close()
	}
}

// latestLogs says which logs of builds there are.
func (w *Whittle) latestLogs() string {
	ids := w.store.LatestLogs(3)
	if len(ids) == 0 {
		return ", nor any other"
	}
	return ": the latest are " + strings.Join(ids, ", ")
}

// BuildLog writes what the steps of a build wrote, as --progress plain does.
// ref is the build's id or the beginning of it. With follow it goes on until
// the build ends.
func (w *Whittle) BuildLog(ctx context.Context, ref string, out io.Writer, follow bool) error {
	_, f, going, err := w.store.FindLog(ref)
	if errors.Is(err, store.ErrNotFound) {
		return &container.Error{Msg: fmt.Sprintf("no such container: %s", ref),
			Way: "ps -a lists all containers; nor is there the log of a build with that id" + w.latestLogs(), Err: container.ErrNotFound}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := progress.NewJournalReader(f)
	return progress.Replay(out, func() (progress.Event, error) {
		for {
			more := follow && going() // asked before reading: what was written until the end is then read
			e, err := r.Next()
			if !errors.Is(err, io.EOF) || !more {
				return e, err
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return e, context.Cause(ctx)
			}
		}
	})
}
