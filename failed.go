package whittle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/whittle-build/whittle/internal/container"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/execute"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
)

// What a build does with a step that failed, see Request.OnFailure.
const (
	ShellOnFailure = "shell"
	KeepOnFailure  = "keep"
)

// Lender lends the caller's terminal, or what stands for one, to run. Nobody
// else writes there meanwhile. story is what to tell before.
type Lender func(story []string, run func(container.Streams) error) error

// FailedBuild is a build that failed while its steps ran.
type FailedBuild struct {
	err  error
	ID   string   // of its log; "" when that could not be written
	Kept []string // containers in which roots of failed steps lie
}

func (e *FailedBuild) Error() string { return e.err.Error() }

// Unwrap gives what went wrong.
func (e *FailedBuild) Unwrap() []error { return []error{e.err} }

// write tells where to look further.
func (e *FailedBuild) write(w io.Writer, program string) {
	for i, name := range e.Kept {
		ref := name
		if i == len(e.Kept)-1 {
			ref = container.LatestFailed
		}
		fmt.Fprintf(w, "%s: kept: the root of the failed step is container %s: %s cp %s:/path . takes files out of it\n", program, name, program, ref)
	}
	if e.ID != "" {
		fmt.Fprintf(w, "%s: log: %s logs %s\n", program, program, e.ID)
	}
}

// failing is what a build has done for its failed steps.
type failing struct {
	shell atomic.Bool // one was given a shell, or is

	mu      sync.Mutex
	kept    []string
	written bool // the outputs
}

// onFailure is what is done with a failed step while its root is there.
func (b *build) onFailure() func(context.Context, *execute.Failed) error {
	if b.req.OnFailure == "" && !b.req.AllowFailedOutput {
		return nil
	}
	return func(ctx context.Context, f *execute.Failed) error {
		var err error
		if b.req.AllowFailedOutput {
			err = b.failedOutput(ctx, f)
		}
		switch b.req.OnFailure {
		case ShellOnFailure:
			err = errors.Join(err, b.failedShell(ctx, f))
		case KeepOnFailure:
			err = errors.Join(err, b.keepFailed(ctx, f))
		}
		return err
	}
}

