package progress

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// exit is an error as a sandbox gives it.
type exit int

func (e exit) Error() string { return fmt.Sprintf("process ended with exit code %d", int(e)) }
func (e exit) ExitCode() int { return int(e) }

// recorder plays events with a clock of its own.
type recorder struct {
	at   time.Time
	sink *Display
}

func (r *recorder) after(d time.Duration, e Event) {
	r.at = r.at.Add(d)
	e.Time = r.at
	r.sink.r.tick(r.at)
	r.sink.Emit(e)
}

func record(mode string, w *bytes.Buffer, play func(*recorder)) {
	r := &recorder{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	o := Options{Now: func() time.Time { return r.at }, Size: func() (int, int) { return 72, 10 }, NoColor: true}
	r.sink = newDisplay(mode, w, o)
	play(r)
	r.sink.r.tick(r.at)
	r.sink.Close()
}

const ms = time.Millisecond

func vertices() []Vertex {
	return []Vertex{
		{ID: 0, Label: "[internal] pull golang:1.15"},
		{ID: 1, Label: "[builder 1/3] FROM golang:1.15", Stage: "builder", Number: 1, Total: 3, Text: "FROM golang:1.15 AS builder", Line: 1},
		{ID: 2, Label: "[builder 2/3] COPY . .", Stage: "builder", Number: 2, Total: 3, Text: "COPY . .", Line: 2},
		{ID: 3, Label: "[builder 3/3] RUN go build", Stage: "builder", Number: 3, Total: 3, Text: "RUN go build", Line: 3},
		{ID: 4, Label: "[stage-1 1/3] FROM alpine", Text: "FROM alpine", Line: 4},
		{ID: 5, Label: "[stage-1 2/3] RUN apk add tzdata", Text: "RUN apk add tzdata", Line: 5},
		{ID: 6, Label: "[stage-1 3/3] COPY --from=builder /a /a", Text: "COPY --from=builder /a /a", Line: 6},
		{ID: 7, Label: `CMD ["/a"]`, Text: `CMD ["/a"]`, Line: 7, ConfigOnly: true},
	}
}

func log(id int, text string) Event {
	return Event{Kind: Log, Vertex: id, Stream: 1, Data: []byte(text)}
}

// begin is the same in all recordings: two stages run side by side.
func begin(r *recorder) {
	r.after(0, Event{Kind: Begin, Vertices: vertices()})
	r.after(0, Event{Kind: Warned, Warning: &Warning{File: "Dockerfile", Line: 6, Text: "COPY --from=builder /a /a", Msg: "stage is used by number", Hint: "name it"}})
	r.after(0, Event{Kind: Context, Bytes: 6656})
	r.after(0, Event{Kind: Started, Vertex: 0})
	r.after(10*ms, Event{Kind: Status, Vertex: 0, Name: "sha256:aaaa", Current: 100, Total: 2_500_000})
	r.after(300*ms, Event{Kind: Status, Vertex: 0, Name: "sha256:aaaa", Current: 2_500_000, Total: 2_500_000})
	r.after(10*ms, Event{Kind: Done, Vertex: 0})
	r.after(0, Event{Kind: Cached, Vertex: 1, Key: "40349a2425ef"})
	r.after(0, Event{Kind: Cached, Vertex: 2, Key: "222222222222"})
	r.after(0, Event{Kind: Cached, Vertex: 4, Key: "444444444444"})
	r.after(0, Event{Kind: Started, Vertex: 5, Name: "5c0ffee55555aaaa"})
	r.after(5*ms, Event{Kind: Started, Vertex: 3, Name: "1f2e3d4c5b6a"})
	r.after(10*ms, log(5, "fetch one\nfetch t"))
	r.after(10*ms, log(3, "go: down"))
	r.after(10*ms, log(5, "wo\n\x1b[31mred\x1b[0m \x1b]0;title\x07bell\r\n"))
	r.after(10*ms, log(3, "loading x\n"))
}

func good(r *recorder) {
	begin(r)
	r.after(10*ms, Event{Kind: Done, Vertex: 5, Key: "555555555555"})
	r.after(1500*ms, log(3, "10%\r50%\r100%"))
	r.after(10*ms, Event{Kind: Done, Vertex: 3, Key: "333333333333"})
	r.after(0, Event{Kind: Started, Vertex: 6})
	r.after(20*ms, Event{Kind: Done, Vertex: 6, Key: "666666666666"})
	r.after(0, Event{Kind: Done, Vertex: 7, Key: "777777777777"})
	r.after(0, Event{Kind: Note, Text: "stage 0 has no name"})
	r.after(0, Event{Kind: Result, ID: "sha256:0123456789abcdef", Tags: []string{"http-server:latest"}})
	r.after(0, Event{Kind: Remains, Left: &Left{Names: []string{"http-server:latest"}, ID: "sha256:0123456789abcdef", Size: 12_345_678,
		Stages: []StageLeft{{"builder", 812_000_000}, {"assets", 3_100_000}}, Total: 815_100_000}})
}

func bad(r *recorder) {
	begin(r)
	r.after(1100*ms, log(5, "ERROR: no such package\n"))
	r.after(10*ms, Event{Kind: Done, Vertex: 5, Err: fmt.Errorf("RUN: %w", exit(7))})
	r.after(10*ms, Event{Kind: Done, Vertex: 3, Err: context.Canceled})
	r.after(0, Event{Kind: Done, Vertex: 6, Err: context.Canceled})
}

func TestEveryModeShowsARecordedBuild(t *testing.T) {
	for _, mode := range []string{"tty", "plain", "classic", "json", "quiet"} {
		for name, play := range map[string]func(*recorder){"good": good, "bad": bad} {
			t.Run(mode+"-"+name, func(t *testing.T) {
				var got bytes.Buffer
				record(mode, &got, play)
				text := got.String()
				if mode == "tty" {
					text = strings.ReplaceAll(text, "\x1b", "^[")
				}
				golden(t, mode+"-"+name, text)
			})
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// screen is a terminal as far as the tty mode uses one.
type screen struct {
	width int
	lines []string
	row   int
}

// feed obeys cursor up, erase to the end of the line and of the screen.
func (s *screen) feed(t *testing.T, text string) {
	for len(text) > 0 {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			var n int
			i := strings.IndexAny(text, "AKJm")
			fmt.Sscanf(text[2:], "%d", &n)
			switch text[i] {
			case 'A':
				if s.row -= n; s.row < 0 {
					t.Fatalf("cursor above the top by %d", -s.row)
				}
			case 'J':
				s.lines = s.lines[:s.row]
			}
			text = text[i+1:]
		case text[0] == '\r':
			text = text[1:]
		case text[0] == '\x1b', text[0] < ' ' && text[0] != '\n':
			t.Fatalf("unexpected %q", text[:1])
		default:
			i := strings.IndexAny(text, "\n\x1b")
			line := text[:i]
			if width(line) >= s.width && s.width > 0 && strings.HasPrefix(text[i:], "\x1b[K") {
				t.Errorf("a line that is redrawn is %d cells wide: %q", width(line), line)
			}
			if line != "" {
				s.lines = append(s.lines[:s.row:s.row], append([]string{line}, s.lines[min(s.row+1, len(s.lines)):]...)...)
			}
			if text[i] == '\n' {
				s.row++
				i++
			}
			text = text[i:]
		}
	}
}

func TestTheTerminalEndsWithTheSummaryOnly(t *testing.T) {
	var got bytes.Buffer
	record("tty", &got, good)
	s := &screen{width: 72}
	s.feed(t, got.String())
	want := []string{
		"warning: Dockerfile:6: stage is used by number",
		"    COPY --from=builder /a /a",
		"    hint: name it",
		"stage 0 has no name",
		"built  8 of 8 steps, 3 cached  1.9s",
		"left: http-server:latest  0123456789ab  12.35MB",
		"left behind: builder 812MB, assets 3.1MB (815.1MB together)",
	}
	if strings.Join(s.lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(s.lines, "\n"))
	}
}

func TestFramesFitTheTerminal(t *testing.T) {
	at := time.Unix(1000, 0)
	tr := newTracker()
	view := newTTY(&output{}, tr, Options{})
	view.event(Event{Time: at, Kind: Begin})
	for i := range 30 {
		view.event(Event{Time: at, Kind: Begin, Vertices: []Vertex{{ID: i, Label: fmt.Sprintf("[stage %d] RUN echo 世界 %s", i, strings.Repeat("long ", i))}}})
		view.event(Event{Time: at.Add(time.Duration(i) * ms), Kind: Started, Vertex: i})
		view.event(Event{Time: at, Kind: Log, Vertex: i, Stream: 2, Data: []byte(strings.Repeat("e\u0301漢\t\x1b[2J", i))})
	}
	for cols := 1; cols < 130; cols++ {
		for _, rows := range []int{1, 2, 3, 5, 24, 50} {
			lines := view.frame(at.Add(time.Hour), cols, rows)
			if len(lines) > max(1, rows-1) {
				t.Errorf("%d rows: %d lines", rows, len(lines))
			}
			for _, l := range lines {
				if n := width(l); n > max(0, cols-1) || strings.ContainsAny(l, "\x1b\t\r\n") {
					t.Errorf("%d cells: %d in %q", cols, n, l)
				}
			}
		}
	}
	lines := view.frame(at.Add(time.Hour), 60, 6)
	if want := "  and 27 more"; lines[len(lines)-1] != want {
		t.Errorf("got %q, want %q", lines[len(lines)-1], want)
	}
}

func TestANarrowerTerminalIsRedrawnWhole(t *testing.T) {
	cols := 100
	var out bytes.Buffer
	o := &output{w: &out}
	view := newTTY(o, newTracker(), Options{Size: func() (int, int) { return cols, 24 }})
	at := time.Unix(1000, 0)
	view.event(Event{Time: at, Kind: Begin, Vertices: []Vertex{{ID: 1, Label: strings.Repeat("x", 95)}}})
	view.event(Event{Time: at, Kind: Started, Vertex: 1})
	view.tick(at)
	out.Reset()
	o.buf = nil
	cols = 40
	view.tick(at.Add(time.Second))
	// The header stays one line; the step's 99 cells were folded to three.
	if got := string(o.buf); !strings.HasPrefix(got, "\x1b[4A\r") {
		t.Errorf("got %q", got[:min(20, len(got))])
	}
}

func TestClassicKeepsTheOrderOfTheFile(t *testing.T) {
	orders := [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}}
	var want string
	for _, order := range orders {
		var got bytes.Buffer
		record("classic", &got, func(r *recorder) {
			var all []Vertex
			for i := range 4 {
				all = append(all, Vertex{ID: i, Label: "x", Text: fmt.Sprintf("RUN step %d", i)})
			}
			r.after(0, Event{Kind: Begin, Vertices: all})
			for _, phase := range []string{"start", "a\npart", "ial\n", "end"} {
				for _, id := range order {
					switch phase {
					case "start":
						r.after(ms, Event{Kind: Started, Vertex: id, Name: fmt.Sprint("container", id)})
					case "end":
						r.after(ms, Event{Kind: Done, Vertex: id, Key: fmt.Sprint("key", id)})
					default:
						r.after(ms, log(id, phase))
					}
				}
			}
		})
		if want == "" {
			want = got.String()
		}
		if got.String() != want {
			t.Errorf("order %v: got\n%s\nwant\n%s", order, got.String(), want)
		}
	}
	if !strings.HasPrefix(want, "Step 1/4 : RUN step 0\n ---> Running in container0\na\npartial\nRemoving intermediate container container0\n ---> key0\nStep 2/4") {
		t.Errorf("got\n%s", want)
	}
}

func TestClassicShowsTheFirstUnfinishedStepLive(t *testing.T) {
	var got bytes.Buffer
	record("classic", &got, func(r *recorder) {
		r.after(0, Event{Kind: Begin, Vertices: []Vertex{{ID: 0, Text: "RUN a"}, {ID: 1, Text: "RUN b"}}})
		r.after(0, Event{Kind: Started, Vertex: 1, Name: "bb"})
		r.after(0, log(1, "early\n"))
		if got.Len() > 0 {
			t.Errorf("the second step was shown first: %q", got.String())
		}
		r.after(0, Event{Kind: Started, Vertex: 0, Name: "aa"})
		r.after(0, log(0, "live"))
		if !strings.HasSuffix(got.String(), "live") {
			t.Errorf("the first step is not live: %q", got.String())
		}
		r.after(0, Event{Kind: Done, Vertex: 0, Key: "k"})
		if !strings.HasSuffix(got.String(), "early\n") {
			t.Errorf("the second step did not get its turn: %q", got.String())
		}
	})
}

func TestLogsAreNeverClipped(t *testing.T) {
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "line %d of a long log\n", i)
	}
	for _, mode := range []string{"tty", "plain", "classic", "quiet"} {
		var got bytes.Buffer
		record(mode, &got, func(r *recorder) {
			r.after(0, Event{Kind: Begin, Vertices: []Vertex{{ID: 0, Text: "RUN a", Label: "a"}, {ID: 1, Text: "RUN b", Label: "b"}}})
			r.after(0, Event{Kind: Started, Vertex: 0})
			r.after(0, Event{Kind: Started, Vertex: 1})
			for b := []byte(text.String()); len(b) > 0; {
				n := min(777, len(b))
				r.after(0, Event{Kind: Log, Vertex: 1, Stream: 1, Data: b[:n]})
				b = b[n:]
			}
			r.after(0, Event{Kind: Done, Vertex: 0})
			r.after(0, Event{Kind: Done, Vertex: 1, Err: exit(1)})
		})
		count, again := strings.Count(got.String(), " of a long log\n"), 0
		if mode == "plain" {
			again = endLines // told at the end as well
		}
		if count != 20_000+again || !strings.Contains(got.String(), "line 19999 of a long log\n") {
			t.Errorf("%s: %d lines", mode, count)
		}
	}
}

