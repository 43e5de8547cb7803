package execute

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
)

// Failed is a RUN that failed, with all that it left.
type Failed struct {
	*Place
	Err error // how it failed
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
	below, err := p.local.Roots.View(p.Job.Below)
	if err != nil {
		return nil, nil, err
	}
	upper, err := layer.OpenTree(p.up.Dir)
	if err != nil {
		return nil, nil, err
	}
	return layer.Merge(below, upper), upper.Close, nil
}

// HandOver gives the upper directory of the place, with all that processes
// wrote, to take, which moves it away. Nothing runs there afterwards.
func (p *Place) HandOver(take func(upper string) error) (err error) {
	if p.mounts != nil {
		err = p.mounts.close()
		p.mounts = nil
	}
	return errors.Join(err, take(p.up.Dir))
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
