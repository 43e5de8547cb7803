package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
)

// job is one build, the same for every builder.
type job struct {
	dir     string            // the context, with a Dockerfile
	args    map[string]string // build arguments
	noCache bool
	tag     string // name of the image; "" is none
	push    string // name to push it to, at once where the builder can; "" is nowhere
	form    string // gzip or zstd, of layers that are pushed or archived
	archive string // file to export to, an OCI layout; "" is none
	cache   string // shared cache in a registry that steps come from; "" is none
	export  bool   // add what is built to that cache, the layers of all stages
}

// builder is whittle with one of its providers, or a peer. Each builds with
// nothing but what the machine has: steps have its network.
type builder interface {
	// name is what the table calls it, and about how it was set up.
	name() string
	about() string
	// base is what FROM has to say so that the stand-in of that name is found
	// without asking a registry, where the builder can be told so.
	base(standIn string) string
	// have brings a stand-in in from the suite's registry, and unpacks it.
	have(ctx context.Context, standIn string) error
	// forget drops whatever builds have left; what have brought in stays.
	forget(ctx context.Context) error
	// build is the command that makes j's image and leaves it with its ID.
	build(ctx context.Context, j job) *exec.Cmd
	// programs are the names of the programs that it consists of, and daemon
	// the process of it that is always there; 0 is none.
	programs() []string
	daemon() int
	close() error
}

// arguments are j's build arguments, in order, with a base for each stand-in.
func arguments(b builder, j job) []string {
	all := map[string]string{}
	for k, v := range j.args {
		all[k] = v
	}
	for _, s := range standIns {
		all[s.arg] = b.base(s.name)
	}
	list := make([]string, 0, len(all))
	for k, v := range all {
		list = append(list, k+"="+v)
	}
	sort.Strings(list)
	return list
}

// flags are those of a build that all but buildctl call the same.
func flags(b builder, j job) []string {
	var list []string
	for _, a := range arguments(b, j) {
		list = append(list, "--build-arg", a)
	}
	if j.noCache {
		list = append(list, "--no-cache")
	}
	if j.tag != "" {
		list = append(list, "-t", j.tag)
	}
	return append(list, j.dir)
}

// standIns are the bases of the rows, and the build arguments that name them.
var standIns = []struct{ name, arg string }{{"busybox", "BUSYBOX"}, {"golang", "GOLANG"}}

// whittle builds in a store of its own. A store that has nothing but the bases
// is kept aside, from which others are made by links: layers are never written
// to.
type whittle struct {
	suite    *suite
	provider string
	pristine string
	store    string
	made     int
}

func (s *suite) newWhittle(provider string) (builder, error) {
	dir, err := s.folder()
	if err != nil {
		return nil, err
	}
	w := &whittle{suite: s, provider: provider, pristine: filepath.Join(dir, "pristine")}
	if err := os.Mkdir(w.pristine, 0o755); err != nil {
		return nil, err
	}
	return w, w.forget(context.Background())
}

func (w *whittle) name() string       { return "whittle " + w.provider }
func (w *whittle) programs() []string { return []string{filepath.Base(w.suite.whittle), fastGunzip[0]} }
func (w *whittle) daemon() int        { return 0 }
func (w *whittle) about() string {
	return "provider " + w.provider + ", no daemon; " + decompressors(fastGunzip[:1])
}

func (w *whittle) base(standIn string) string { return w.suite.registry.image(standIn) }

func (w *whittle) in(ctx context.Context, store string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.suite.whittle, args...)
	cmd.Env = w.suite.env("WHITTLE_ROOTFS="+w.provider, "WHITTLE_ROOT="+store)
	return cmd
}

// command runs whittle with the store of now.
func (w *whittle) command(ctx context.Context, args ...string) *exec.Cmd {
	return w.in(ctx, w.store, args...)
}

func (w *whittle) have(ctx context.Context, standIn string) error {
	if err := quiet(w.in(ctx, w.pristine, "pull", "-q", w.base(standIn))); err != nil {
		return err
	}
	// A step on it, so that its layers have the form that the provider mounts.
	dir, err := w.suite.context("ARG BASE\nFROM $BASE\nRUN true\n")
	if err != nil {
		return err
	}
	if err := quiet(w.in(ctx, w.pristine, "build", "-q", "--build-arg", "BASE="+w.base(standIn), dir)); err != nil {
		return err
	}
	return w.forget(ctx)
}

// forget takes a new store. The old one's removal is not in anybody's time.
func (w *whittle) forget(ctx context.Context) error {
	old := w.next()
	if err := quiet(exec.CommandContext(ctx, "cp", "-al", w.pristine, w.store)); err != nil {
		return err
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(old)
}

// empty takes a new store without even the bases.
func (w *whittle) empty() error {
	return errors.Join(os.RemoveAll(w.next()), os.Mkdir(w.store, 0o755))
}

// next names another store, and returns the one of before.
func (w *whittle) next() (old string) {
	old = w.store
	w.made++
	w.store = filepath.Join(filepath.Dir(w.pristine), fmt.Sprint("store", w.made))
	return old
}

func (w *whittle) build(ctx context.Context, j job) *exec.Cmd {
	args := []string{"build", "-q"}
	if j.push != "" {
		args = append(args, "--push", "-t", j.push)
	}
	if j.cache != "" {
		args = append(args, "--cache-from", "type=registry,ref="+j.cache)
	}
	if j.export {
		args = append(args, "--cache-to", "type=registry,mode=max,ref="+j.cache)
	}
	return w.command(ctx, append(args, flags(w, j)...)...)
}

func (w *whittle) close() error { return os.RemoveAll(filepath.Dir(w.pristine)) }
