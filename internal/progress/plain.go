package progress

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"
)

// plain shows a build as BuildKit's plain progress does, for logs: every line
// begins with its step's number, and what a failed step said last comes again at
// the end. Steps that run at once take turns, so that
// the lines of one stay together.
type plain struct {
	out   *output
	track *tracker
	lanes map[*step]*lane
	queue []*lane // with something to say, the first to speak first
	cur   *lane   // whose header was last
	since time.Time
	count int
	// ends is the last lines of what failed steps printed.
	ends map[*step][]string
	// image is the result, held back: what is left tells it too.
	image *Event
	left  bool
}

// lane is what one step has to say.
type lane struct {
	s     *step
	n     int
	said  bytes.Buffer
	parts [3]part // of the streams, by number
	shown map[string]time.Time
	end   []string // the last lines that it printed
	over  bool
}

// part is the begin of a line.
type part struct {
	text []byte
	at   time.Time
}

const (
	turnTime = time.Second // how long a step keeps the word when others wait
	turnSize = 64 << 10    // how much a step may hold back
	endLines = 20          // how many lines of a failed step are told again at the end
	// statusTime is how often something that goes on is mentioned.
	statusTime = 5 * time.Second
)

func newPlain(out *output, t *tracker) *plain {
	return &plain{out: out, track: t, lanes: map[*step]*lane{}, ends: map[*step][]string{}}
}

func (p *plain) event(e Event) {
	s := p.track.event(e)
	if s == nil {
		p.general(e)
		return
	}
	if s.state == canceled && p.lanes[s] == nil {
		return // it never began
	}
	l := p.lane(s)
	switch e.Kind {
	case Log:
		l.log(e)
	case Status:
		l.status(e)
	case Cached:
		fmt.Fprintf(&l.said, "#%d CACHED\n", l.n)
		l.over = true
	case Done:
		l.done()
		if s.state == failed {
			p.ends[s] = l.end
		}
	}
	p.speak(l, e.Time, e.Kind != Log && e.Kind != Status || l.said.Len() > 0)
}

func (p *plain) lane(s *step) *lane {
	l := p.lanes[s]
	if l == nil {
		p.count++
		l = &lane{s: s, n: p.count, shown: map[string]time.Time{}}
		p.lanes[s] = l
	}
	return l
}

// log takes lines out of e's data.
func (l *lane) log(e Event) {
	part := &l.parts[min(max(e.Stream, 0), 2)]
	for b := e.Data; len(b) > 0; {
		if len(part.text) == 0 {
			part.at = e.Time
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			part.text = append(part.text, b...)
			if len(part.text) > maxPart {
				l.line(part)
			}
			return
		}
		part.text = append(part.text, b[:i]...)
		l.line(part)
		b = b[i+1:]
	}
}

func (l *lane) line(p *part) {
	fmt.Fprintf(&l.said, "#%d %s ", l.n, seconds(p.at.Sub(l.s.started)))
	l.said.Write(p.text)
	l.said.WriteByte('\n')
	if len(l.end) == endLines {
		l.end = append(l.end[:0], l.end[1:]...)
	}
	l.end = append(l.end, string(p.text))
	p.text = p.text[:0]
}

// status mentions a part of a step: when it is complete, and now and then
// while it is not.
func (l *lane) status(e Event) {
	last, ok := l.shown[e.Name]
	switch {
	case ok && last.IsZero(): // was complete
	case e.Total > 0 && e.Current >= e.Total:
		fmt.Fprintf(&l.said, "#%d %s %s done\n", l.n, Clean(e.Name), HumanSize(e.Total))
		l.shown[e.Name] = time.Time{}
	case !ok:
		l.shown[e.Name] = e.Time
	case e.Time.Sub(last) >= statusTime:
		size := HumanSize(e.Current)
		if e.Total > 0 {
			size += " / " + HumanSize(e.Total)
		}
		fmt.Fprintf(&l.said, "#%d %s %s\n", l.n, Clean(e.Name), size)
		l.shown[e.Name] = e.Time
	}
}

func (l *lane) done() {
	for i := range l.parts {
		if len(l.parts[i].text) > 0 {
			l.line(&l.parts[i])
		}
	}
	switch l.s.state {
	case failed:
		fmt.Fprintf(&l.said, "#%d ERROR: %s\n", l.n, Clean(l.s.errorText()))
	case canceled:
		fmt.Fprintf(&l.said, "#%d CANCELED\n", l.n)
	default:
		fmt.Fprintf(&l.said, "#%d DONE %.1fs\n", l.n, max(0, l.s.ended.Sub(l.s.started).Seconds()))
	}
	l.over = true
}

