package execute

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/lazyre"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
)

// metacopy says whether overlayfs may leave the content of inherited files where
// it is when a step changes their owner or mode. That saves one of two copies
// where the layer is then written as a tar, which is as good as a tree where tars
// are mounted; so it is for steps that do nothing else. Not for one that could
// set overlayfs's attributes itself, nor where others than this package look into
// its upper directory.
func (l *Local) metacopy(job solve.Job) bool {
	r := job.Step.Run
	if r.Insecure || l.OnFailure != nil || l.Isolation.Mode == sandbox.OCI || l.Roots.UserNS() || !changesOnlyModes(r.Args) {
		return false
	}
	provider, err := l.Roots.Provider()
	return err == nil && provider == rootfs.Erofs
}

// reModes are one or more simple commands that change modes and owners and no
// content.
var reModes = lazyre.New(`^(?:(?:^|&&|;|\n)\s*(?:chmod|chown|chgrp|cd|set|echo|true|:)(?:\s[^&;|<>()\x60\n]*)?)+$`)

// changesOnlyModes guesses what a step does. It may be wrong, as any name may be
// that of any program: then the layer is right all the same. But a step that
// moves or links what it inherited would meet overlayfs's limit on the paths that
// it notes (256 bytes), and one that writes would have all of it copied.
func changesOnlyModes(args []string) bool {
	if len(args) == 3 && args[1] == "-c" {
		return reModes.MatchString(strings.TrimSpace(args[2]))
	}
	if len(args) == 0 {
		return false
	}
	switch path.Base(args[0]) {
	case "chmod", "chown", "chgrp":
		return true
	}
	return false
}

// isSteered reports whether something in an upper directory stands for what lies
// elsewhere.
func isSteered(upper entry.FS) (bool, error) {
	err := entry.Walk(upper, ".", func(entry.Entry) error { return nil })
	if errors.Is(err, layer.ErrSteering) {
		return true, nil
	}
	return false, err
}

// commitSteered makes and commits a tar of what a step has changed, where its
// upper directory stands for more than lies in it.
func (l *Local) commitSteered(ctx context.Context, p *Place, below entry.FS) (made solve.Made, err error) {
	meta, err := l.writeSteered(ctx, p, below)
	if err != nil {
		return made, l.unfit(p.Job, err)
	}
	for _, rest := range []string{p.up.Dir, p.up.Work, filepath.Join(p.tmp.Path, scriptName)} {
		if err := os.RemoveAll(rest); err != nil {
			return made, err
		}
	}
	return l.commit(p.tmp, meta.DiffID, meta)
}

func (l *Local) writeSteered(ctx context.Context, p *Place, below entry.FS) (meta layer.Meta, err error) {
	m, err := l.Roots.MountChanged(ctx, p.Job.Below, p.up)
	if err != nil {
		return meta, err
	}
	mount := fsroot.FromFd(m)
	defer func() { err = errors.Join(err, mount.Close()) }()
	view, err := layer.OpenSteered(p.up.Dir, mount)
	if err != nil {
		return meta, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	d := differ{view: until{ctx, view}, below: below}
	if err := d.all(); err != nil {
		return meta, err
	}
	w, err := l.newWriter(p.Job, p.tmp)
	if err != nil {
		return meta, err
	}
	if err := addAll(ctx, w, copying.Listed(d.out), []copying.Request{{From: d.view}}); err != nil {
		w.Abort()
		return meta, err
	}
	return w.Finish()
}

// A differ finds what is different in a layer from what is below it: what
// leaveOut does to a directory, without changing one.
type differ struct {
	view, below entry.FS
	out         []copying.Item
}

func (d *differ) add(e entry.Entry) {
	d.out = append(d.out, copying.Item{Entry: e, Source: e.Path})
}

func (d *differ) all() error {
	root, err := d.view.Lstat(".")
	if err != nil {
		return err
	}
	was, err := d.below.Lstat(".")
	if err != nil {
		return err
	}
	if !entry.SameAttributes(root, was) {
		d.add(root)
	}
	return d.dir(".", false)
}

// dir adds what is different in a directory. Where that hides what is below, the
// names that it lacks are deleted one by one, see leaver.delete.
func (d *differ) dir(p string, hides bool) error {
	list, err := d.view.ReadDir(p)
	if err != nil {
		return err
	}
	if hides {
		gone, err := lacking(list, d.below, p)
		if err != nil {
			return err
		}
		for _, name := range gone {
			list = append(list, entry.Entry{Path: name, Kind: entry.Whiteout})
		}
		sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	}
	for _, e := range list {
		if err := d.entry(e, hides); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(e entry.Entry, hidden bool) error {
	hides := hidden || e.Opaque
	e.Opaque = false
	if e.Kind == entry.Whiteout {
		d.add(e)
		return nil
	}
	was, err := d.below.Lstat(e.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	had := err == nil && was.Kind == e.Kind
	if e.IsDir() {
		at := len(d.out)
		d.add(e)
		if err := d.dir(e.Path, hides && had); err != nil {
			return err
		}
		if len(d.out) == at+1 && had && entry.SameAttributes(e, was) {
			d.out = d.out[:at]
		}
		return nil
	}
	if had {
		same, err := justSo(e, d.view, was, d.below)
		if same || err != nil {
			return err
		}
	}
	d.add(e)
	return nil
}
