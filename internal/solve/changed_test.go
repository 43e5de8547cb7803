package solve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/store"
)

// failsAt makes the steps fail whose text has mark in it, and returns the event
// of the failure of text.
func (b *bench) failsAt(mark, text string) progress.Event {
	b.t.Helper()
	b.during = func(_ context.Context, step string) error {
		if strings.Contains(step, mark) {
			return errors.New("bad")
		}
		return nil
	}
	b.events = nil
	if _, err := b.solve(text); err == nil {
		b.t.Fatalf("%q does not fail", text)
	}
	b.during = nil
	for _, e := range b.events {
		if e.Kind == progress.Done && e.Err != nil && !errors.Is(e.Err, context.Canceled) {
			return e
		}
	}
	b.t.Fatal("no step failed")
	return progress.Event{}
}

func TestAFailureIsComparedWithTheRunThatLastWorked(t *testing.T) {
	const base = "FROM scratch\nENV A=1 SAME=x\nWORKDIR /src\nCOPY file /\nRUN [\"test\"]\n"
	for name, c := range map[string]struct {
		text    string
		content string // of what is copied
		mark    string // "" is test
		want    []string
	}{
		"a variable":            {text: strings.Replace(base, "A=1", "A=0", 1), want: []string{"the environment: A=0 was A=1"}},
		"a new variable":        {text: strings.Replace(base, "A=1", "A=1 B=2", 1), want: []string{"the environment: B=2 is new"}},
		"a variable less":       {text: strings.Replace(base, "A=1 ", "", 1), want: []string{"the environment: A is gone"}},
		"a build argument":      {text: strings.Replace(base, "RUN", "ARG TOKEN=canary\nRUN", 1), want: []string{"the build argument TOKEN: is new"}},
		"the user":              {text: strings.Replace(base, "RUN", "USER 1000\nRUN", 1), want: []string{"the user: 1000 was none"}},
		"the command":           {text: strings.Replace(base, `["test"]`, `["test", "it"]`, 1), want: []string{`the instruction: was RUN ["test"]`}},
		"the files copied":      {text: base, content: "other", want: []string{"a layer below: [2/3] COPY file /: the files copied: file"}},
		"a directory two below": {text: strings.Replace(base, "/src", "/dst", 1), want: []string{"the directory: /dst was /src", "a layer below: [1/3] WORKDIR /dst: the instruction: was WORKDIR /src", "a layer below: [1/3] WORKDIR /dst: the path: /dst was /src"}},
		"the copy itself":       {text: base, content: "other", mark: "COPY", want: []string{"the files copied"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.Origin = "/w/Dockerfile"
			content := "one"
			b.content = func(Job) digest.Digest { return digest.Of([]byte(content)) }
			b.Changes = func(was, is digest.Digest) []string {
				if was == is {
					t.Error("two layers are to be compared that are one")
				}
				return []string{"file"}
			}
			b.mustSolve(base)
			if c.content != "" {
				content = c.content
			}
			mark := c.mark
			if mark == "" {
				mark = "test"
			}
			e := b.failsAt(mark, c.text)
			if e.Worked.IsZero() || time.Since(e.Worked) > time.Hour {
				t.Errorf("it last worked %v", e.Worked)
			}
			if !slices.Equal(e.Changed, c.want) {
				t.Errorf("changed\n%s\nwant\n%s", strings.Join(e.Changed, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestTheNearestRunIsThatOfTheSamePlaceInTheSameDockerfile(t *testing.T) {
	b := newBench(t, nil)
	text := func(a string) string { return "FROM scratch\nENV A=" + a + "\nRUN [\"test\"]\n" }
	b.Origin = "/mine/Dockerfile"
	b.mustSolve(text("mine"))
	b.Origin = "/other/Dockerfile"
	b.mustSolve(text("other"))
	b.Origin = "/mine/Dockerfile"
	if e := b.failsAt("test", text("now")); !slices.Equal(e.Changed, []string{"the environment: A=now was A=mine"}) {
		t.Errorf("changed %q", e.Changed)
	}
	b.Origin = "/third/Dockerfile"
	if e := b.failsAt("test", text("now")); len(e.Changed) != 1 || e.Worked.IsZero() {
		t.Errorf("in another Dockerfile nothing is known of it: %q", e.Changed)
	}
	if e := b.failsAt("never", "FROM scratch\nRUN [\"never\"]\n"); !e.Worked.IsZero() || e.Changed != nil {
		t.Errorf("a step that never worked changed since %v: %q", e.Worked, e.Changed)
	}
}

func TestAStepThatFailsWithTheKeyWithWhichItWorkedSaysSo(t *testing.T) {
	b := newBench(t, nil)
	text := "FROM scratch\nRUN [\"test\"]\n"
	b.mustSolve(text)
	b.NoCache = always(true)
	if e := b.failsAt("test", text); len(e.Changed) != 1 || !strings.HasPrefix(e.Changed[0], "nothing that is in its key") {
		t.Errorf("changed %q", e.Changed)
	}
}

// What came out of a shared cache is no run of here that worked: of its key nothing is
// known.
func TestNoStepIsComparedWithARecordThatHasNoKey(t *testing.T) {
	b := newBench(t, nil)
	if err := b.Store.PutRecord(digest.Of([]byte("elsewhere")), &store.Record{Kind: "run", Text: "RUN [\"test\"]", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if e := b.failsAt("test", "FROM scratch\nENV A=1\nRUN [\"test\"]\n"); !e.Worked.IsZero() || e.Changed != nil {
		t.Errorf("changed since %v: %q", e.Worked, e.Changed)
	}
}
