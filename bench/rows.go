package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// row is a figure of the suite.
type row struct {
	name   string
	floor  string // what the floor is
	target target
	steps  int // times are shown and judged for one of so many steps; 0 is one
	pairs  int // of runs
	setup  func(ctx context.Context, b *bench, provider string) (pair, error)
	// treeOnly rows are about what only the tree provider does.
	treeOnly bool
	// chroot rows are about processes, and so about roots that are no mounts too.
	chroot bool
}

func (r row) providers() []string {
	if r.treeOnly {
		return []string{"tree"}
	}
	if r.chroot {
		return []string{"erofs", "tree", "chroot"}
	}
	return []string{"erofs", "tree"}
}

func rows() []row {
	return []row{
		{name: "no-op rebuild of example 1c", floor: "whittle version", pairs: 21, setup: noop,
			target: target{time: 20 * time.Millisecond, only: "erofs"}},
		{name: "20 trivial RUN steps, each", floor: "clone + exec of true", pairs: 9, setup: trivialRuns,
			target: target{time: 10 * time.Millisecond, only: "erofs"}, steps: trivialSteps, chroot: true},
		{name: "20 trivial RUN steps of a plain user, each", floor: "the same by root", pairs: 9, setup: rootlessRuns,
			target: target{time: rootlessTarget}, steps: trivialSteps, treeOnly: true},
		{name: "eight stages of sleep 1", floor: "sleep 1", pairs: 3, setup: eightStages,
			target: target{time: 1300 * time.Millisecond, only: "erofs"}},
		{name: "COPY of 50 000 files of 4 KB, cold store", floor: "tar cf", pairs: 7, setup: coldCopy,
			target: target{ratio: 3, only: "erofs"}},
		{name: "go build in a stage, cold build cache", floor: "go build outside", pairs: 3, setup: goBuild,
			target: target{ratio: 1.10, only: "erofs"}, chroot: true},
		{name: "COPY of 50 000 files + one RUN, cold", floor: "dockerd's BuildKit", pairs: 3, setup: copyAndRun,
			target: target{ratio: 1}, treeOnly: true},
		{name: "a Go project in an empty store, caches imported", floor: "nothing imported", pairs: 3, setup: cachesOf(goProject),
			target: target{ratio: 0.5}},
		{name: "an npm project in an empty store, cache imported", floor: "nothing imported", pairs: 3, setup: cachesOf(npmProject),
			target: target{ratio: 1}},
	}
}

// noop builds the example once; then each run finds everything done.
func noop(ctx context.Context, b *bench, provider string) (pair, error) {
	if err := b.load(provider, "golang", "alpine"); err != nil {
		return pair{}, err
	}
	build := func(ctx context.Context) (sample, error) {
		return timed(b.command(ctx, provider, b.stores[provider], "build", "-q", "-t", "http-server", "examples/1-http-service"), true)
	}
	_, err := build(ctx)
	return pair{subject: build, floor: func(ctx context.Context) (sample, error) {
		return timed(b.command(ctx, provider, b.stores[provider], "version"), false)
	}}, err
}

const trivialSteps = 20

func trivialRuns(_ context.Context, b *bench, provider string) (pair, error) {
	text := "FROM busybox\n"
	for i := range trivialSteps {
		text += fmt.Sprintf("RUN exit 0; %d\n", i)
	}
	dir, err := b.context(text)
	if err != nil {
		return pair{}, err
	}
	return pair{
		subject: b.rebuild(provider, dir),
		floor: func(ctx context.Context) (sample, error) {
			began := time.Now()
			for range trivialSteps {
				// The namespaces of a step, of whose making nobody is spared.
				cmd := b.busybox(ctx, "true")
				if os.Getuid() == 0 {
					cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
						syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP}
				}
				if err := cmd.Run(); err != nil {
					return sample{}, err
				}
			}
			return sample{took: time.Since(began)}, nil
		},
	}, nil
}

// rebuild runs every step again, on base images that are in the store.
func (b *bench) rebuild(provider, dir string) step {
	return func(ctx context.Context) (sample, error) {
		return timed(b.command(ctx, provider, b.stores[provider], "build", "-q", "--no-cache", dir), true)
	}
}

