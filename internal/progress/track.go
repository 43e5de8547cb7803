package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// state is how far a step is.
type state uint8

const (
	waiting state = iota
	running
	cached
	finished
	failed
	canceled
)

func (s state) over() bool { return s >= cached }

// step is a vertex and what became of it.
type step struct {
	Vertex
	state     state
	started   time.Time
	ended     time.Time
	err       error
	code      int
	how       string    // of a failed one: how it ended
	worked    time.Time // when it last worked
	changed   []string  // since then
	log       spool
	status    map[string]progressOf
	container string // of the classic mode
}

// progressOf is a part of a step.
type progressOf struct{ current, total int64 }

// tracker knows all steps of a build.
type tracker struct {
	steps []*step // in the order of Begin
	byID  map[int]*step
}

func newTracker() *tracker { return &tracker{byID: map[int]*step{}} }

// step returns the step with this ID. One that was never announced is made:
// it is better shown with a poor name than not at all.
func (t *tracker) step(id int) *step {
	s := t.byID[id]
	if s == nil {
		s = t.add(Vertex{ID: id, Label: fmt.Sprintf("step %d", id)})
	}
	return s
}

// add takes a step in. One that is over is to be done once more.
func (t *tracker) add(v Vertex) *step {
	if s := t.byID[v.ID]; s != nil {
		if s.state.over() {
			*s = step{}
		}
		s.Vertex = v
		return s
	}
	s := &step{Vertex: v}
	t.byID[v.ID] = s
	t.steps = append(t.steps, s)
	return s
}

// event takes note of e and returns the step that it is about, if any.
func (t *tracker) event(e Event) *step {
	switch e.Kind {
	case Begin:
		for _, v := range e.Vertices {
			t.add(v)
		}
		return nil
	case Started, Log, Cached, Done, Status:
	default:
		return nil
	}
	s := t.step(e.Vertex)
	if e.Key != "" {
		s.Key = e.Key
	}
	if s.state == waiting && e.Kind != Cached {
		s.state, s.started = running, e.Time
	}
	switch e.Kind {
	case Cached:
		s.state, s.ended = cached, e.Time
	case Status:
		if s.status == nil {
			s.status = map[string]progressOf{}
		}
		s.status[e.Name] = progressOf{e.Current, e.Total}
	case Done:
		s.finish(e)
	}
	return s
}

// note is the text of a Note, with the step that it is about; 0 is none.
func (t *tracker) note(e Event) string {
	if s := t.byID[e.Vertex]; s != nil && e.Vertex > 0 {
		return Clean(s.Label) + ": " + CleanLines(e.Text)
	}
	return CleanLines(e.Text)
}

func (s *step) finish(e Event) {
	s.ended, s.err, s.code = e.Time, e.Err, e.exitCode()
	s.how, s.worked, s.changed = e.outcome(), e.Worked, e.Changed
	switch {
	case e.canceled():
		s.state = canceled
	case e.Err != nil:
		s.state = failed
	default:
		s.state = finished
	}
}

// outcome says how a failed step ended, and after what time.
func (s *step) outcome() string {
	how := s.how
	switch {
	case how != "":
	case s.code != 0:
		how = fmt.Sprintf("exit code %d", s.code)
	default:
		return fmt.Sprint(s.err) // it may never have begun
	}
	if s.started.IsZero() {
		return how
	}
	return how + " after " + HumanDuration(s.ended.Sub(s.started))
}

// writeChanged tells what has changed since a failed step last worked.
func (s *step) writeChanged(w io.Writer) {
	if s.worked.IsZero() {
		return
	}
	fmt.Fprintf(w, "changed since it last worked, %s:\n", s.worked.Local().Format(time.DateTime))
	for _, c := range s.changed {
		fmt.Fprintf(w, "  %s\n", Clean(c))
	}
}

// failures are the steps that failed by themselves.
func (t *tracker) failures() []*step {
	var out []*step
	for _, s := range t.steps {
		if s.state == failed {
			out = append(out, s)
		}
	}
	return out
}

// spool keeps a log: in memory while it is short, then in a file without a
// name. The zero value is empty.
type spool struct {
	mem  []byte
	file *os.File
	lost error // why the log is not whole
}

const spoolMemory = 256 << 10