// failedShell opens a shell for the first step that fails. Leaving it ends the
// build, so other steps that fail meanwhile wait for that.
func (b *build) failedShell(ctx context.Context, f *execute.Failed) error {
	if !b.failing.shell.CompareAndSwap(false, true) {
		<-ctx.Done()
		return nil
	}
	story := []string{progress.Clean(f.Job.Step.Line.Label) + ": " + outcome(f.Err)}
	for _, line := range b.log.tail(b.number*vertices + f.Job.Vertex) {
		story = append(story, "  "+line)
	}
	story = append(story, "A shell where it failed. Leaving it ends the build; what is done in it is thrown away"+sharedCaches(f.Place)+".")
	err := b.req.Lend(story, func(std container.Streams) error {
		_, err := f.Run(ctx, execute.Session{TTY: true, Term: b.req.Term, Streams: std})
		return err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("--on-failure shell: %w", err)
	}
	return nil
}

// sharedCaches says what of a place is not thrown away.
func sharedCaches(p *execute.Place) string {
	if p.HasCaches() {
		return ", but not what is done to its cache mounts"
	}
	return ""
}

// outcome is how a step failed in a few words.
func outcome(err error) string {
	var how interface{ Outcome() string }
	if errors.As(err, &how) {
		return how.Outcome()
	}
	return progress.CleanLines(err.Error())
}

// keepFailed makes a container of what a failed step left. Secrets and what was
// mounted are not in it.
func (b *build) keepFailed(ctx context.Context, f *execute.Failed) error {
	r, line := f.Job.Step.Run, f.Job.Step.Line
	c := container.Container{
		Name: fmt.Sprintf("failed-%s-%d", b.log.name(), line.Number), ImageName: shortLabel(line.Label),
		Started: b.opt.Now().UTC(), ExitCode: exitCode(f.Err),
		Spec:   container.Spec{Args: r.Args, Env: r.Env, Dir: r.Dir, User: r.User, Hostname: r.Hostname, Network: "host", ShmSize: r.Limits.ShmSize},
		Failed: &container.FailedStep{Build: b.log.name(), Label: progress.Clean(line.Label)},
	}
	c.Finished = c.Started
	if b.log.name() == "" {
		c.Name = "" // a random one
	}
	if r.Network == "none" {
		c.Spec.Network = "none"
	}
	err := f.HandOver(func(chain rootfs.Chain, upper string) error {
		c.Chain = chain
		made, err := b.Containers().Keep(ctx, c, upper)
		if made != nil {
			b.failing.mu.Lock()
			b.failing.kept = append(b.failing.kept, made.Name)
			b.failing.mu.Unlock()
		}
		return err
	})
	if err == nil {
		err = b.store.Sync()
	}
	if err != nil {
		return fmt.Errorf("--on-failure keep: %w", err)
	}
	return nil
}

// shortLabel is a label that fits into a table.
func shortLabel(label string) string {
	const most = 32
	if r := []rune(progress.Clean(label)); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return progress.Clean(label)
}

func exitCode(err error) int {
	var x interface{ ExitCode() int }
	if errors.As(err, &x) {
		return x.ExitCode()
	}
	return container.StartCode(err)
}

// failedOutput writes the files of the target although its last step failed.
func (b *build) failedOutput(ctx context.Context, f *execute.Failed) error {
	if b.target == nil || b.target.Root.Step != f.Job.Step {
		return nil
	}
	fsys, done, err := f.Files()
	if err != nil {
		return err
	}
	defer join(&err, done)
	b.failing.mu.Lock()
	b.failing.written = true
	b.failing.mu.Unlock()
	b.ends = &ends{} // of this part of the build alone
	return b.settle(b.leaveFiles(ctx, fsys))
}

// ended makes err, with which steps ended, tell what there is to look into.
func (b *build) ended(err error) error {
	b.failing.mu.Lock()
	defer b.failing.mu.Unlock()
	if b.req.AllowFailedOutput && !b.failing.written {
		err = errors.Join(err, &hinted{errors.New("no output: what failed is not the last step of the target stage"),
			"--allow-failed-output writes the files of a stage whose last step failed: name it with --target"})
	}
	return &FailedBuild{err: err, ID: b.log.name(), Kept: b.failing.kept}
}

// maxCompared is how many bytes of files are compared to say what changed.
const maxCompared = 64 << 20

// changes tells the names of the files in which two layers differ, as far as
// both are there and the comparison is not too much. It explains a failure, so
// what cannot be read is left out.
func (b *build) changes(was, is digest.Digest) []string {
	var views [2]entry.FS
	for i, id := range []digest.Digest{was, is} {
		if !b.hereAlready(id) {
			return nil
		}
		v, err := b.rootFS().Layer(context.Background(), rootfs.Chain{id})
		if err != nil {
			return nil
		}
		views[i] = v
	}
	var names []string
	left := int64(maxCompared)
	_ = entry.Walk(views[1], ".", func(e entry.Entry) error {
		old, err := views[0].Lstat(e.Path)
		switch {
		case err != nil:
			if e.Kind != entry.Dir {
				names = append(names, e.Path+" (new)")
			}
		case e.Kind != old.Kind:
			names = append(names, e.Path)
		case e.Kind == entry.Dir:
		case e.Size == old.Size && left < e.Size: // unknown
		default:
			left -= e.Size
			if same, err := entry.SameFile(old, views[0], old.Path, e, views[1]); err == nil && (!same || !entry.SameAttributes(e, old)) {
				names = append(names, e.Path)
			}
		}
		return nil
	})
	_ = entry.Walk(views[0], ".", func(e entry.Entry) error {
		if _, err := views[1].Lstat(e.Path); err != nil && e.Kind != entry.Dir {
			names = append(names, e.Path+" (gone)")
		}
		return nil
	})
	return names
}
