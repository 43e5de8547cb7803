package progress

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Modes are the names that New knows.
func Modes() []string { return []string{"auto", "tty", "plain", "classic", "json", "quiet"} }

// Options is how to show a build. The zero value is ready.
type Options struct {
	Now     func() time.Time         // nil means time.Now
	Size    func() (width, rows int) // of the terminal; nil asks it
	Term    string                   // $TERM: "dumb" makes auto plain
	NoColor bool
}

// renderer draws events. Its methods are called by one goroutine at a time.
type renderer interface {
	event(Event)
	// tick is called about ten times a second.
	tick(now time.Time)
	close(now time.Time)
}

// Display renders the events that it is given.
type Display struct {
	now  func() time.Time
	out  *output
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	r      renderer
	closed bool
	paused bool
}

// redraw is the time between two ticks.
const redraw = 100 * time.Millisecond

// New returns a display in one of Modes that writes to w. "auto" and "" mean
// tty when w is a terminal, else plain. The caller must Close it.
func New(mode string, w *os.File, o Options) (*Display, error) {
	fd := int(w.Fd())
	if mode == "auto" || mode == "" {
		mode = "plain"
		if IsTerminal(w) && o.Term != "dumb" {
			mode = "tty"
		}
	}
	if !slices.Contains(Modes(), mode) {
		return nil, fmt.Errorf("progress %q: want one of %s", mode, strings.Join(Modes(), ", "))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return terminalSize(fd) }
	}
	d := newDisplay(mode, w, o)
	if mode == "tty" || mode == "plain" {
		d.done.Go(d.run)
	}
	return d, nil
}

func terminalSize(fd int) (width, rows int) {
	width, rows, err := term.GetSize(fd)
	if err != nil || width <= 0 || rows <= 0 {
		return 80, 24
	}
	return width, rows
}

func newDisplay(mode string, w io.Writer, o Options) *Display {
	out := &output{w: w}
	t := newTracker()
	d := &Display{now: o.Now, out: out, stop: make(chan struct{})}
	switch mode {
	case "tty":
		d.r = newTTY(out, t, o)
	case "classic":
		d.r = newClassic(out, t)
	case "json":
		d.r = newJSON(out)
	case "quiet":
		d.r = &quiet{out, t}
	default:
		d.r = newPlain(out, t)
	}
	return d
}

// run ticks until Close.
func (d *Display) run() {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			d.mu.Lock()
			if !d.paused {
				d.r.tick(d.now())
				d.out.flush()
			}
			d.mu.Unlock()
		}
	}
}

// Emit implements Sink. After Close it does nothing.
func (d *Display) Emit(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = d.now()
	}
	d.r.event(e)
	d.out.flush()
}

// Pause keeps the display from writing, so that something else may have the
// terminal, until resume is called: then it shows what has happened meanwhile.
// A second Pause in between must not be.
func (d *Display) Pause() (resume func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.r.(*tty); ok {
		t.erase()
		t.last = nil
	}
	d.out.flush()
	d.paused, d.out.held = true, &spool{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		held := d.out.held
		d.paused, d.out.held = false, nil
		if _, err := held.WriteTo(d.out.w); err != nil && d.out.err == nil {
			d.out.err = err
		}
	}
}

// Close shows what is still held back and, if steps failed, which. It returns
// the first error of writing.
func (d *Display) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	close(d.stop)
	d.done.Wait()
	d.r.close(d.now())
	d.out.flush()
	return d.out.err
}

// output gathers what one event writes, so that it arrives in one piece.
type output struct {
	w    io.Writer
	held *spool // of a display that pauses
	buf  []byte
	err  error
}

func (o *output) Write(b []byte) (int, error) {
	o.buf = append(o.buf, b...)
	if len(o.buf) > 1<<20 {
		o.flush()
	}
	return len(b), nil
}

func (o *output) printf(format string, args ...any) { o.buf = fmt.Appendf(o.buf, format, args...) }

func (o *output) flush() {
	if len(o.buf) == 0 {
		return
	}
	w := o.w
	if o.held != nil {
		w = o.held
	}
	if _, err := w.Write(o.buf); err != nil && o.err == nil {
		o.err = err
	}
	o.buf = o.buf[:0]
}

// IsTerminal says whether f is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
