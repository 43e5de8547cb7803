package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// bench is one run of the suite: its folder, the program, and for each
// provider a store that has the base images.
type bench struct {
	set     settings
	dir     string
	whittle string
	lacks   map[string]string // provider → why it does not work here
	stores  map[string]string // provider → store with the stand-ins
	made    int               // numbers folders
}

func newBench(s settings) (_ *bench, err error) {
	b := &bench{set: s, lacks: map[string]string{}, stores: map[string]string{}}
	if b.whittle, err = filepath.Abs(s.whittle); err != nil {
		return nil, err
	}
	if _, err := os.Stat(b.whittle); err != nil {
		return nil, fmt.Errorf("%w (make builds it)", err)
	}
	if b.dir, err = os.MkdirTemp(s.tempDir, "whittle-bench."); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, p := range []string{"erofs", "tree", "chroot"} {
		if err := b.try(p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// try asks whittle itself whether a provider works in a store here, by
// building something that must be mounted.
func (b *bench) try(provider string) error {
	store := filepath.Join(b.dir, provider)
	if err := os.Mkdir(store, 0o755); err != nil {
		return err
	}
	load := exec.Command("standins/load", "busybox")
	load.Env = append(b.env(provider, store), "WHITTLE="+b.whittle)
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("standins/load: %w\n%s", err, out)
	}
	b.stores[provider] = store
	dir, err := b.context("FROM busybox\nRUN true\n")
	if err != nil {
		return err
	}
	out, err := b.command(context.Background(), provider, store, "build", "-q", dir).CombinedOutput()
	if err != nil {
		first, _, _ := bytes.Cut(bytes.TrimPrefix(out, []byte("whittle: ")), []byte("\n"))
		b.lacks[provider] = string(first)
	}
	return nil
}

// close removes everything. A user's store has files of other ids of the
// user's namespace in it, so whittle itself empties it first.
func (b *bench) close() error {
	for p, store := range b.stores {
		_ = b.command(context.Background(), p, store, "prune", "-a").Run() // what is left is told below
	}
	return os.RemoveAll(b.dir)
}

// env is what whittle and the floors see: nothing of the caller's but what
// they need.
func (b *bench) env(provider, store string) []string {
	env := []string{"WHITTLE_ROOTFS=" + provider, "WHITTLE_ROOT=" + store}
	for _, name := range []string{"PATH", "HOME", "USER", "STANDINS_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func (b *bench) command(ctx context.Context, provider, store string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.whittle, args...)
	cmd.Env = b.env(provider, store)
	return cmd
}

// folder makes an empty folder.
func (b *bench) folder() (string, error) {
	b.made++
	dir := filepath.Join(b.dir, strconv.Itoa(b.made))
	return dir, os.Mkdir(dir, 0o755)
}

// context makes a build context of one Dockerfile.
func (b *bench) context(dockerfile string) (string, error) {
	dir, err := b.folder()
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// load imports stand-ins into the provider's store.
func (b *bench) load(provider string, names ...string) error {
	cmd := exec.Command("standins/load", names...)
	cmd.Env = append(b.env(provider, b.stores[provider]), "WHITTLE="+b.whittle)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("standins/load: %w\n%s", err, out)
	}
	return nil
}

// fresh makes a store with the images that the provider's store has and
// nothing else: layers are never written to, so links will do.
func (b *bench) fresh(ctx context.Context, provider string) (store string, remove func(), err error) {
	b.made++
	store = filepath.Join(b.dir, "fresh-"+strconv.Itoa(b.made))
	copying := []string{"cp", "-al", b.stores[provider], store}
	removing := []string{"rm", "-rf", store}
	if os.Getuid() != 0 {
		in := []string{"unshare", "--user", "--map-root-user", "--map-auto"}
		copying, removing = append(in[:len(in):len(in)], copying...), append(in[:len(in):len(in)], removing...)
	}
	if out, err := exec.CommandContext(ctx, copying[0], copying[1:]...).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("%v: %w\n%s", copying, err, out)
	}
	return store, func() { _ = exec.Command(removing[0], removing[1:]...).Run() }, nil // b.close tells what is left
}
