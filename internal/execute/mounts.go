package execute

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"

	"github.com/whittle-build/whittle/internal/cachemount"
	"github.com/whittle-build/whittle/internal/copying"
	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/layer"
	"github.com/whittle-build/whittle/internal/plan"
	"github.com/whittle-build/whittle/internal/progress"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/solve"
	"github.com/whittle-build/whittle/internal/store"
)

// mounting is the mounts of one RUN while it runs.
type mounting struct {
	local   *Local
	job     solve.Job
	tmp     *store.Temp // of what is thrown away; nil until something needs it
	list    []sandbox.Mount
	env     []string        // variables that have a secret's value
	secrets bool            // the step has some
	names   []digest.Digest // of the caches, by the number of their mount
	caches  map[digest.Digest]*store.CacheMount
	closers []func() error
	opened  []opened
}

// opened is a mount that is made of a descriptor: list[at].File.
type opened struct {
	at   int
	open func() (*os.File, error)
}

// open adds a mount of the descriptor that fn opens.
func (m *mounting) open(mount sandbox.Mount, fn func() (*os.File, error)) error {
	f, err := fn()
	if err != nil {
		return err
	}
	at := len(m.list)
	mount.File = f
	m.list = append(m.list, mount)
	m.opened = append(m.opened, opened{at, fn})
	m.closers = append(m.closers, func() error { return m.list[at].File.Close() })
	return nil
}

// reopen opens all descriptors once more, for another process: what was
// written through the old ones is there.
func (m *mounting) reopen() error {
	for _, o := range m.opened {
		if err := m.list[o.at].File.Close(); err != nil {
			return err
		}
		f, err := o.open()
		if err != nil {
			return err
		}
		m.list[o.at].File = f
	}
	return nil
}

// close lets go of everything. The step has ended.
func (m *mounting) close() error {
	var errs []error
	for _, c := range slices.Backward(m.closers) {
		errs = append(errs, c())
	}
	if m.tmp != nil {
		errs = append(errs, m.tmp.Remove())
	}
	return errors.Join(errs...)
}

// folder makes a folder for what lives no longer than the step.
func (m *mounting) folder(name string) (string, error) {
	if m.tmp == nil {
		tmp, err := m.local.Store.Temp("mounts")
		if err != nil {
			return "", err
		}
		m.tmp = tmp
	}
	dir := filepath.Join(m.tmp.Path, name)
	return dir, os.Mkdir(dir, 0o755)
}

// mounts makes ready what the step mounts. It must be closed also when there
// is an error.
func (l *Local) mounts(ctx context.Context, job solve.Job) (*mounting, error) {
	m := &mounting{local: l, job: job}
	list := job.Step.Run.Mounts
	if len(list) == 0 {
		return m, nil
	}
	if err := m.takeCaches(ctx); err != nil {
		return m, err
	}
	// Files lie on what is mounted above them, whatever the order in which
	// they were written; secrets and agents come last, as in the reference.
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	last := func(i int) int {
		return slices.Index([]string{plan.MountSecret, plan.MountSSH}, list[i].Type)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if c := cmp.Compare(last(a), last(b)); c != 0 || last(a) >= 0 {
			return c
		}
		return strings.Compare(list[a].Target, list[b].Target)
	})
	for _, i := range order {
		if err := m.add(ctx, i); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *mounting) add(ctx context.Context, i int) error {
	p := &m.job.Step.Run.Mounts[i]
	switch p.Type {
	case plan.MountBind:
		return m.bind(ctx, i)
	case plan.MountCache:
		m.list = append(m.list, sandbox.Mount{Target: p.Target, Path: m.caches[m.names[i]].Dir, Sub: m.sub(i), ReadOnly: p.ReadOnly})
	case plan.MountTmpfs:
		t := sandbox.Mount{Target: p.Target, ReadOnly: p.ReadOnly}
		if p.Size > 0 {
			t.Options = []string{fmt.Sprintf("size=%d", p.Size)}
		}
		m.list = append(m.list, t)
	case plan.MountSecret:
		return m.secret(ctx, p)
	case plan.MountSSH:
		return m.agent(i)
	}
	return nil
}