func (s *spool) Write(b []byte) (int, error) {
	n := len(b)
	if s.file == nil && len(s.mem)+len(b) > spoolMemory && s.lost == nil {
		s.file, s.lost = unnamed()
	}
	switch {
	case s.file != nil:
		if len(s.mem) > 0 {
			b = append(s.mem, b...)
			s.mem = nil
		}
		if _, err := s.file.Write(b); err != nil {
			s.lost = err
		}
	case s.lost == nil:
		s.mem = append(s.mem, b...)
	}
	return n, nil
}

func unnamed() (*os.File, error) {
	f, err := os.CreateTemp("", "whittle-log-*")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}

// WriteTo copies the log and forgets it.
func (s *spool) WriteTo(w io.Writer) (n int64, err error) {
	defer s.drop()
	if s.file != nil {
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		if n, err = io.Copy(w, s.file); err != nil {
			return n, err
		}
	}
	m, err := w.Write(s.mem)
	if s.lost != nil {
		fmt.Fprintf(w, "\n(the rest of the log is lost: %v)\n", s.lost)
	}
	return n + int64(m), err
}

// drop forgets the log.
func (s *spool) drop() {
	if s.file != nil {
		s.file.Close()
	}
	s.file, s.mem, s.lost = nil, nil, nil
}

// writeWarning shows a warning in the modes for people.
func writeWarning(w io.Writer, x *Warning) {
	if x == nil {
		return
	}
	where := ""
	if x.File != "" {
		where = Clean(x.File) + ": "
		if x.Line > 0 {
			where = fmt.Sprintf("%s:%d: ", Clean(x.File), x.Line)
		}
	}
	fmt.Fprintf(w, "warning: %s%s\n", where, Clean(x.Msg))
	if x.Text != "" {
		fmt.Fprintf(w, "    %s\n", Clean(strings.TrimSpace(x.Text)))
	}
	if x.Hint != "" {
		fmt.Fprintf(w, "    hint: %s\n", Clean(x.Hint))
	}
}

// writeLeft shows what is left in the modes for people.
func writeLeft(w io.Writer, l *Left) {
	if l == nil {
		return
	}
	name := strings.Join(l.Names, ", ")
	if name == "" {
		name = "image"
	}
	fmt.Fprintf(w, "left: %s  %s  %s\n", Clean(name), short(l.ID), HumanSize(l.Size))
	if len(l.Stages) == 0 {
		return
	}
	parts := make([]string, len(l.Stages))
	for i, s := range l.Stages {
		parts[i] = Clean(s.Name) + " " + HumanSize(s.Bytes)
	}
	fmt.Fprintf(w, "left behind: %s", strings.Join(parts, ", "))
	if len(parts) > 1 {
		fmt.Fprintf(w, " (%s together)", HumanSize(l.Total))
	}
	fmt.Fprintln(w)
}

// short is the form of an ID that people read.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

// quiet shows nothing but failures.
type quiet struct {
	out *output
	*tracker
}

func (q *quiet) event(e Event) {
	s := q.tracker.event(e)
	switch e.Kind {
	case Log:
		s.log.Write(e.Data)
	case Cached, Done:
		if s.state != failed {
			s.log.drop()
		}
	}
}

func (q *quiet) tick(time.Time) {}

func (q *quiet) close(time.Time) { writeFailures(q.out, q.tracker, false) }

// writeFailures shows each failed step with its whole log; plainly says to
// take out of it what a terminal would obey.
func writeFailures(w io.Writer, t *tracker, plainly bool) {
	for _, s := range t.steps {
		if s.state != failed {
			s.log.drop()
			continue
		}
		fmt.Fprintf(w, "%s\n", Clean(s.Label))
		body := &lineEnd{w: w, at: '\n'}
		if plainly {
			c := &cleaner{w: body}
			s.log.WriteTo(c)
			c.flush()
		} else {
			s.log.WriteTo(body)
		}
		if body.at != '\n' {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "failed: %s: %s\n", Clean(s.Label), Clean(s.outcome()))
		s.writeChanged(w)
	}
}

// lineEnd remembers the last byte written.
type lineEnd struct {
	w  io.Writer
	at byte
}

func (l *lineEnd) Write(b []byte) (int, error) {
	if len(b) > 0 {
		l.at = b[len(b)-1]
	}
	return l.w.Write(b)
}
