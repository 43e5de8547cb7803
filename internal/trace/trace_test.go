package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func TestATraceHasSpansInLanes(t *testing.T) {
	now := time.Unix(100, 0)
	var out bytes.Buffer
	tr := New(&out, func() time.Time { return now })
	ctx := With(t.Context(), tr)
	whole := Begin(ctx, "whole")
	now = now.Add(2 * time.Millisecond)
	step := Begin(Lane(ctx, "builder"), "RUN")
	step.Set("bytes", 7)
	now = now.Add(time.Millisecond)
	step.End()
	whole.End()
	killed := out.String() + "\n]"
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{out.String(), killed} {
		var events []struct {
			Name, Ph string
			Tid      int
			Ts, Dur  float64
			Args     map[string]any
		}
		if err := json.Unmarshal([]byte(text), &events); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		lanes := map[int]any{}
		found := 0
		for _, e := range events {
			switch {
			case e.Name == "thread_name":
				lanes[e.Tid] = e.Args["name"]
			case e.Name == "RUN":
				found++
				if e.Ph != "X" || lanes[e.Tid] != "builder" || e.Ts != 2000 || e.Dur != 1000 || e.Args["bytes"] != 7.0 {
					t.Errorf("%+v in %v", e, lanes)
				}
			case e.Name == "whole":
				found++
				if lanes[e.Tid] != "build" || e.Ts != 0 || e.Dur != 3000 {
					t.Errorf("%+v in %v", e, lanes)
				}
			}
		}
		if found != 2 {
			t.Errorf("%d spans in %s", found, text)
		}
	}
}

func TestWithoutATraceNothingHappens(t *testing.T) {
	s := Begin(Lane(context.Background(), "a"), "b")
	s.Set("c", 1)
	s.End()
	if s != nil {
		t.Errorf("%+v", s)
	}
}

var errWrite = errors.New("no room")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errWrite }

func TestAnErrorOfWritingIsToldAtTheEnd(t *testing.T) {
	tr := New(full{}, time.Now)
	Begin(With(t.Context(), tr), "a").End()
	if err := tr.Close(); !errors.Is(err, errWrite) {
		t.Errorf("error %v", err)
	}
}
