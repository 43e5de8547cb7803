package whittle

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/progress"
)

type nowhere struct{}

func (nowhere) Emit(progress.Event) {}

func TestALogThatIsFullSaysSo(t *testing.T) {
	w, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r := newRecorder(nowhere{}, w.store)
	r.left = 10
	at := time.Unix(1, 0)
	r.Emit(progress.Event{Kind: progress.Begin, Time: at, Vertices: []progress.Vertex{{ID: 1, Label: "[1/1] RUN x"}}})
	r.Emit(progress.Event{Kind: progress.Started, Time: at, Vertex: 1, Key: "k"})
	for _, line := range []string{"first\n", "second\n", "third\n"} {
		r.Emit(progress.Event{Kind: progress.Log, Time: at, Vertex: 1, Stream: 1, Data: []byte(line)})
	}
	r.close()
	var out strings.Builder
	if err := w.BuildLog(context.Background(), r.name(), &out, false); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	if !strings.Contains(got, "first") || strings.Contains(got, "second") || strings.Contains(got, "third") || strings.Count(got, logFull) != 1 {
		t.Errorf("the log of a build whose steps write more than is kept:\n%s", got)
	}
}