// bind shows files of the build context, of a stage or of an image. What a
// step writes to them is thrown away.
func (m *mounting) bind(ctx context.Context, i int) error {
	p := &m.job.Step.Run.Mounts[i]
	moved, err := m.local.moved()
	if err != nil {
		return err
	}
	if p.From == nil || p.From.Context != "" || moved {
		return m.snapshot(ctx, i)
	}
	var up *rootfs.Upper
	if !p.ReadOnly {
		dir, err := m.folder(fmt.Sprintf("bind-%d", i))
		if err != nil {
			return err
		}
		if up, err = newUpper(dir); err != nil {
			return err
		}
	}
	first := true
	return m.open(sandbox.Mount{Target: p.Target, Sub: strings.TrimPrefix(p.Source, "/"), ReadOnly: p.ReadOnly}, func() (*os.File, error) {
		if !first {
			if err := again(up); err != nil {
				return nil, err
			}
		}
		first = false
		f, err := m.local.Roots.Mount(ctx, m.job.Mounts[i], up)
		if err != nil {
			return nil, m.local.mountError(m.job, err)
		}
		return f, nil
	})
}

// snapshot copies what a bind of files of the caller's shows: the step sees
// them as the key has them, owned by root and without what is ignored, and
// nothing that it does reaches the caller's.
func (m *mounting) snapshot(ctx context.Context, i int) error {
	p := &m.job.Step.Run.Mounts[i]
	dir, err := m.folder(fmt.Sprintf("bind-%d", i))
	if err != nil {
		return err
	}
	w, tree, err := m.local.snapshotWriter(dir, p.ReadOnly)
	if err != nil {
		return err
	}
	name, err := m.local.writeSource(ctx, solve.MountJob(m.job, i), p.Source, w)
	if err != nil {
		w.Abort()
		return err
	}
	if _, err := w.Finish(); err != nil {
		return err
	}
	// What would be moved to its place is the step's own: no need of a copy that
	// cannot be written to.
	moved, err := m.local.moved()
	if err != nil {
		return err
	}
	out := sandbox.Mount{Target: p.Target, Sub: name, ReadOnly: p.ReadOnly && !moved}
	if tree {
		out.Path = filepath.Join(dir, layer.TreeName)
	} else {
		return m.open(out, func() (*os.File, error) { return m.local.Roots.MountTar(dir) })
	}
	m.list = append(m.list, out)
	return nil
}

// snapshotWriter writes a tree where trees are mounted, and where it can be
// written to.
func (l *Local) snapshotWriter(dir string, readOnly bool) (w writer, tree bool, err error) {
	provider, err := l.Roots.Provider()
	if err != nil {
		return nil, false, err
	}
	if provider != rootfs.Erofs || !readOnly {
		w, err = layer.NewTree(filepath.Join(dir, layer.TreeName), layer.UnpackOptions{Userxattr: l.Roots.UserNS()})
		return w, true, err
	}
	w, err = layer.Create(dir)
	return w, false, err
}

// writeSource writes the one source of a copy into w: a folder's content, or a
// file, whose name it returns.
func (l *Local) writeSource(ctx context.Context, job solve.Job, source string, w writer) (name string, err error) {
	r, err := l.request(ctx, job.Step.Copy, job.From)
	if err != nil {
		return "", err
	}
	r.Now, r.To = l.now(), entry.NewMem()
	items, _, err := copying.Plan([]copying.Request{r})
	if err != nil {
		return "", l.refused(ctx, job, err)
	}
	top := entry.Entry{Path: ".", Kind: entry.Dir, Mode: 0o755, Mtime: r.Now}
	e, err := resolved(r.From, source)
	if err != nil {
		return "", l.refused(ctx, job, err)
	}
	if e.Kind == entry.Dir {
		top.Mode, top.UID, top.GID, top.Mtime, top.Xattrs = e.Mode, e.UID, e.GID, e.Mtime, e.Xattrs
		if r.FromContext {
			top.UID, top.GID = 0, 0
		}
	}
	if e.Kind != entry.Dir {
		if err := items.Each(func(it *copying.Item) error { name = it.Entry.Path; return nil }); err != nil {
			return "", l.refused(ctx, job, err)
		}
	}
	if err := w.Add(top, nil); err != nil {
		return "", err
	}
	return name, l.refused(ctx, job, addAll(ctx, w, items, []copying.Request{r}))
}

