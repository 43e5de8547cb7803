// Package progress owns the events of a build and the ways to show them.
//
// A build emits Events into a Sink; a Display is a Sink that renders them to
// a terminal or a log. Whatever a step prints is shown or kept whole: no mode
// clips a log. Nothing here knows why a step runs or what it is made of.
//
// # The json mode
//
// One JSON object a line, in the order of the events. Every object has
// "time" (RFC 3339, nanoseconds, UTC) and "event"; the other fields depend on
// the event and are left out when empty:
//
//	begin    vertices: [{id, label, stage, number, total, text, line, key, configOnly}]
//	started  vertex, key, build
//	log      vertex, stream (1 or 2), data; base64 in place of data when the
//	         step printed bytes that are not UTF-8
//	cached   vertex, key
//	done     vertex, key, error, exitCode, canceled; of a step that failed also
//	         outcome ("exit code 2", "signal 9 (killed)", "killed for lack of
//	         memory"), seconds, and, when it worked before, worked (that time)
//	         and changed (what was different then, for people)
//	status   vertex, name, current, total
//	warning  warning: {file, line, text, msg, hint}
//	context  bytes
//	note     text
//	left     left: {names, id, size, stages: [{name, bytes}], total}
//	result   id, tags, build
//	failed   error, mistakes: [{file, line, text, msg, hint}], build, kept
//
// build is the name of a build's log in the store, of one that ran steps; kept
// are the containers in which the roots of failed steps lie.
//
// Fields may be added; those above keep their meaning.
package progress

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind says what happened.
type Kind uint8

// The kinds, with the fields of Event that each uses beside Time.
const (
	Begin   Kind = iota // Vertices: what the build will do, in file order; may come again with more
	Started             // Vertex, Key, Name (a container's ID, if any), Build
	Log                 // Vertex, Stream, Data
	Cached              // Vertex, Key: nothing had to be done
	Done                // Vertex, Key, Err, ExitCode, Took, Worked, Changed
	Status              // Vertex, Name, Current, Total: part of a step, as a layer that is pulled
	Warned              // Warning
	Context             // Bytes of the build context
	Note                // Text
	Remains             // Left
	Result              // ID, Tags, Build: the build's end
	Failed              // Err, Mistakes, Build, Kept: the build's end without an image; told to programs, people get it from the caller
)

var kindNames = [...]string{"begin", "started", "log", "cached", "done", "status", "warning", "context", "note", "left", "result", "failed"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Event is one thing that happened in a build.
type Event struct {
	Time     time.Time // zero means now
	Kind     Kind
	Vertex   int
	Vertices []Vertex
	Key      string // 12 hex digits
	Stream   int    // 1 standard output, 2 standard error
	Data     []byte // as the step wrote it: partial lines, any bytes; not kept
	Err      error  // of a step that failed, or was stopped (context.Canceled)
	// ExitCode is the failed process's; 0 means what Err says, if it has a
	// method ExitCode() int.
	ExitCode int
	Name     string
	Current  int64
	Total    int64 // 0 when it is not known
	Warning  *Warning
	Mistakes []Warning
	Bytes    int64
	Text     string
	Left     *Left
	ID       string // of the image, with or without "sha256:"; "" when none was wanted
	Tags     []string
	// Of a step that failed: how long it took, when a step like it last worked,
	// and what has changed since, in words.
	Took    time.Duration
	Worked  time.Time
	Changed []string
	Build   string   // the build's log in the store; "" when it has none
	Kept    []string // containers in which roots of failed steps lie
}

// outcome says how a step's process ended; "" when the error does not know.
func (e *Event) outcome() string {
	var x interface{ Outcome() string }
	if errors.As(e.Err, &x) {
		return x.Outcome()
	}
	return ""
}

// exitCode returns the exit code of the process that failed.
func (e *Event) exitCode() int {
	var x interface{ ExitCode() int }
	if e.ExitCode == 0 && errors.As(e.Err, &x) {
		return x.ExitCode()
	}
	return e.ExitCode
}

// canceled reports a step that was stopped because the build ended.
func (e *Event) canceled() bool { return errors.Is(e.Err, context.Canceled) }

// Vertex is one step of a build.
type Vertex struct {
	ID         int    `json:"id"`
	Label      string `json:"label"`            // "[builder 2/5] RUN go build"
	Stage      string `json:"stage,omitempty"`  // "builder"
	Number     int    `json:"number,omitempty"` // in its stage, from 1
	Total      int    `json:"total,omitempty"`  // steps of its stage
	Text       string `json:"text,omitempty"`   // the instruction as written; "" for what no line of the Dockerfile says
	Line       int    `json:"line,omitempty"`
	Key        string `json:"key,omitempty"`
	ConfigOnly bool   `json:"configOnly,omitempty"`
}

// Warning is advice about a file.
type Warning struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text,omitempty"` // the line itself
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
}

// Left is what a build leaves, and what it leaves behind.
type Left struct {
	Names  []string    `json:"names,omitempty"`
	ID     string      `json:"id"`
	Size   int64       `json:"size"`
	Stages []StageLeft `json:"stages,omitempty"`
	Total  int64       `json:"total"` // bytes of Stages together
}

// StageLeft is one stage that is not part of the image.
type StageLeft struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Sink takes events. It may be used by several goroutines at once; events of
// one vertex must come in order.
type Sink interface {
	Emit(Event)
}

// Discard is a Sink that forgets.
type Discard struct{}

// Emit does nothing.
func (Discard) Emit(Event) {}
