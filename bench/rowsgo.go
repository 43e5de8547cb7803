package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// program copies the sources of this suite, with all that they need, into a
// context: a program of which no module is to be fetched.
func (s *suite) program(ctx context.Context, dockerfile string) (string, error) {
	dir, err := s.context(dockerfile)
	if err != nil {
		return "", err
	}
	copying := exec.CommandContext(ctx, "sh", "-ec", `cp -r --parents go.mod go.sum bench test/dockerd test/buildkitd "$0"
cd "$0"
go mod vendor -e`, dir)
	copying.Env = append(s.env(), "GOTOOLCHAIN=local", "GOFLAGS=-mod=mod")
	return dir, quiet(copying)
}

// goCommand builds it, with its build cache in the folder $GOCACHE.
const goCommand = "CGO_ENABLED=0 GOFLAGS=-mod=vendor GOTOOLCHAIN=local go build -o ${BUILT:-/tmp/bench} ./bench"

func goBuild(ctx context.Context, s *suite) (*scene, error) {
	dir, err := s.program(ctx, "ARG GOLANG\nFROM $GOLANG\nENV GOCACHE=/cache\nWORKDIR /src\nCOPY . .\nARG N\nRUN : $N; "+goCommand+"\n")
	return &scene{
		job: job{dir: dir}, vary: numbered, close: func() error { return os.RemoveAll(dir) },
		// What is above the RUN is there.
		prime: built(numbered(job{dir: dir}, 0)),
		floor: func(ctx context.Context, _ int) (sample, error) {
			cache := filepath.Join(s.dir, "gocache")
			defer os.RemoveAll(cache)
			return s.compile(ctx, dir, cache)
		},
	}, err
}

// compile is the go build of the rows, outside.
func (s *suite) compile(ctx context.Context, dir, cache string) (sample, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", goCommand)
	cmd.Dir, cmd.Env = dir, s.env("GOCACHE="+cache, "BUILT="+filepath.Join(s.dir, "built"))
	return timed(cmd, nil)
}

func goBuildEdit(ctx context.Context, s *suite) (*scene, error) {
	dir, err := s.program(ctx, "ARG GOLANG\nFROM $GOLANG\nENV GOCACHE=/cache\nWORKDIR /src\nCOPY . .\nRUN --mount=type=cache,target=/cache "+goCommand+"\n")
	edit := func(n int) error {
		text := fmt.Appendf(nil, "package dockerd\n\n// Edited is another one each time.\nconst Edited = %d\n", n)
		return os.WriteFile(filepath.Join(dir, "test/dockerd/edited.go"), text, 0o644)
	}
	cache := filepath.Join(s.dir, "gocache-edit")
	return &scene{
		job: job{dir: dir}, close: func() error { return errors.Join(os.RemoveAll(dir), os.RemoveAll(cache)) },
		prime: func(ctx context.Context, b builder) error {
			if d, ok := b.(*docker); ok && !d.buildkit {
				return errors.New("not possible: docker's first builder has no cache mounts")
			}
			return quiet(b.build(ctx, job{dir: dir}))
		},
		ready: func(_ context.Context, _ builder, n int) error { return edit(n) },
		floor: func(ctx context.Context, n int) (sample, error) {
			if n == 0 { // the first one fills the cache
				if smp, err := s.compile(ctx, dir, cache); err != nil {
					return smp, err
				}
			}
			if err := edit(-1 - n); err != nil {
				return sample{}, err
			}
			return s.compile(ctx, dir, cache)
		},
	}, err
}
