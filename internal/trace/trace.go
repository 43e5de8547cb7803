// Package trace writes down what a build does and when, in the trace event
// format that Perfetto and Chrome's viewer open.
//
// A build has lanes: one of its own, and one for each stage and for what goes
// on beside them. In a lane spans lie inside one another or follow each other.
// Without a trace in the context nothing here does anything, and costs next to
// nothing.
package trace

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Trace writes spans as they end, so that the trace of a build that was killed
// can be opened too: the format allows the closing bracket to be missing. It
// may be used by several goroutines.
type Trace struct {
	now   func() time.Time
	began time.Time

	mu    sync.Mutex
	w     io.Writer
	lanes map[string]int
	err   error // the first of writing
}

// event is one of the trace event format: X is a span, M says what a lane is
// called. Times are in microseconds.
type event struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	Pid   int            `json:"pid"`
	Tid   int            `json:"tid"`
	Ts    float64        `json:"ts"`
	Dur   float64        `json:"dur,omitempty"`
	Args  map[string]any `json:"args,omitempty"`
}

// New begins a trace on w.
func New(w io.Writer, now func() time.Time) *Trace {
	t := &Trace{now: now, began: now(), w: w, lanes: map[string]int{}}
	t.write("[\n", event{Name: "process_name", Phase: "M", Pid: 1, Args: map[string]any{"name": "whittle"}})
	return t
}

// Close ends the trace and returns the first error of writing it.
func (t *Trace) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		_, t.err = io.WriteString(t.w, "\n]\n")
	}
	return t.err
}

func (t *Trace) write(before string, e event) {
	b, err := json.Marshal(e)
	if t.err == nil {
		t.err = err
	}
	if t.err == nil {
		_, t.err = t.w.Write(append([]byte(before), b...))
	}
}

// put writes an event of a lane, which is introduced at its first.
func (t *Trace) put(lane string, e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tid, ok := t.lanes[lane]
	if !ok {
		tid = len(t.lanes) + 1
		t.lanes[lane] = tid
		t.write(",\n", event{Name: "thread_name", Phase: "M", Pid: 1, Tid: tid, Args: map[string]any{"name": lane}})
		t.write(",\n", event{Name: "thread_sort_index", Phase: "M", Pid: 1, Tid: tid, Args: map[string]any{"sort_index": tid}})
	}
	e.Pid, e.Tid = 1, tid
	t.write(",\n", e)
}

type contextKey struct{}

// place is where spans go that begin in a context.
type place struct {
	trace *Trace
	lane  string
}

// With returns a context whose spans go to t, into the build's own lane.
func With(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, contextKey{}, place{t, "build"})
}

// Lane returns a context whose spans go into another lane.
func Lane(ctx context.Context, name string) context.Context {
	p, ok := ctx.Value(contextKey{}).(place)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, place{p.trace, name})
}

// Span is something that takes time. A nil Span does nothing.
type Span struct {
	at    place
	name  string
	began time.Time
	args  map[string]any
}

// Begin begins a span; it is nil where there is no trace.
func Begin(ctx context.Context, name string) *Span {
	p, ok := ctx.Value(contextKey{}).(place)
	if !ok {
		return nil
	}
	return &Span{at: p, name: name, began: p.trace.now()}
}

// Set adds something that is known of the span, such as bytes.
func (s *Span) Set(name string, value any) {
	if s == nil {
		return
	}
	if s.args == nil {
		s.args = map[string]any{}
	}
	s.args[name] = value
}

// End ends the span, once.
func (s *Span) End() {
	if s == nil {
		return
	}
	t := s.at.trace
	t.put(s.at.lane, event{Name: s.name, Phase: "X", Ts: micro(s.began.Sub(t.began)), Dur: micro(t.now().Sub(s.began)), Args: s.args})
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
