package solve

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/whittle-build/whittle/internal/config"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/store"
)

// bench is a Solver with a real store, a runner that only pretends and a
// record of all that happened.
type bench struct {
	Solver
	t *testing.T

	// during is called while a step runs, with its text.
	during func(ctx context.Context, text string) error
	// content is what a COPY would copy; by default its text.
	content func(job Job) digest.Digest

	mu     sync.Mutex
	ran    []string
	jobs   []Job
	events []progress.Event
}

func newBench(t *testing.T, s *store.Store) *bench {
	t.Helper()
	if s == nil {
		var err error
		s, err = store.Open(filepath.Join(t.TempDir(), "store"), store.Options{Owner: store.Owner{Kind: "root"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{t: t}
	b.Solver = Solver{Store: s, Runner: b, Contents: b, Sink: b, Now: time.Now}
	return b
}

func (b *bench) Emit(e progress.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// Run implements Runner.
func (b *bench) Run(ctx context.Context, job Job) (Made, error) {
	text := job.Step.Line.Text
	b.mu.Lock()
	b.ran = append(b.ran, text)
	b.jobs = append(b.jobs, job)
	b.mu.Unlock()
	if b.during != nil {
		if err := b.during(ctx, text); err != nil {
			return Made{}, err
		}
	}
	tmp, err := b.Store.Temp("test")
	if err != nil {
		return Made{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp.Path, "layer.json"), []byte(text), 0o600); err != nil {
		return Made{}, err
	}
	id := digest.Of([]byte(job.Key.Hex() + job.Nonce))
	return Made{Layer: id, Size: 10, Entries: 1}, b.Store.CommitLayer(tmp, id)
}

// Content implements Contents.
func (b *bench) Content(_ context.Context, job Job) (digest.Digest, error) {
	if b.content != nil {
		return b.content(job), nil
	}
	return digest.Of([]byte(job.Step.Line.Text)), nil
}

func planOf(t *testing.T, text string) *plan.Plan {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.New(plan.Request{File: f, BuildPlatform: plan.Platform{OS: "linux", Arch: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *bench) solve(text string) (*Result, error) {
	b.t.Helper()
	return b.Solve(b.t.Context(), planOf(b.t, text))
}

func (b *bench) mustSolve(text string) *Result {
	b.t.Helper()
	r, err := b.solve(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// took returns the texts of the steps that ran since the last call, sorted.
func (b *bench) took() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Sorted(slices.Values(b.ran))
	b.ran = nil
	return out
}

func (b *bench) wantRan(want ...string) {
	b.t.Helper()
	if got := b.took(); !slices.Equal(got, want) {
		b.t.Errorf("ran %q, want %q", got, want)
	}
}

// soon fails the test when ch is not closed for a long time.
func soon(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Errorf("%s: not within 20 seconds", what)
	}
}

const twoStages = "FROM scratch AS a\nRUN [\"a1\"]\nRUN [\"a2\"]\nFROM scratch AS b\nRUN [\"b1\"]\nCOPY --from=a /x /x\nRUN [\"b2\"]\n"

// testBase is a base image of one layer.
func testBase() *plan.Base {
	return &plan.Base{ID: digest.Of([]byte("base")), Config: &config.Image{
		OS: "linux", Architecture: "amd64", DiffIDs: []digest.Digest{digest.Of([]byte("layer"))},
	}}
}