// resolved is what a path leads to.
func resolved(fsys entry.FS, name string) (entry.Entry, error) {
	p, err := entry.Resolve(fsys, name, true)
	if err != nil {
		return entry.Entry{}, err
	}
	return fsys.Lstat(p)
}

// secret gives the step a secret as a file in memory, as a variable, or both.
// The value is read now and kept nowhere.
func (m *mounting) secret(ctx context.Context, p *plan.Mount) error {
	var value []byte
	var ok bool
	var err error
	if m.local.Secret != nil {
		value, ok, err = m.local.Secret(ctx, p.ID)
	}
	if err != nil {
		return err
	}
	if !ok {
		if !p.Required {
			if p.Env != "" {
				m.env = append(m.env, p.Env+"=") // as the reference has it
			}
			return nil
		}
		return m.mistake(fmt.Sprintf("secret %s: not found", p.ID), fmt.Sprintf("build with --secret id=%s,src=FILE, or id=%s,env=NAME", p.ID, p.ID))
	}
	m.secrets = true
	if p.Env != "" {
		if strings.ContainsRune(string(value), 0) {
			return m.mistake(fmt.Sprintf("secret %s: has a zero byte, which no variable can have", p.ID), "leave env= out: a file can have it")
		}
		m.env = append(m.env, p.Env+"="+string(value))
	}
	if p.Target != "" {
		m.list = append(m.list, sandbox.Mount{
			Target: p.Target, ReadOnly: true,
			Content: &sandbox.Content{Content: value, Mode: p.Mode, UID: int(p.UID), GID: int(p.GID)},
		})
	}
	return nil
}

// noDumps keeps a step that has secrets from leaving its memory in its layer,
// or with the machine's collector of crashes: the kernel writes no core file for
// a limit of one byte, and hands nothing to a program either (core(5), and
// do_coredump in fs/coredump.c). What the command line says counts more.
func (m *mounting) noDumps(limits []sandbox.Rlimit) []sandbox.Rlimit {
	var have syscall.Rlimit
	if !m.secrets || slices.ContainsFunc(limits, func(l sandbox.Rlimit) bool { return l.Name == "core" }) {
		return limits
	}
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &have); err == nil && have.Max < 1 {
		return limits // who is not root cannot raise it to one, and need not
	}
	if core, ok := sandbox.NewRlimit("core", 1, 1); ok {
		limits = append(limits, core)
	}
	return limits
}

func (m *mounting) mistake(msg, hint string) error {
	return m.local.File.Mistake(m.job.Step.Line.Pos, fmt.Sprintf("stage %s: %s", m.job.Step.Stage.Display, msg), hint)
}

func (m *mounting) note(text string) {
	m.local.Sink.Emit(progress.Event{Kind: progress.Note, Time: m.local.Now(), Vertex: m.job.Vertex, Text: text})
}

