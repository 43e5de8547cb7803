package execute

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
)

// Failed is a RUN that failed, with all that it left.
type Failed struct {
	*Place
	Err error // how it failed
}

// Run is Place.Run, and tells the ways that are left for a step that failed.
func (f *Failed) Run(ctx context.Context, s Session) (sandbox.Status, error) {
	st, err := f.Place.Run(ctx, s)
	var none *NoShellError
	if errors.As(err, &none) {
		none.failed = true
	}
	return st, err
}

// Files shows what is in the place, without what is mounted there, until done
// is called. No process may run there meanwhile.
func (p *Place) Files() (fsys entry.FS, done func() error, err error) {
	if p.planted != nil {
		root, err := fsroot.Open(p.planted.Dir())
		if err != nil {
			return nil, nil, err
		}
		return root.FS(), root.Close, nil
	}
	below, err := p.local.Roots.View(context.Background(), p.Job.Below) // here: it was mounted
	if err != nil {
		return nil, nil, err
	}
	upper, err := layer.OpenTree(p.up.Dir)
	if err != nil {
		return nil, nil, err
	}
	return layer.Merge(below, upper), upper.Close, nil
}

// HasCaches says whether a cache is mounted here, which outlives the place.
func (p *Place) HasCaches() bool {
	return slices.ContainsFunc(p.Job.Step.Run.Mounts, func(m plan.Mount) bool { return m.Type == plan.MountCache })
}

// HandOver gives what is in the place, without what is mounted there, to take:
// as layers, and as the upper directory on top of them, which take moves away;
// "" is none. Nothing runs here afterwards.
func (p *Place) HandOver(take func(chain rootfs.Chain, upper string) error) error {
	if err := p.unmount(); err != nil {
		return err
	}
	if p.planted == nil {
		return take(p.Job.Below, p.up.Dir)
	}
	p.Job.InRoot = false                                  // no step goes on from here
	made, err := p.local.harvest(context.Background(), p) // whose layers are here
	if err != nil {
		return err
	}
	return take(p.Job.Below.Push(made.Layer), "")
}

// findShell is the path of a shell in root: that of the step if it has one,
// else the first of those that images have. "" is none.
func findShell(root *os.File, step []string) string {
	list := []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh"}
	if len(step) > 0 && filepath.IsAbs(step[0]) && slices.Contains([]string{"sh", "bash", "ash", "dash", "zsh", "ksh", "fish"}, filepath.Base(step[0])) && step[0] != "/bin/sh" {
		list = append([]string{step[0]}, list...)
	}
	fsys := fsroot.FromFd(root).FS()
	for _, name := range list {
		p, err := entry.Resolve(fsys, name, true)
		if err != nil {
			continue
		}
		if e, err := fsys.Lstat(p); err == nil && e.Kind == entry.File && e.Mode&0o111 != 0 {
			return name
		}
	}
	return ""
}
