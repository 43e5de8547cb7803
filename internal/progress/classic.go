package progress

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// classic shows a build as Docker's first builder did: the instructions in
// the order of the file, one after the other, whatever really runs at once.
// What a step says before its turn is kept until all before it are done; the
// first that is not done is shown live.
type classic struct {
	out   *lineEnd
	track *tracker
	shown []*step // those with an instruction
	index map[*step]int
	said  map[*step]*lineEnd // steps whose header is written, where they write
	turn  int                // index of the first that is not over
}

func newClassic(out *output, t *tracker) *classic {
	return &classic{
		out:   &lineEnd{w: out, at: '\n'},
		track: t,
		index: map[*step]int{},
		said:  map[*step]*lineEnd{},
	}
}

func (c *classic) event(e Event) {
	s := c.track.event(e)
	if s == nil {
		c.general(e)
		return
	}
	i, ok := c.index[s]
	if !ok {
		if e.Kind == Log {
			c.out.Write(e.Data) // of a step that no instruction names
		}
		return
	}
	w := c.said[s]
	if w == nil && !(e.Kind == Done && s.state == canceled) {
		w = c.writer(i)
		w.endLine()
		c.said[s] = w
		fmt.Fprintf(w, "Step %d/%d : %s\n", i+1, len(c.shown), Clean(s.Text))
	}
	switch e.Kind {
	case Started:
		if s.contained() {
			s.container = containerID(e, s)
			fmt.Fprintf(w, " ---> Running in %s\n", s.container)
		}
	case Log:
		w.Write(e.Data)
	case Cached:
		if s.word() != "FROM" {
			fmt.Fprintln(w, " ---> Using cache")
		}
		fmt.Fprintf(w, " ---> %s\n", short(s.Key))
	case Done:
		c.done(s, w)
	}
	c.advance()
}

func (c *classic) done(s *step, w *lineEnd) {
	if w == nil {
		return
	}
	w.endLine()
	if s.state != finished {
		return
	}
	if s.container != "" {
		fmt.Fprintf(w, "Removing intermediate container %s\n", s.container)
	}
	fmt.Fprintf(w, " ---> %s\n", short(s.Key))
}

// writer is where the i-th step writes now.
func (c *classic) writer(i int) *lineEnd {
	if i == c.turn {
		return c.out
	}
	return &lineEnd{w: &c.shown[i].log, at: '\n'}
}

// advance gives the turn to the first step that is not over.
func (c *classic) advance() {
	for c.turn < len(c.shown) && c.shown[c.turn].state.over() {
		c.shown[c.turn].log.WriteTo(c.out)
		c.turn++
	}
	if c.turn == len(c.shown) {
		return
	}
	s := c.shown[c.turn]
	if w := c.said[s]; w != nil && w != c.out {
		s.log.WriteTo(c.out)
		c.said[s] = c.out
	}
}

// general shows what is not about a step.
func (c *classic) general(e Event) {
	if e.Kind == Begin {
		for _, v := range e.Vertices {
			s := c.track.step(v.ID)
			if _, ok := c.index[s]; !ok && v.Text != "" {
				c.index[s] = len(c.shown)
				c.shown = append(c.shown, s)
			}
		}
		return
	}
	c.out.endLine()
	switch e.Kind {
	case Context:
		fmt.Fprintf(c.out, "Sending build context to Docker daemon  %s\n", HumanSize(e.Bytes))
	case Warned:
		writeWarning(c.out, e.Warning)
	case Note:
		fmt.Fprintln(c.out, c.track.note(e))
	case Remains:
		writeLeft(c.out, e.Left)
	case Result:
		if e.ID == "" {
			return
		}
		fmt.Fprintf(c.out, "Successfully built %s\n", short(e.ID))
		for _, t := range e.Tags {
			fmt.Fprintf(c.out, "Successfully tagged %s\n", Clean(t))
		}
	}
}

func (c *classic) tick(time.Time) {}

func (c *classic) close(time.Time) {
	for _, s := range c.shown[c.turn:] {
		s.log.WriteTo(c.out)
	}
	for _, s := range c.track.failures() {
		c.out.endLine()
		fmt.Fprintf(c.out, "failed: %s: %s\n", Clean(s.Label), Clean(s.outcome()))
		s.writeChanged(c.out)
	}
}

// endLine ends a line that was begun.
func (l *lineEnd) endLine() {
	if l.at != '\n' {
		l.Write([]byte("\n"))
	}
}

// word is the instruction's name.
func (s *step) word() string {
	w, _, _ := strings.Cut(strings.TrimSpace(s.Text), " ")
	return strings.ToUpper(w)
}

// contained reports whether the classic builder made a container for the
// instruction, which it did even to change the config.
func (s *step) contained() bool {
	switch s.word() {
	case "FROM", "COPY", "ADD":
		return false
	}
	return true
}

// containerID is the ID of the container in which s runs, or a stand-in where
// none is told.
func containerID(e Event, s *step) string {
	if e.Name != "" {
		return short(e.Name)
	}
	sum := sha256.Sum256(fmt.Append(nil, "container", s.ID, s.Key))
	return hex.EncodeToString(sum[:6])
}
