package progress

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// line is one event in the json mode; the package comment documents it.
type line struct {
	Time     string    `json:"time"`
	Event    string    `json:"event"`
	Vertex   *int      `json:"vertex,omitempty"`
	Vertices []Vertex  `json:"vertices,omitempty"`
	Key      string    `json:"key,omitempty"`
	Stream   int       `json:"stream,omitempty"`
	Data     string    `json:"data,omitempty"`
	Base64   []byte    `json:"base64,omitempty"`
	Error    string    `json:"error,omitempty"`
	ExitCode int       `json:"exitCode,omitempty"`
	Outcome  string    `json:"outcome,omitempty"`
	Seconds  float64   `json:"seconds,omitempty"`
	Worked   time.Time `json:"worked,omitzero"`
	Changed  []string  `json:"changed,omitempty"`
	Canceled bool      `json:"canceled,omitempty"`
	Name     string    `json:"name,omitempty"`
	Current  int64     `json:"current,omitempty"`
	Total    int64     `json:"total,omitempty"`
	Warning  *Warning  `json:"warning,omitempty"`
	Mistakes []Warning `json:"mistakes,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"`
	Text     string    `json:"text,omitempty"`
	Left     *Left     `json:"left,omitempty"`
	ID       string    `json:"id,omitempty"`
	Tags     []string  `json:"tags,omitempty"`
	Build    string    `json:"build,omitempty"`
	Kept     []string  `json:"kept,omitempty"`
}

// jsonLines writes events as they are.
type jsonLines struct {
	out *output
	enc *json.Encoder
	// split holds the first bytes of a character whose rest comes with the
	// stream's next event.
	split map[stream][]byte
}

type stream struct{ vertex, number int }

func newJSON(out *output) *jsonLines {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return &jsonLines{out, enc, map[stream][]byte{}}
}

func (j *jsonLines) event(e Event) {
	l := line{
		Time:  e.Time.UTC().Format(time.RFC3339Nano),
		Event: e.Kind.String(),
	}
	switch e.Kind {
	case Begin:
		l.Vertices = e.Vertices
	case Started:
		l.Build = e.Build
	case Log:
		if e.Data = j.whole(e); len(e.Data) == 0 {
			return
		}
		l.Stream = e.Stream
		l.setData(e.Data)
	case Status:
		l.Name, l.Current, l.Total = e.Name, e.Current, e.Total
	case Done:
		j.flush(e)
		l.ExitCode, l.Canceled = e.exitCode(), e.canceled()
		if e.Err != nil {
			l.Error, l.Outcome, l.Seconds = e.Err.Error(), e.outcome(), e.Took.Seconds()
			l.Worked, l.Changed = e.Worked, e.Changed
		}
	case Warned:
		l.Warning = e.Warning
	case Context:
		l.Bytes = e.Bytes
	case Note:
		l.Text = e.Text
	case Remains:
		l.Left = e.Left
	case Result:
		l.ID, l.Tags, l.Build = e.ID, e.Tags, e.Build
	case Failed:
		l.Mistakes, l.Build, l.Kept = e.Mistakes, e.Build, e.Kept
		if e.Err != nil {
			l.Error = e.Err.Error()
		}
	}
	switch e.Kind {
	case Started, Log, Cached, Done, Status:
		l.Vertex, l.Key = &e.Vertex, e.Key
	}
	j.enc.Encode(l)
}

func (l *line) setData(b []byte) {
	if utf8.Valid(b) {
		l.Data = string(b)
		return
	}
	l.Base64 = b
}

// whole returns e's data with the bytes held back from before, less an
// unfinished character at its end.
func (j *jsonLines) whole(e Event) []byte {
	id := stream{e.Vertex, e.Stream}
	b := append(j.split[id], e.Data...)
	delete(j.split, id)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		tail := b[len(b)-i:]
		if !utf8.RuneStart(tail[0]) {
			continue
		}
		if !utf8.FullRune(tail) {
			j.split[id] = append([]byte(nil), tail...)
			b = b[:len(b)-i]
		}
		break
	}
	return b
}

// flush writes what was held back of e's vertex.
func (j *jsonLines) flush(e Event) {
	for number := range 3 {
		id := stream{e.Vertex, number}
		if b := j.split[id]; len(b) > 0 {
			delete(j.split, id)
			l := line{Time: e.Time.UTC().Format(time.RFC3339Nano), Event: Log.String(), Vertex: &e.Vertex, Stream: number}
			l.setData(b)
			j.enc.Encode(l)
		}
	}
}

func (j *jsonLines) tick(time.Time)  {}
func (j *jsonLines) close(time.Time) {}
