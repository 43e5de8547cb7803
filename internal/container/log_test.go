package container

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/store"
)

// aSet is the containers of a new store, with one container in it.
func aSet(t *testing.T) (*Set, *Container) {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Owner: store.Owner{Kind: "root", XattrPrefix: "trusted."}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Set{Store: st, Now: time.Now}
	c, err := s.Create(Container{Name: "box", Spec: Spec{Args: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// logged writes to the container's log as a run of it does.
func logged(t *testing.T, s *Set, c *Container, write func(out, errOut io.Writer)) string {
	t.Helper()
	dir, err := s.folder(c)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, logName)
	l, err := openLog(name, s.Now)
	if err != nil {
		t.Fatal(err)
	}
	write(l.stream(1), l.stream(2))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func logs(t *testing.T, s *Set, c *Container, v LogView) (out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	if err := s.Logs(context.Background(), c, &o, &e, v); err != nil {
		t.Fatal(err)
	}
	return o.String(), e.String()
}

func TestLogsKeepStreamsApartAndBytesWhole(t *testing.T) {
	s, c := aSet(t)
	bin := string([]byte{0, 255, '\n', 200})
	logged(t, s, c, func(out, errOut io.Writer) {
		fmt.Fprint(out, "par")
		fmt.Fprint(errOut, "oops\n")
		fmt.Fprint(out, "t\n"+bin)
	})
	if out, errOut := logs(t, s, c, LogView{}); out != "part\n"+bin || errOut != "oops\n" {
		t.Errorf("got %q and %q", out, errOut)
	}
}

func TestLogsShowTheLastLinesOfBothStreams(t *testing.T) {
	s, c := aSet(t)
	logged(t, s, c, func(out, errOut io.Writer) {
		fmt.Fprint(out, "1\n2\n3 be")
		fmt.Fprint(errOut, "4\n")
		fmt.Fprint(out, "gun\n5\n")
	})
	for last, want := range map[int][2]string{0: {"", ""}, 1: {"5\n", ""}, 2: {"5\n", "4\n"}, 3: {"3 begun\n5\n", "4\n"}, 99: {"1\n2\n3 begun\n5\n", "4\n"}} {
		if out, errOut := logs(t, s, c, LogView{Tail: true, Last: last}); out != want[0] || errOut != want[1] {
			t.Errorf("last %d: got %q and %q, want %q", last, out, errOut, want)
		}
	}
}

func TestLogsStampEachLineOnce(t *testing.T) {
	s, c := aSet(t)
	s.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	logged(t, s, c, func(out, _ io.Writer) {
		fmt.Fprint(out, "a")
		fmt.Fprint(out, "b\n")
		fmt.Fprint(out, "c\n")
	})
	if out, _ := logs(t, s, c, LogView{Stamps: true}); out != "2026-01-02T03:04:05Z ab\n2026-01-02T03:04:05Z c\n" {
		t.Errorf("got %q", out)
	}
	if out, _ := logs(t, s, c, LogView{Since: s.Now().Add(time.Second)}); out != "" {
		t.Errorf("since later: got %q", out)
	}
}

func TestLogsSurviveARecordThatWasCutOff(t *testing.T) {
	s, c := aSet(t)
	name := logged(t, s, c, func(out, _ io.Writer) { fmt.Fprint(out, "one\ntwo\n") })
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(b, b[:len(b)/2]...), 0o600); err != nil {
		t.Fatal(err)
	}
	logged(t, s, c, func(out, _ io.Writer) { fmt.Fprint(out, "three\n") })
	if out, _ := logs(t, s, c, LogView{}); out != "one\ntwo\nthree\n" {
		t.Errorf("got %q", out)
	}
}

func TestLogOfAContainerThatNeverRanIsEmpty(t *testing.T) {
	s, c := aSet(t)
	if out, errOut := logs(t, s, c, LogView{Follow: true}); out+errOut != "" {
		t.Errorf("got %q and %q", out, errOut)
	}
}

func TestLongLogsAreWhole(t *testing.T) {
	s, c := aSet(t)
	part := strings.Repeat("x", 40<<10)
	logged(t, s, c, func(out, _ io.Writer) {
		for range 30 {
			fmt.Fprint(out, part)
		}
	})
	if out, _ := logs(t, s, c, LogView{}); out != strings.Repeat(part, 30) {
		t.Errorf("got %d bytes", len(out))
	}
}
