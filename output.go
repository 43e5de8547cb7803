package whittle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/solve"
)

// Output is a folder of the caller's that gets the files of the target stage.
type Output struct {
	// Dest is made when it is not there, with all files or not at all. In one
	// that is there each file is replaced whole, and what the stage does not
	// have stays.
	Dest string
}

// checkOutputs finds what would keep outputs from being written, before
// anything runs.
func (r *Request) checkOutputs() error {
	for _, o := range r.Outputs {
		st, err := os.Stat(o.Dest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		if !st.IsDir() {
			return &hinted{fmt.Errorf("output: %s: is not a folder", o.Dest), "name a folder, or what is not there yet"}
		}
	}
	return nil
}

// output writes the files of the target.
func (b *build) output(ctx context.Context, p *plan.Plan, solved *solve.Result) error {
	if len(b.req.Outputs) == 0 {
		return nil
	}
	fsys, err := b.rootFS().View(ctx, solved.Chain(p.Target.Root))
	if err != nil {
		return err
	}
	return b.writeOutputs(ctx, fsys)
}

func (b *build) writeOutputs(ctx context.Context, fsys entry.FS) error {
	o := container.FolderOptions{Epoch: b.epoch}
	for _, out := range b.req.Outputs {
		done, err := container.WriteFolder(ctx, fsys, out.Dest, o)
		if err != nil {
			return fmt.Errorf("output: %w", err)
		}
		text := fmt.Sprintf("output: %s, %s, in %s", count(done.Files, "file"), progress.HumanSize(done.Bytes), out.Dest)
		if done.Skipped > 0 {
			text += fmt.Sprintf("; %s, sockets and fifos were left out", count(done.Skipped, "device"))
		}
		b.sink.Emit(progress.Event{Kind: progress.Note, Time: b.opt.Now(), Text: text})
	}
	return nil
}