// busybox is a static program of the machine's own.
func (b *bench) busybox(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/bin/busybox", args...)
}

func eightStages(_ context.Context, b *bench, provider string) (pair, error) {
	var stages, copies strings.Builder
	for i := range 8 {
		fmt.Fprintf(&stages, "FROM busybox AS s%d\nRUN sleep 1 && echo %d > /done\n", i, i)
		fmt.Fprintf(&copies, "COPY --from=s%d /done /done%d\n", i, i)
	}
	dir, err := b.context(stages.String() + "FROM scratch\n" + copies.String())
	if err != nil {
		return pair{}, err
	}
	return pair{subject: b.rebuild(provider, dir), floor: func(ctx context.Context) (sample, error) {
		return timed(b.busybox(ctx, "sleep", "1"), false)
	}}, nil
}

// files makes n files of 4 KB that do not compress, a hundred in a folder.
func (b *bench) files(n int) (string, error) {
	if b.set.quick {
		n /= 10
	}
	top, err := b.folder()
	if err != nil {
		return "", err
	}
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 4096)
	for i := range n {
		dir := filepath.Join(top, "tree", fmt.Sprintf("dir%04d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", err
			}
		}
		random.Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%05d", i)), data, 0o644); err != nil {
			return "", err
		}
	}
	return top, nil
}

// build times a build of dir in a store that has the base images and nothing
// else: no record, no stat cache.
func (b *bench) build(provider, dir string) step {
	return func(ctx context.Context) (sample, error) {
		store, remove, err := b.fresh(ctx, provider)
		if err != nil {
			return sample{}, err
		}
		defer remove()
		return timed(b.command(ctx, provider, store, "build", "-q", dir), true)
	}
}

func coldCopy(_ context.Context, b *bench, provider string) (pair, error) {
	dir, err := b.files(50000)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY tree /tree\n"), 0o644)
	}
	archive := filepath.Join(b.dir, "floor.tar")
	return pair{
		subject: b.build(provider, dir),
		floor: func(ctx context.Context) (sample, error) {
			defer os.Remove(archive)
			return timed(exec.CommandContext(ctx, "tar", "-C", dir, "-cf", archive, "tree"), false)
		},
		close: func() error { return os.RemoveAll(dir) },
	}, err
}

// goBuild compiles example 1's server with an empty build cache, in a stage
// and on the machine, with the machine's Go: the golang stand-in has the same.
func goBuild(ctx context.Context, b *bench, provider string) (pair, error) {
	if err := b.load(provider, "golang"); err != nil {
		return pair{}, err
	}
	dir, err := b.context("FROM golang AS sources\nCOPY server.go /src/\nWORKDIR /src\nENV CGO_ENABLED=0 GOCACHE=/cache\nRUN true\n" +
		"FROM sources AS builder\nARG RUN\nRUN go build -o server server.go\nFROM scratch\nCOPY --from=builder /src/server /\n")
	if err != nil {
		return pair{}, err
	}
	source, err := os.ReadFile("examples/1-http-service/server.go")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "server.go"), source, 0o644)
	}
	n := 0
	inside := func(ctx context.Context) (sample, error) {
		n++ // another argument makes the RUN another step; what is before it is done
		return timed(b.command(ctx, provider, b.stores[provider], "build", "-q", "--build-arg", fmt.Sprintf("RUN=%d", n), dir), true)
	}
	if err == nil {
		_, err = timed(b.command(ctx, provider, b.stores[provider], "build", "-q", "--target", "sources", dir), false)
	}
	return pair{subject: inside, floor: func(ctx context.Context) (sample, error) {
		cache, err := b.folder()
		if err != nil {
			return sample{}, err
		}
		defer os.RemoveAll(cache)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(cache, "server"), "server.go")
		cmd.Dir = dir
		cmd.Env = append(b.env("", ""), "CGO_ENABLED=0", "GOCACHE="+filepath.Join(cache, "cache"), "GOTOOLCHAIN=local", "GO111MODULE=auto", "GOFLAGS=")
		return timed(cmd, false)
	}}, err
}