// errorText is the error, with the exit code if it does not tell.
func (s *step) errorText() string {
	text := fmt.Sprint(s.err)
	if code := fmt.Sprint(s.code); s.code != 0 && !strings.Contains(text, code) {
		text += ": exit code " + code
	}
	return text
}

// speak gives l the word if it may have it now, else a place in the queue.
func (p *plain) speak(l *lane, now time.Time, wants bool) {
	if !wants {
		return
	}
	if p.cur == nil || p.cur == l || now.Sub(p.since) >= turnTime || l.said.Len() > turnSize {
		p.say(l, now)
	} else if !l.waits(p.queue) {
		p.queue = append(p.queue, l)
	}
	for p.cur == nil && len(p.queue) > 0 {
		p.say(p.queue[0], now)
	}
}

func (l *lane) waits(queue []*lane) bool {
	for _, q := range queue {
		if q == l {
			return true
		}
	}
	return false
}

// say writes what l has to say.
func (p *plain) say(l *lane, now time.Time) {
	for i, q := range p.queue {
		if q == l {
			p.queue = append(p.queue[:i:i], p.queue[i+1:]...)
			break
		}
	}
	if p.cur != l {
		p.yield()
		p.out.printf("#%d %s\n", l.n, Clean(l.s.Label))
		p.cur, p.since = l, now
	}
	l.said.WriteTo(p.out)
	if l.over {
		p.out.printf("\n")
		p.cur = nil
		delete(p.lanes, l.s)
	}
}

// yield ends the block of the step that has the word.
func (p *plain) yield() {
	if p.cur != nil {
		p.out.printf("#%d ...\n\n", p.cur.n)
		p.cur = nil
	}
}

func (p *plain) general(e Event) {
	switch e.Kind {
	case Begin:
		// A step that is to be done again gets a new number.
		maps.DeleteFunc(p.lanes, func(s *step, l *lane) bool { return l.over && s.state == waiting })
		return
	case Failed:
		return
	case Context:
		l := p.lane(&step{Vertex: Vertex{Label: "[internal] load build context"}})
		fmt.Fprintf(&l.said, "#%d transferring context: %s done\n#%d DONE 0.0s\n", l.n, HumanSize(e.Bytes), l.n)
		l.over = true
		p.speak(l, e.Time, true)
		return
	}
	p.yield()
	switch e.Kind {
	case Warned:
		writeWarning(p.out, e.Warning)
		p.out.printf("\n")
	case Note:
		p.out.printf("%s\n\n", p.track.note(e))
	case Remains:
		writeLeft(p.out, e.Left)
		p.left = true
	case Result:
		p.image = &e
	}
}

// writeResult tells the image when nothing else does, if there is one.
func writeResult(w io.Writer, e *Event) {
	if e.ID == "" {
		return
	}
	fmt.Fprintf(w, "built %s\n", short(e.ID))
	for _, t := range e.Tags {
		fmt.Fprintf(w, "tagged %s\n", Clean(t))
	}
}

func (p *plain) tick(now time.Time) {
	if len(p.queue) > 0 && now.Sub(p.since) >= turnTime {
		p.say(p.queue[0], now)
	}
}

func (p *plain) close(now time.Time) {
	for len(p.queue) > 0 {
		p.say(p.queue[0], now)
	}
	for _, s := range p.track.steps {
		if l := p.lanes[s]; l != nil {
			p.rest(l, now)
		}
	}
	p.yield()
	if p.image != nil && !p.left {
		writeResult(p.out, p.image)
	}
	for _, s := range p.track.failures() {
		p.out.printf("------\n > %s: %s\n", Clean(s.Label), Clean(s.outcome()))
		for _, line := range p.ends[s] {
			p.out.printf("%s\n", line)
		}
		p.out.printf("------\n")
		s.writeChanged(p.out)
	}
}

// rest says what a step that did not end had begun to say.
func (p *plain) rest(l *lane, now time.Time) {
	for i := range l.parts {
		if len(l.parts[i].text) > 0 {
			l.line(&l.parts[i])
		}
	}
	if l.said.Len() > 0 {
		p.say(l, now)
	}
}

// seconds writes the time since a step's start in five characters.
func seconds(d time.Duration) string {
	switch s := max(0, d.Seconds()); {
	case s < 9.9995:
		return fmt.Sprintf("%.3f", s)
	case s < 99.995:
		return fmt.Sprintf("%.2f", s)
	case s < 999.95:
		return fmt.Sprintf("%.1f", s)
	default:
		return fmt.Sprintf("%5.0f", s)
	}
}
