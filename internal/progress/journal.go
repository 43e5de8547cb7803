package progress

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Journal keeps events for later, in the json mode: each is written whole as
// it comes, so that the journal of a build that was killed ends with its last
// event. It serves one goroutine at a time.
type Journal struct{ r *jsonLines }

// NewJournal returns a journal that goes to w.
func NewJournal(w io.Writer) *Journal { return &Journal{newJSON(&output{w: w})} }

// Put writes e. It returns the first error of writing, and writes nothing
// after it.
func (l *Journal) Put(e Event) error {
	if l.r.out.err != nil {
		return l.r.out.err
	}
	l.r.event(e)
	l.r.out.flush()
	return l.r.out.err
}

// JournalReader reads the events of a journal.
type JournalReader struct {
	r    *bufio.Reader
	part []byte
}

// NewJournalReader reads r.
func NewJournalReader(r io.Reader) *JournalReader { return &JournalReader{r: bufio.NewReader(r)} }

// Next returns the next event. At io.EOF it may be called again: the journal
// may have grown. A line that is no event, which a full disk may have left, is
// passed over.
func (l *JournalReader) Next() (Event, error) {
	for {
		b, err := l.r.ReadBytes('\n')
		l.part = append(l.part, b...)
		if err != nil {
			return Event{}, err
		}
		e, ok := parseEvent(l.part)
		l.part = l.part[:0]
		if ok {
			return e, nil
		}
	}
}

// parseEvent is the reverse of jsonLines.event.
func parseEvent(b []byte) (Event, bool) {
	var l line
	if json.Unmarshal(b, &l) != nil {
		return Event{}, false
	}
	kind := slices.Index(kindNames[:], l.Event)
	at, err := time.Parse(time.RFC3339Nano, l.Time)
	if kind < 0 || err != nil {
		return Event{}, false
	}
	e := Event{
		Time: at, Kind: Kind(kind), Vertices: l.Vertices, Key: l.Key, Stream: l.Stream, Data: l.Base64,
		ExitCode: l.ExitCode, Name: l.Name, Current: l.Current, Total: l.Total, Warning: l.Warning, Mistakes: l.Mistakes,
		Bytes: l.Bytes, Text: l.Text, Left: l.Left, ID: l.ID, Tags: l.Tags,
		Worked: l.Worked, Changed: l.Changed, Build: l.Build, Kept: l.Kept,
	}
	if l.Vertex != nil {
		e.Vertex = *l.Vertex
	}
	if l.Data != "" {
		e.Data = []byte(l.Data)
	}
	switch {
	case l.Canceled:
		e.Err = context.Canceled
	case l.Error != "":
		e.Err = &told{errors.New(l.Error), l.Outcome}
	}
	return e, true
}

// told is an error of a step as a journal has it.
type told struct {
	error
	outcome string
}

func (t *told) Outcome() string { return t.outcome }

// Replay writes the events that next returns, until it fails, as the plain
// mode does. io.EOF is no failure.
func Replay(w io.Writer, next func() (Event, error)) error {
	out := &output{w: w}
	p := newPlain(out, newTracker())
	var last time.Time
	for {
		e, err := next()
		if err != nil {
			p.close(last)
			out.flush()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, out.err)
		}
		last = e.Time
		p.event(e)
		if e.Kind == Failed && e.Err != nil {
			p.yield()
			fmt.Fprintf(out, "%s\n", CleanLines(e.Err.Error()))
		}
		if out.flush(); out.err != nil {
			return out.err
		}
	}
}
