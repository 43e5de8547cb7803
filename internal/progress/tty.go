package progress

import (
	"bytes"
	"fmt"
	"slices"
	"time"
)

// tty shows a build on a terminal: a header, and a line for each step that
// runs. Only these lines are ever redrawn; they never scroll. What a step
// prints is seen as its last line, and whole if the step fails.
type tty struct {
	out   *output
	track *tracker
	size  func() (width, rows int)
	color bool

	began time.Time
	drawn []int // width of each line on the screen that is to be redrawn
	last  []string
	tails map[*step][]byte // the end of what each running step printed
	image *Event           // the build's result
	left  *Left
}

// tailSize is how much of a step's output is kept to find its last line.
const tailSize = 4 << 10

func newTTY(out *output, t *tracker, o Options) *tty {
	return &tty{out: out, track: t, size: o.Size, color: !o.NoColor, tails: map[*step][]byte{}}
}

func (t *tty) event(e Event) {
	if t.began.IsZero() {
		t.began = e.Time
	}
	s := t.track.event(e)
	switch e.Kind {
	case Log:
		s.log.Write(e.Data)
		tail := append(t.tails[s], e.Data...)
		if len(tail) > 2*tailSize {
			tail = slices.Clone(tail[len(tail)-tailSize:])
		}
		t.tails[s] = tail
	case Cached, Done:
		delete(t.tails, s)
		if s.state != failed {
			s.log.drop()
		}
	case Warned:
		t.above(func() { writeWarning(t.out, e.Warning) })
	case Note:
		t.above(func() { t.out.printf("%s\n", t.track.note(e)) })
	case Remains:
		t.left = e.Left
	case Result:
		t.image = &e
	}
}

// above writes lines that stay, in place of those that are redrawn.
func (t *tty) above(write func()) {
	t.erase()
	write()
	t.put(t.last)
}

func (t *tty) tick(now time.Time) {
	if len(t.track.steps) == 0 {
		return
	}
	width, rows := t.size()
	lines := t.frame(now, width, rows)
	if slices.Equal(lines, t.last) {
		return
	}
	t.home(width)
	t.put(lines)
	t.out.printf("\x1b[J")
}

// put writes lines over what is there.
func (t *tty) put(lines []string) {
	t.drawn = t.drawn[:0]
	for _, l := range lines {
		t.out.printf("%s\x1b[K\n", l)
		t.drawn = append(t.drawn, width(l))
	}
	t.last = lines
}

// home moves to the first of the lines drawn. A terminal that was made
// narrower has folded them.
func (t *tty) home(width int) {
	rows := 0
	for _, w := range t.drawn {
		rows += max(1, (w+width-1)/width)
	}
	if rows > 0 {
		t.out.printf("\x1b[%dA", rows)
	}
	t.out.printf("\r")
}

func (t *tty) erase() {
	if len(t.drawn) == 0 {
		return
	}
	width, _ := t.size()
	t.home(width)
	t.out.printf("\x1b[J")
	t.drawn = nil
}

// frame is the picture of the build at a time, in lines of less than width
// cells and less than rows of them.
func (t *tty) frame(now time.Time, width, rows int) []string {
	lines := []string{fit(t.work()+"  "+t.track.counts()+"  "+HumanDuration(now.Sub(t.began)), width-1)}
	var run []*step
	for _, s := range t.track.steps {
		if s.state == running {
			run = append(run, s)
		}
	}
	slices.SortStableFunc(run, func(a, b *step) int { return a.started.Compare(b.started) })
	room := max(rows-2, 0)
	more := 0
	if len(run) > room {
		room = max(room-1, 0)
		more = len(run) - room
		run = run[:room]
	}
	for _, s := range run {
		lines = append(lines, t.line(s, now, width-1))
	}
	if more > 0 && rows > 2 {
		lines = append(lines, fit(fmt.Sprintf("  and %d more", more), width-1))
	}
	return lines
}

// work is what is done: instructions make it a build.
func (t *tty) work() string {
	if slices.ContainsFunc(t.track.steps, func(s *step) bool { return s.Text != "" }) {
		return "building"
	}
	return "transferring"
}

// over reports whether there were steps and all are.
func (t *tracker) over() bool {
	return len(t.steps) > 0 && !slices.ContainsFunc(t.steps, func(s *step) bool { return !s.state.over() })
}

// line is a running step: its label, what it said last, and its age.
func (t *tty) line(s *step, now time.Time, cells int) string {
	age := HumanDuration(now.Sub(s.started))
	room := cells - len(age) - 3 // a blank in front, two before the age
	if room < 12 {
		return fit(" "+Clean(s.Label), cells)
	}
	label, said := Clean(s.Label), t.saying(s)
	if said == "" {
		return " " + pad(label, room) + "  " + age
	}
	label = fit(label, max(room/2, room-2-width(said)))
	return " " + pad(label+"  "+said, room) + "  " + age
}

// saying is the last line of s's output, or how far its parts are.
func (t *tty) saying(s *step) string {
	lines := bytes.Split(t.tails[s], []byte("\n"))
	for _, l := range slices.Backward(lines) {
		if text := lastText(l); text != "" {
			return text
		}
	}
	if len(s.status) == 0 {
		return ""
	}
	var sum progressOf
	known := true
	for _, p := range s.status {
		sum.current += p.current
		sum.total += p.total
		known = known && p.total > 0
	}
	if !known {
		return HumanSize(sum.current)
	}
	return HumanSize(sum.current) + " of " + HumanSize(sum.total)
}

// counts says how many steps are done.
func (t *tracker) counts() string {
	over, hit := 0, 0 // what failed or was stopped is not done
	for _, s := range t.steps {
		switch s.state {
		case cached:
			hit++
			over++
		case finished:
			over++
		}
	}
	text := fmt.Sprintf("%d of %d steps", over, len(t.steps))
	if hit > 0 {
		text += fmt.Sprintf(", %d cached", hit)
	}
	return text
}

func (t *tty) close(now time.Time) {
	t.erase()
	bad := t.track.failures()
	writeFailures(t.out, t.track, true)
	word := "built"
	switch {
	case len(bad) > 0:
		word = "failed"
		if t.color {
			word = "\x1b[31mfailed\x1b[0m"
		}
	case t.image == nil && t.track.over():
		word = "done" // a transfer, not a build
	case t.image == nil:
		word = "stopped"
	}
	if len(t.track.steps) > 0 {
		t.out.printf("%s  %s  %s\n", word, t.track.counts(), HumanDuration(now.Sub(t.began)))
	}
	switch {
	case t.left != nil:
		writeLeft(t.out, t.left)
	case t.image != nil:
		writeResult(t.out, t.image)
	}
}
