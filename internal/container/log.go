package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// logFile keeps what a container writes: one JSON object for each write, so
// that the two streams stay apart and no byte is lost.
type logFile struct {
	mu  sync.Mutex
	f   *os.File
	now func() time.Time
}

type logLine struct {
	Stream int       `json:"s"` // 1 or 2
	Time   time.Time `json:"t"`
	Data   []byte    `json:"d"`
}

// openLog continues the log at path. A line that a killed monitor or a full
// disk cut off is ended, so that it spoils no other.
func openLog(path string, now func() time.Time) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logFile{f: f, now: now}
	last := make([]byte, 1)
	if st, err := f.Stat(); err == nil && st.Size() > 0 {
		if _, err := f.ReadAt(last, st.Size()-1); err == nil && last[0] != '\n' {
			l.write([]byte("\n"))
		}
	}
	return l, nil
}

func (l *logFile) close() error { return l.f.Close() }

// write never fails: a full disk must not stop what the container does.
func (l *logFile) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.f.Write(b)
}

func (l *logFile) stream(n int) io.Writer { return logStream{l, n} }

type logStream struct {
	l *logFile
	n int
}

func (s logStream) Write(p []byte) (int, error) {
	if b, err := json.Marshal(logLine{s.n, s.l.now().UTC(), p}); err == nil {
		s.l.write(append(b, '\n'))
	}
	return len(p), nil
}

// LogView says what of a log to show, and how. The zero value shows all.
type LogView struct {
	Follow bool      // go on until the container ends
	Stamps bool      // the time before each line
	Since  time.Time // only what was written then or later
	Until  time.Time // only what was written then or before; zero is no limit
	Last   int       // only so many lines from the end, when Tail is set
	Tail   bool
}

// hides reports whether what was written at t is not to be shown.
func (v *LogView) hides(t time.Time) bool {
	return t.Before(v.Since) || !v.Until.IsZero() && t.After(v.Until)
}

// over reports whether all that is written from now on is not to be shown.
func (v *LogView) over(now time.Time) bool { return !v.Until.IsZero() && now.After(v.Until) }

// Logs writes what the container has written so far, and with v.Follow goes on
// until it ends, or until v.Until.
func (s *Set) Logs(ctx context.Context, c *Container, out, errOut io.Writer, v LogView) error {
	dir, err := s.folder(c)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, logName))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it never ran
	}
	if err != nil {
		return err
	}
	defer f.Close()
	skip := 0
	if v.Tail {
		if skip, err = linesBefore(f, v); err != nil {
			return err
		}
	}
	p := &logPrinter{view: v, skip: skip, streams: map[int]*logOut{1: {w: out, start: true}, 2: {w: errOut, start: true}}}
	r := bufio.NewReader(f)
	var part []byte
	for {
		// Asked before reading: what was written until the end is then read.
		running := v.Follow && !v.over(s.Now()) && locked(dir)
		b, err := r.ReadBytes('\n')
		part = append(part, b...)
		if err == nil {
			if err := p.record(part); err != nil {
				return err
			}
			part = part[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !running {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// linesBefore counts the lines that come before the last v.Last ones.
func linesBefore(f *os.File, v LogView) (int, error) {
	counter := &logPrinter{view: LogView{Since: v.Since, Until: v.Until}, streams: map[int]*logOut{1: {w: io.Discard, start: true}, 2: {w: io.Discard, start: true}}}
	r := bufio.NewReader(f)
	for {
		b, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = counter.record(b)
		}
		if err != nil {
			return 0, err
		}
	}
	_, err := f.Seek(0, io.SeekStart)
	return max(0, counter.lines-v.Last), err
}

// logPrinter writes records as lines.
type logPrinter struct {
	view    LogView
	streams map[int]*logOut
	lines   int // begun so far
	skip    int // so many of them are not shown
}

type logOut struct {
	w     io.Writer
	start bool // the next byte begins a line
	shown bool // the line that goes on is shown
}

// record shows one record. One that cannot be read was cut off by a kill or a
// full disk, and what it said is lost.
func (p *logPrinter) record(b []byte) error {
	var l logLine
	if json.Unmarshal(b, &l) != nil || p.streams[l.Stream] == nil || p.view.hides(l.Time) {
		return nil
	}
	o := p.streams[l.Stream]
	var out []byte
	for line := range bytes.Lines(l.Data) {
		if o.start {
			p.lines++
			o.shown = p.lines > p.skip
			if o.shown && p.view.Stamps {
				out = append(l.Time.AppendFormat(out, time.RFC3339Nano), ' ')
			}
		}
		if o.shown {
			out = append(out, line...)
		}
		o.start = line[len(line)-1] == '\n'
	}
	if len(out) == 0 {
		return nil
	}
	_, err := o.w.Write(out)
	return err
}
