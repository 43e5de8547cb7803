// Package whittle builds container images from multi-stage Dockerfiles and
// keeps, shows and runs them. It is the public API: it wires the parts
// together and holds no rules of its own.
//
// Any number of processes may use one store at once; see Open.
package whittle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whittle-build/whittle/internal/image"
	"github.com/whittle-build/whittle/internal/rootfs"
	"github.com/whittle-build/whittle/internal/sandbox"
	"github.com/whittle-build/whittle/internal/store"
)

// Options say where whittle works. Root must be set; everything else has a
// usable zero value.
type Options struct {
	Root   string // folder of the store; see Root
	Rootfs string // "erofs", "tree" or "chroot" forces a root-file-system provider; "" probes
	// Isolation is how steps and containers are kept apart from the machine, as
	// sandbox.ParseIsolation reads it; "" is what works here.
	Isolation string
	UserNS    bool   // the process is root of a user namespace, not of the machine
	IDMap     string // that user namespace's id map, as text
	// Refused is why there is no user namespace where one is needed; nil means
	// that none is. Then nothing can be mounted: without root's rights no step
	// or container can run, and everything else works.
	Refused error
	// Credentials are the files of docker login and podman login to look in.
	Credentials []string
	// Registries says how certain registries are reached, and CertDirs where there are
	// certificates for them besides.
	Registries Registries
	CertDirs   []string
	// Getenv says where a Docker engine is (DOCKER_HOST and what goes with it); nil
	// says nothing.
	Getenv func(string) string
	Now    func() time.Time
}

// Whittle is an open store with all that works on it. It may be used by
// several goroutines at once.
type Whittle struct {
	opt       Options
	store     *store.Store
	catalog   *image.Catalog
	isolation sandbox.Isolation

	transfers atomic.Int64 // pulls and pushes so far

	mu    sync.Mutex
	roots *rootfs.Roots
}

// Root returns the store's folder: flag, else $WHITTLE_ROOT, else
// /var/lib/whittle for root and $XDG_DATA_HOME/whittle for others, which is by
// default in their home.
func Root(flag string, getenv func(string) string) (string, error) {
	return rootOf(os.Geteuid(), flag, getenv)
}

func rootOf(uid int, flag string, getenv func(string) string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir := getenv("WHITTLE_ROOT"); dir != "" {
		return dir, nil
	}
	if uid == 0 {
		return "/var/lib/whittle", nil
	}
	// A relative one is to be ignored, says its specification.
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "whittle"), nil
	}
	home := getenv("HOME")
	if home == "" {
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			home = u.HomeDir
		}
	}
	if !filepath.IsAbs(home) {
		return "", &image.Error{Msg: fmt.Sprintf("the home of user %d is not known, and so not where the store is", uid), Way: "set HOME to an absolute path, or give --root"}
	}
	return filepath.Join(home, ".local/share/whittle"), nil
}

// Open opens the store at o.Root, making it when there is none. A store that
// belongs to the other kind of user (root's, or a user namespace's) is
// refused. Close must be called.
func Open(o Options) (*Whittle, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if !rootfs.Known(o.Rootfs) {
		return nil, &hinted{fmt.Errorf("WHITTLE_ROOTFS=%q: no such provider of root file systems", o.Rootfs),
			"there are erofs, tree and chroot; unset it to take the first that works here"}
	}
	isolation, err := sandbox.ParseIsolation(o.Isolation)
	if err != nil {
		return nil, &hinted{err, sandbox.IsolationHint}
	}
	if err := o.agree(isolation); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	owner := store.Owner{Kind: "root", XattrPrefix: "trusted."}
	if o.UserNS {
		owner = store.Owner{Kind: "user", IDMap: o.IDMap, XattrPrefix: "user."}
	} else if os.Geteuid() != 0 {
		owner = store.Owner{Kind: "user", XattrPrefix: "user."}
	}
	s, err := store.Open(dir, store.Options{Owner: owner, Now: o.Now})
	if err != nil {
		return nil, err
	}
	return &Whittle{opt: o, store: s, catalog: image.NewCatalog(s, o.Now), isolation: isolation}, nil
}

// anyIsolation says whether the way to keep steps apart is to be found out.
func (o *Options) anyIsolation() bool { return o.Isolation == "" || o.Isolation == "default" }

// agree refuses a provider and an isolation that do not go together: what
// mounts nothing needs the isolation chroot, and that mounts nothing.
func (o *Options) agree(i sandbox.Isolation) error {
	alone, mounts := i.Mode == sandbox.Chroot, o.Rootfs != "" && o.Rootfs != string(rootfs.Chroot)
	switch {
	case alone && mounts:
		return &hinted{fmt.Errorf("isolation chroot and WHITTLE_ROOTFS=%s: that provider mounts, which a step in a chroot has no use for", o.Rootfs),
			"leave one of the two out: the other one follows"}
	case !alone && !o.anyIsolation() && o.Rootfs == string(rootfs.Chroot):
		return &hinted{fmt.Errorf("isolation %s and WHITTLE_ROOTFS=chroot: a root that is no mount is for the isolation chroot only", i),
			"leave one of the two out: the other one follows"}
	}
	return nil
}

// Close lets go of everything that is open.
func (w *Whittle) Close() error { return w.closeWith((*os.File).Close) }

// Exit is Close for a program that ends now: it does not wait until the kernel has let go of the
// layers that were mounted.
func (w *Whittle) Exit() error { return w.closeWith(sandbox.Outlive) }

func (w *Whittle) closeWith(end func(*os.File) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.roots == nil {
		return nil
	}
	err := w.roots.CloseWith(end)
	w.roots = nil
	return err
}

// rootFS returns the maker of views and mounts; the provider is probed for
// only when something must be mounted.
func (w *Whittle) rootFS() *rootfs.Roots {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.roots == nil {
		w.roots = rootfs.New(w.store, w.chooseRootfs, w.opt.UserNS)
		w.roots.Fetch = w.fetchLayer
	}
	return w.roots
}

func (w *Whittle) chooseRootfs() (_ rootfs.Provider, err error) {
	if err := w.noSteps(); err != nil {
		return "", err
	}
	tmp, err := w.store.Temp("probe")
	if err != nil {
		return "", err
	}
	defer join(&err, tmp.Remove)
	want, box := w.opt.Rootfs, sandbox.ProbeChroot
	switch {
	case w.isolation.Mode == sandbox.Chroot:
		want = string(rootfs.Chroot)
	case !w.opt.anyIsolation():
		box = nil // it is said how, and that is another way
	}
	p, err := rootfs.Choose(tmp.Path, want, w.opt.UserNS, box)
	if err != nil {
		return "", fmt.Errorf("store %s: %w", w.store.Dir(), err)
	}
	return p, nil
}

// use holds the store against pruning until the lock is closed.
func (w *Whittle) use(ctx context.Context) (*store.Lock, error) {
	l, err := w.store.Use(ctx)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", w.store.Dir(), err)
	}
	return l, nil
}

// join is errors.Join for the common pair of a result and a clean-up.
func join(err *error, fn func() error) { *err = errors.Join(*err, fn()) }

// Dir returns the store's folder.
func (w *Whittle) Dir() string { return w.store.Dir() }
