package progress

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAJournalGivesBackWhatItWasTold(t *testing.T) {
	at := time.Unix(1700000000, 5).UTC()
	events := []Event{
		{Time: at, Kind: Begin, Vertices: []Vertex{{ID: 1, Label: "[1/2] RUN a", Text: "RUN a", Number: 1, Total: 2}}},
		{Time: at, Kind: Started, Vertex: 1, Key: "0123456789ab"},
		{Time: at, Kind: Log, Vertex: 1, Stream: 2, Data: []byte("text\n")},
		{Time: at, Kind: Log, Vertex: 1, Stream: 1, Data: []byte{0xff, '\n'}},
		{Time: at, Kind: Cached, Vertex: 2, Key: "x"},
		{Time: at, Kind: Note, Text: "note"},
		{Time: at, Kind: Result, ID: "id", Tags: []string{"a"}, Build: "b"},
	}
	var b bytes.Buffer
	j := NewJournal(&b)
	for _, e := range events {
		if err := j.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	text := b.String()
	r := NewJournalReader(strings.NewReader("cut off by a full di\n" + text))
	for _, want := range events {
		got, err := r.Next()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, want)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

type starved struct{ exit }

func (starved) Outcome() string { return "killed for lack of memory (OOM)" }

func TestAFailedStepIsToldWithItsEndItsTimeAndWhatChanged(t *testing.T) {
	for _, mode := range []string{"tty", "plain", "classic", "quiet", "json"} {
		var got bytes.Buffer
		record(mode, &got, func(r *recorder) {
			r.after(0, Event{Kind: Begin, Vertices: []Vertex{{ID: 1, Text: "RUN b", Label: "[1/1] RUN b"}}})
			r.after(0, Event{Kind: Started, Vertex: 1})
			r.after(2500*time.Millisecond, Event{Kind: Done, Vertex: 1, Err: starved{137}, Took: 2500 * time.Millisecond,
				Worked: time.Unix(1700000000, 0), Changed: []string{"the user: \x1b[31ma was b"}})
		})
		text := got.String()
		want := []string{"[1/1] RUN b: killed for lack of memory (OOM) after 2.5s", "changed since it last worked, 2023-11-1", "  the user: a was b\n"}
		if mode == "json" {
			want = []string{`"exitCode":137`, `"outcome":"killed for lack of memory (OOM)"`, `"seconds":2.5`, `"worked":"2023-11-14T`, `"changed":["the user: `}
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in\n%s", mode, w, text)
			}
		}
	}
}

func TestADisplayThatPausesWritesNothingAndLosesNothing(t *testing.T) {
	for _, mode := range []string{"tty", "plain", "classic", "json"} {
		var got bytes.Buffer
		d := newDisplay(mode, &got, Options{Now: time.Now, Size: func() (int, int) { return 80, 24 }})
		d.Emit(Event{Kind: Begin, Vertices: []Vertex{{ID: 1, Text: "RUN a", Label: "a"}, {ID: 2, Text: "RUN b", Label: "b"}}})
		d.Emit(Event{Kind: Started, Vertex: 1})
		d.r.tick(time.Now())
		d.out.flush()
		resume := d.Pause()
		before := got.Len()
		d.Emit(Event{Kind: Log, Vertex: 1, Stream: 1, Data: bytes.Repeat([]byte("said meanwhile\n"), 100_000)})
		d.Emit(Event{Kind: Note, Text: "noted meanwhile"})
		if got.Len() != before {
			t.Errorf("%s: wrote %q in its pause", mode, got.String()[before:])
		}
		resume()
		d.Emit(Event{Kind: Done, Vertex: 1, Err: errors.New("bad")})
		d.Close()
		for _, want := range []string{"said meanwhile", "noted meanwhile"} {
			if !strings.Contains(got.String(), want) {
				t.Errorf("%s: %q is lost", mode, want)
			}
		}
	}
}
