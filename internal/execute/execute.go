// Package execute makes the layer of one step on this machine: a RUN in the
// sandbox, a COPY, ADD or WORKDIR by writing what it would change.
//
// A layer is complete before it gets its name: a crash at any moment leaves at
// most a folder in the store's tmp. Keys, records and the order of steps are
// no matter here.
package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/crash"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/dockerfile"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fetch"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/sshagent"
	"github.com/whittle-build/whittle/internal/store"
)

// Local runs steps with this machine's sandbox and this store.
type Local struct {
	Store  *store.Store
	Scope  store.Scope // whose contents and layers count
	Mounts store.Scope // whose cache mounts do
	// Usable, which may be nil, says whether a record of the store may be used.
	Usable  func(*store.Record) bool
	Roots   *rootfs.Roots
	Context *Context            // nil when the build has none
	Named   map[string]*Context // those of files, by plan.Root.Context
	Fetch   *fetch.Client       // for what ADD names elsewhere
	File    *dockerfile.File
	Sink    progress.Sink
	Now     func() time.Time
	// Epoch is the time of folders that steps make; nil means now.
	Epoch *time.Time
	// Secret returns the secret of an id, and Agents are what may be signed
	// with; both may be nil.
	Secret    func(ctx context.Context, id string) ([]byte, bool, error)
	Agents    map[string]*sshagent.Source
	Isolation sandbox.Isolation // of every RUN
	// Resources limit every RUN.
	Resources sandbox.Resources
	// Emulators run the programs of stages for another machine.
	Emulators map[*plan.Stage]*sandbox.Emulator
	// Known, which may be nil, is asked for contents that this store does not
	// know, and is told of those that a build uses.
	Known Known
	// OnFailure, if not nil, is shown each RUN that failed by itself while its
	// root is still there; the step waits for it. What it returns is reported
	// with the failure.
	OnFailure func(ctx context.Context, f *Failed) error

	// Bring, which may be nil, is asked to bring a cache mount that the store may lack.
	Bring func(context.Context, cachemount.Identity)

	fresh      onces // caches that this build has begun anew
	spares     sandbox.Spares
	plantsOnce sync.Once
	plants     *rootfs.Plants
	plainly    sync.Once // it has been said what is not protected
}

// Known are contents of copies out of layers, by names that say all that they
// depend on.
type Known interface {
	Content(ctx context.Context, name string) (digest.Digest, bool)
	Copied(name string, d digest.Digest)
}

// Run makes the layer of job.Step and commits it to the store. An error for
// lack of room names the disk.
func (l *Local) Run(ctx context.Context, job solve.Job) (solve.Made, error) {
	made, err := l.make(ctx, job)
	var start *sandbox.StartError
	if errors.As(err, &start) {
		return made, err // "no space" is what a limit on namespaces is called too
	}
	return made, l.Store.Explain(err)
}

func (l *Local) make(ctx context.Context, job solve.Job) (solve.Made, error) {
	s := job.Step
	switch {
	case s.Run != nil:
		if err := l.Roots.Gather(ctx, job.Below); err != nil {
			return solve.Made{}, err
		}
		return l.run(ctx, job)
	case s.Copy != nil:
		return l.copy(ctx, job)
	case s.Workdir != nil:
		return l.workdir(ctx, job)
	}
	return solve.Made{}, fmt.Errorf("%s: a step without an operation", s.Line.Text)
}

// commitTree describes and commits the tree in tmp.
func (l *Local) commitTree(job solve.Job, tmp *store.Temp) (solve.Made, error) {
	meta, err := layer.TreeMeta(filepath.Join(tmp.Path, layer.TreeName))
	if err != nil {
		return solve.Made{}, l.unfit(job, err)
	}
	if err := layer.WriteMeta(tmp.Path, meta); err != nil {
		return solve.Made{}, err
	}
	return l.commit(tmp, store.TreeID(job.Key, job.Nonce), meta)
}

// unfit explains that a RUN left what no layer can hold. Other errors pass
// through.
func (l *Local) unfit(job solve.Job, err error) error {
	hint := ""
	switch {
	case errors.Is(err, layer.ErrWhiteoutName):
		hint = "remove or rename the file at the end of the RUN"
	case errors.Is(err, layer.ErrLongPath):
		hint = "remove what is so deep at the end of the RUN"
	default:
		return err
	}
	return l.File.Mistake(job.Step.Line.Pos, fmt.Sprintf("stage %s: the step left %v", job.Step.Stage.Display, err), hint)
}

func (l *Local) commit(tmp *store.Temp, id digest.Digest, meta layer.Meta) (solve.Made, error) {
	crash.Point("execute.commit")
	if err := l.Store.CommitLayer(tmp, id); err != nil {
		return solve.Made{}, err
	}
	crash.Point("execute.committed")
	return solve.Made{Layer: id, Size: meta.Size, Entries: meta.Entries}, nil
}

// writer is what a COPY's items are written to: a tar with its index, or a
// tree where a process must see it and trees are what gets mounted.
type writer interface {
	Add(e entry.Entry, content io.Reader) error
	Finish() (layer.Meta, error)
	Abort()
}

// newWriter picks the form of a layer that is written, not run. What nothing
// will be mounted for needs no provider.
func (l *Local) newWriter(job solve.Job, tmp *store.Temp) (writer, error) {
	if !job.InRoot {
		b, err := layer.Create(tmp.Path)
		if err == nil {
			b.Direct()
		}
		return b, err
	}
	provider, err := l.Roots.Provider()
	if err != nil {
		return nil, err
	}
	if provider == rootfs.Tree {
		return layer.NewTree(filepath.Join(tmp.Path, layer.TreeName), layer.UnpackOptions{Userxattr: l.Roots.UserNS()})
	}
	return layer.Create(tmp.Path)
}
