package execute

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
)

// plant makes p a place in a root that is a plain folder: for the provider
// chroot, which mounts nothing.
func (p *Place) plant(ctx context.Context) error {
	l := p.local
	l.plainly.Do(func() {
		l.Sink.Emit(progress.Event{Kind: progress.Note, Time: l.Now(), Vertex: p.Job.Vertex, Text: notApart})
	})
	root, err := l.planted().Take(ctx, p.Job.Below)
	if err != nil {
		return l.mountError(p.Job, err)
	}
	p.planted = root
	return nil
}

// planted is where the roots are kept between steps.
func (l *Local) planted() *rootfs.Plants {
	l.plantsOnce.Do(func() { l.plants = &rootfs.Plants{Roots: l.Roots} })
	return l.plants
}

// Close removes what was kept for steps to come. No step may run any more.
func (l *Local) Close() error { return errors.Join(l.spares.Close(), l.planted().Close()) }

// notApart is what a chroot does not protect.
const notApart = "isolation chroot: nothing keeps steps from this container. They share its network, its limits and its user, " +
	"and could get at its files: build only what may do all that whittle may do here"

// apart makes c run a process in the place's root: by chroot where that is a
// plain folder.
func (p *Place) apart(c *sandbox.Config) (err error) {
	if p.planted == nil {
		c.Isolation = p.local.Isolation
		return nil
	}
	c.Isolation = sandbox.Isolation{Mode: sandbox.Chroot}
	// What is moved into the root is nobody else's before it is back.
	c.Held = []*os.File{p.planted.Lock()}
	for _, m := range p.mounts.caches {
		c.Held = append(c.Held, m.Lock())
	}
	c.Scratch, err = p.planted.Scratch()
	return err
}

// moved says whether a sandbox moves to their places the folders that a step
// mounts, because it cannot mount them.
func (l *Local) moved() (bool, error) {
	provider, err := l.Roots.Provider()
	return provider == rootfs.Chroot, err
}

// harvest makes the layer of what p's process changed in a planted root, and
// keeps the root for the step on top.
func (l *Local) harvest(ctx context.Context, p *Place) (made solve.Made, err error) {
	if err := p.unmount(); err != nil {
		return made, err
	}
	tmp, err := l.Store.Temp("run")
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, tmp.Remove()) }()
	b, err := layer.Create(tmp.Path)
	if err != nil {
		return made, err
	}
	if err := l.planted().Changes(ctx, p.planted, b); err != nil {
		b.Abort()
		return made, l.leftover(p.Job, err)
	}
	meta, err := b.Finish()
	if err != nil {
		return made, err
	}
	if made, err = l.commit(tmp, meta.DiffID, meta); err != nil || !p.Job.InRoot {
		return made, err
	}
	l.planted().Keep(p.planted, p.Job.Below.Push(made.Layer))
	p.planted = nil
	return made, nil
}

// leftover is for a file that no layer can hold.
func (l *Local) leftover(job solve.Job, err error) error {
	var left *rootfs.LeftoverError
	if !errors.As(err, &left) {
		return err
	}
	return l.File.Mistake(job.Step.Line.Pos, fmt.Sprintf("stage %s: the step left %v", job.Step.Stage.Display, left), left.Hint)
}
