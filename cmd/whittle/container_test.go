package main

import (
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/container"
)

func TestContainerPathIsToldFromPathsOfTheHost(t *testing.T) {
	for in, want := range map[string][2]string{
		"box:/a": {"box", "/a"}, "box:a:b": {"box", "a:b"}, "box:": {"box", ""}, "-": {}, "/a:b": {}, "./a:b": {}, "a/b:c": {}, "a": {}, ":a": {}, "../a:b": {},
	} {
		name, path, ok := containerPath(in)
		if want == [2]string{} {
			if ok {
				t.Errorf("%s: taken for %s of container %s", in, path, name)
			}
			continue
		}
		if !ok || name != want[0] || path != want[1] {
			t.Errorf("%s: got %s, %s, %v", in, name, path, ok)
		}
	}
}

func TestFiltersOfOneKeyAddUpAndOfSeveralNarrow(t *testing.T) {
	list := []*container.Container{
		{Name: "web", ID: "aa", ImageName: "app", Running: true, Spec: container.Spec{Labels: map[string]string{"tier": "front"}}},
		{Name: "web-2", ID: "ab", ImageName: "docker.io/library/app:latest", Spec: container.Spec{Labels: map[string]string{"tier": "back"}}},
		{Name: "db", ID: "b", ImageName: "db", Started: time.Unix(1, 0), Finished: time.Unix(2, 0), ExitCode: 3},
	}
	for in, want := range map[string]string{
		"":                                  "web web-2 db",
		"name=web":                          "web web-2",
		"name=^/web$":                       "web",
		"name=^web name=db":                 "web web-2 db",
		"name=web status=created":           "web-2",
		"status=running":                    "web",
		"label=tier":                        "web web-2",
		"label=tier=back":                   "web-2",
		"exited=3":                          "db",
		"ancestor=app":                      "web web-2",
		"ancestor=app:latest name=web-2":    "web-2",
		"id=a":                              "web web-2",
		"ancestor=none":                     "",
		"status=exited status=running id=a": "web",
	} {
		filters, err := parseFilters(strings.Fields(in))
		if err != nil {
			t.Fatal(err)
		}
		f := psFlags{all: true, last: -1}
		var names []string
		for _, c := range f.choose(list, filters) {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"name", "colour=red", "status=paused", "=x"} {
		if _, err := parseFilters([]string{in}); err == nil {
			t.Errorf("%s: no error", in)
		}
	}
}

func TestPsWithoutAllShowsWhatRuns(t *testing.T) {
	list := []*container.Container{{Name: "young"}, {Name: "old", Running: true}}
	for want, f := range map[string]psFlags{"old": {last: -1}, "young old": {last: -1, all: true}, "young": {last: -1, latest: true}, "": {last: 0}} {
		var names []string
		for _, c := range f.choose(list, nil) {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%+v: got %q, want %q", f, got, want)
		}
	}
}

func TestParseLogView(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for in, want := range map[[3]string]container.LogView{
		{"all"}:                         {},
		{"5"}:                           {Tail: true, Last: 5},
		{"0"}:                           {Tail: true},
		{"-1"}:                          {Last: -1},
		{"all", "10m"}:                  {Since: now.Add(-10 * time.Minute)},
		{"all", "1699999999"}:           {Since: time.Unix(1_699_999_999, 0)},
		{"all", "2026-01-02T03:04:05Z"}: {Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"all", "10m", "5m"}:            {Since: now.Add(-10 * time.Minute), Until: now.Add(-5 * time.Minute)},
	} {
		var v container.LogView
		if err := parseLogView(&v, in[0], in[1], in[2], now); err != nil || !v.Since.Equal(want.Since) || !v.Until.Equal(want.Until) || v.Tail != want.Tail || v.Last != want.Last {
			t.Errorf("%q: got %+v, %v", in, v, err)
		}
	}
	for _, in := range [][3]string{{"x"}, {"all", "yesterday"}, {"all", "", "yesterday"}} {
		if err := parseLogView(&container.LogView{}, in[0], in[1], in[2], now); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}