func TestEventsMayComeFromManyGoroutines(t *testing.T) {
	for _, mode := range Modes()[1:] {
		f, err := os.Create(filepath.Join(t.TempDir(), mode))
		if err != nil {
			t.Fatal(err)
		}
		d, err := New(mode, f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		d.Emit(Event{Kind: Begin, Vertices: vertices()})
		var all sync.WaitGroup
		for id := range 8 {
			all.Go(func() {
				d.Emit(Event{Kind: Started, Vertex: id})
				for i := range 50 {
					d.Emit(log(id, fmt.Sprintf("line %d\n", i)))
				}
				d.Emit(Event{Kind: Done, Vertex: id})
			})
		}
		all.Wait()
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		d.Emit(log(1, "after the end\n"))
		b, err := os.ReadFile(f.Name())
		if err != nil || bytes.Contains(b, []byte("after the end")) {
			t.Errorf("%s: written after Close (%v)", mode, err)
		}
		if n := bytes.Count(b, []byte("line 49")); (mode == "plain" || mode == "classic" || mode == "json") && n < 7 {
			t.Errorf("%s: %d last lines", mode, n)
		}
		f.Close()
	}
}

func TestNewTakesKnownModesOnly(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := New("fancy", f, Options{}); err == nil || !strings.Contains(err.Error(), "auto, tty, plain, classic, json, quiet") {
		t.Errorf("got %v", err)
	}
	d, err := New("auto", f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.r.(*plain); !ok {
		t.Errorf("auto on a file is %T", d.r)
	}
	d.Close()
}

func TestAWriteErrorIsToldAtTheEnd(t *testing.T) {
	f, err := os.Open(os.DevNull) // read only
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := New("classic", f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Emit(Event{Kind: Note, Text: "x"})
	if err := d.Close(); err == nil {
		t.Error("no error")
	}
}

func TestANoteNamesItsStep(t *testing.T) {
	for _, mode := range []string{"plain", "classic", "tty"} {
		var b bytes.Buffer
		record(mode, &b, func(r *recorder) {
			r.after(0, Event{Kind: Begin, Vertices: vertices()})
			r.after(0, Event{Kind: Note, Text: "of no step"})
			r.after(0, Event{Kind: Note, Vertex: 3, Text: "waiting"})
		})
		if got := b.String(); !strings.Contains(got, "of no step\n") || !strings.Contains(got, "[builder 3/3] RUN go build: waiting\n") || strings.Contains(got, "golang:1.15: of") {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

func TestABuildWithoutStepsCountsNone(t *testing.T) {
	var b bytes.Buffer
	record("tty", &b, func(r *recorder) { r.after(ms, Event{Kind: Failed, Err: errors.New("no Dockerfile")}) })
	if strings.Contains(b.String(), "steps") {
		t.Errorf("%q", b.String())
	}
}