// takeCaches locks every cache of the step, each once and in the order of
// their names, so that two steps never wait for each other.
func (m *mounting) takeCaches(ctx context.Context) error {
	m.caches = map[digest.Digest]*store.CacheMount{}
	m.names = make([]digest.Digest, len(m.job.Step.Run.Mounts))
	type wanted struct {
		mount    int
		about    []byte
		identity cachemount.Identity
	}
	first := map[digest.Digest]wanted{}
	var names []digest.Digest
	for i, p := range m.job.Step.Run.Mounts {
		if p.Type != plan.MountCache {
			continue
		}
		identity, err := m.identity(ctx, i)
		if err != nil {
			return err
		}
		name := m.local.Mounts.Key(identity.Name())
		m.names[i] = name
		if _, ok := first[name]; ok {
			continue
		}
		about, err := json.Marshal(CacheAbout{identity, m.local.Mounts})
		if err != nil {
			return err
		}
		first[name] = wanted{i, about, identity}
		names = append(names, name)
	}
	moved, err := m.local.moved()
	if err != nil {
		return err
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Hex() < names[j].Hex() })
	for _, name := range names {
		i := first[name].mount
		if m.job.Fresh {
			// Before any step of this build uses one: in a chroot it is found by its name.
			if err := m.local.fresh.do(name, func() error { return m.local.Store.RetireCaches(name) }); err != nil {
				return err
			}
		} else if m.local.Bring != nil {
			m.local.Bring(ctx, first[name].identity)
		}
		c, err := m.local.Store.CacheMount(ctx, store.CacheRequest{
			Name: name, Sharing: sharing(m.job.Step.Run.Mounts[i].Sharing, moved),
			About:   first[name].about,
			Fill:    func(dir string) error { return m.fill(ctx, i, dir) },
			Waiting: func() { m.note(fmt.Sprintf("the cache %s is in use: waiting for it", m.job.Step.Run.Mounts[i].Target)) },
		})
		if err != nil {
			return err
		}
		m.closers = append(m.closers, c.Close)
		m.caches[name] = c
	}
	return nil
}

// sharing is how a cache is shared; what is moved to its place can only be in
// one.
func sharing(s string, moved bool) store.Sharing {
	switch {
	case s == plan.PrivateCache:
		return store.Private
	case s == plan.LockedCache || moved:
		return store.Locked
	}
	return store.Shared
}

// identity is what a cache is known by: its id, and what it had at first. The
// content of that is known from the step's key.
func (m *mounting) identity(ctx context.Context, i int) (cachemount.Identity, error) {
	p := &m.job.Step.Run.Mounts[i]
	out := cachemount.Identity{ID: p.ID}
	if p.From != nil {
		d, err := m.local.Content(ctx, solve.MountJob(m.job, i))
		if err != nil {
			return out, err
		}
		out.Seeded, out.Seed = true, d
		if p.FromText != "" {
			out.From = path.Join(p.FromText, p.Source)
		}
	}
	if m.owned(i) {
		out.Owner = fmt.Sprintf("%o %d:%d", p.Mode, p.UID, p.GID)
	}
	return out, nil
}

// owned says whether mode, uid and gid count: with a source they do not.
func (m *mounting) owned(i int) bool {
	p := &m.job.Step.Run.Mounts[i]
	return p.Owned && p.Source == "/"
}

// sub is the path in the cache that is mounted: with from= the cache is a copy
// of the source already.
func (m *mounting) sub(i int) string {
	p := &m.job.Step.Run.Mounts[i]
	if p.From != nil {
		return ""
	}
	return strings.TrimPrefix(p.Source, "/")
}

// fill makes a new cache.
func (m *mounting) fill(ctx context.Context, i int, dir string) error {
	p := &m.job.Step.Run.Mounts[i]
	if p.From == nil || m.owned(i) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		// Only what is new can be changed so; a step's links are not in it.
		if err := os.Chmod(dir, 0o755); err != nil || !m.owned(i) {
			return err
		}
		if err := os.Chown(dir, int(p.UID), int(p.GID)); err != nil {
			return m.mistake(fmt.Sprintf("cache %s: user %d:%d: this user namespace has no such id", p.Target, p.UID, p.GID),
				idsHint())
		}
		return os.Chmod(dir, os.FileMode(p.Mode&0o777)) // special bits are dropped, as in the reference
	}
	w, err := layer.NewTree(dir, layer.UnpackOptions{Userxattr: m.local.Roots.UserNS()})
	if err != nil {
		return err
	}
	name, err := m.local.writeSource(ctx, solve.MountJob(m.job, i), p.Source, w)
	if err == nil && name != "" {
		err = m.mistake(fmt.Sprintf("cache %s: source %q is a file", p.Target, p.Source), "a cache is a folder: name the folder that the file is in")
	}
	if err != nil {
		w.Abort()
		return err
	}
	_, err = w.Finish()
	return err
}
