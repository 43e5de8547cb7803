package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const ms = time.Millisecond

// allRows are all figures, in the order of the table.
func allRows() []row { return append(rows(), growthRows()...) }

// rows are those of one size each.
func rows() []row {
	return []row{
		{id: "noop-small", work: "nothing changed, a tiny context", floor: "process start", runs: 21,
			goal: goal{peer: 0.25, time: 12 * ms}, needs: []string{"busybox"}, make: noopSmall},
		{id: "noop-50k", work: "nothing changed, 50 000 files of 4 KB", floor: "find, one stat a file", runs: 9,
			goal: goal{peer: 0.2, floor: 1.5}, make: noopLarge},
		{id: "run-20", work: "20 × RUN echo, each", floor: "clone + exec of true", runs: 7,
			goal: goal{peer: 0.15, time: 8 * ms, steps: 20}, needs: []string{"busybox"}, make: run20},
		{id: "copy-50k", work: "COPY of 50 000 files, cold", floor: "tar cf",
			goal: goal{peer: 0.15, floor: 2}, make: copyLarge},
		{id: "edit-1-of-50k", work: "one of 50 000 files changed", floor: "stat walk + tar cf",
			goal: goal{peer: 0.12}, make: editOne},
		{id: "copy-then-run-50k", work: "cold COPY of 50 000 files, a RUN that reads one, a RUN that reads all",
			goal: goal{peer: 0.2}, needs: []string{"busybox"}, make: copyThenRun},
		{id: "npm-like", work: "COPY, a RUN that makes 80 000 files, COPY --from of them", floor: "cp -al + tar cf + sha256",
			goal: goal{peer: 0.3}, needs: []string{"busybox"}, make: npmLike},
		{id: "copy-from-1g", work: "COPY --from of 1 GB after an edit above it", floor: "link + sha256sum",
			goal: goal{peer: 0.25}, needs: []string{"busybox"}, make: copyFrom},
		{id: "chmod-1g", work: "RUN chmod -R over 1 GB of inherited files",
			goal: goal{peer: 0.3}, needs: []string{"busybox"}, make: chmodLarge},
		{id: "parallel-sleep", work: "8 stages of sleep 1", floor: "sleep 1",
			goal: goal{time: 1200 * ms}, needs: []string{"busybox"}, make: parallelSleep},
		{id: "parallel-cpu", work: "8 stages of 1 s of CPU", floor: "the same, side by side",
			goal: goal{floor: 1.1}, needs: []string{"busybox"}, make: parallelCPU},
		{id: "go-build", work: "go build in a stage, cold", floor: "the same go build",
			goal: goal{peer: 1, floor: 1.08}, needs: []string{"golang"}, make: goBuild},
		{id: "go-build-edit", work: "go build with a cache mount after an edit", floor: "the same go build", runs: 15,
			goal: goal{peer: 1, overhead: 0.5}, needs: []string{"golang"}, make: goBuildEdit},
		{id: "pull-unpack", work: "a base of 400 MB in 6 layers from the registry, to the end of RUN true", floor: "gunzip of the layers, side by side",
			goal: goal{peer: 0.5}, needs: []string{"busybox"}, make: pullUnpack},
		{id: "push-gzip", work: "push of 500 MB in 5 new layers, gzip", floor: "gzip of them, side by side",
			goal: goal{peer: 0.6}, make: pushAll("gzip")},
		{id: "push-zstd", work: "push of 500 MB in 5 new layers, zstd", floor: "zstd of them, side by side",
			goal: goal{peer: 0.6}, make: pushAll("zstd")},
		{id: "push-again", work: "push after one of the 5 layers changed, gzip", floor: "gzip of that layer",
			goal: goal{peer: 0.6}, make: pushAgain},
		{id: "export-gzip", work: "500 MB in 5 new layers to an OCI archive, gzip", floor: "gzip of them, side by side",
			goal: goal{peer: 0.6}, make: exportAll("gzip")},
		{id: "export-zstd", work: "500 MB in 5 new layers to an OCI archive, zstd", floor: "zstd of them, side by side",
			goal: goal{peer: 0.6}, make: exportAll("zstd")},
		{id: "fresh-ci", work: "an empty store, a warm registry cache, one file edited: to the pushed image", floor: "download of the layers that steps need",
			goal: goal{peer: 0.5}, needs: []string{"busybox"}, make: freshCI},
		{id: "run-20-user", work: "20 × RUN echo as a plain user, each", floor: "the same by root", runs: 7, alone: true,
			goal: goal{time: 15 * ms, steps: 20}, needs: []string{"busybox"}, make: run20User},
		{id: "chmod-1g-user", work: "chmod-1g as a plain user", floor: "buildah as the same user", alone: true,
			goal: goal{floor: 1}, needs: []string{"busybox"}, make: chmodLargeUser},
		{id: "caches-go", work: "a Go project in an empty store, caches imported", floor: "nothing imported", alone: true,
			goal: goal{floor: 0.5}, needs: []string{"golang"}, make: cachesOf(goProject)},
		{id: "caches-npm", work: "an npm project in an empty store, cache imported", floor: "nothing imported", alone: true,
			goal: goal{floor: 1}, needs: []string{"busybox"}, make: cachesOf(npmProject)},
	}
}

func noopSmall(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.context("ARG BUSYBOX\nFROM $BUSYBOX\nCOPY file /\nRUN cat /file\n")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "file"), []byte("a file\n"), 0o644)
	}
	j := job{dir: dir}
	return &scene{job: j, prime: built(j), floor: func(ctx context.Context, _ int) (sample, error) {
		return timed(exec.CommandContext(ctx, "/bin/busybox", "true"), nil)
	}}, err
}

// files makes a context with n files of 4 KB that do not compress, a hundred
// in a folder, below tree.
func (s *suite) files(n int, dockerfile string) (string, error) {
	dir, err := s.context(dockerfile)
	if err != nil {
		return "", err
	}
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 4096)
	for i := range n {
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(nthFile(dir, i)), 0o755); err != nil {
				return "", err
			}
		}
		random.Read(data)
		if err := os.WriteFile(nthFile(dir, i), data, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func nthFile(dir string, i int) string {
	return filepath.Join(dir, "tree", fmt.Sprintf("dir%05d", i/100), fmt.Sprintf("file%06d", i))
}

const copyTree = "FROM scratch\nCOPY tree /tree\n"

// statWalk looks at every file once.
func statWalk(ctx context.Context, dir string) *exec.Cmd {
	return exec.CommandContext(ctx, "find", filepath.Join(dir, "tree"), "-size", "+1000k")
}

// tarOf writes the files to an archive in the suite's folder.
func (s *suite) tarOf(ctx context.Context, dir, name string) (sample, error) {
	archive := filepath.Join(s.dir, "floor.tar")
	defer os.Remove(archive)
	return timed(exec.CommandContext(ctx, "tar", "-C", dir, "-cf", archive, name), nil)
}

func noopLarge(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.files(s.scaled(50_000), copyTree)
	j := job{dir: dir}
	return &scene{job: j, prime: built(j), close: func() error { return os.RemoveAll(dir) },
		floor: func(ctx context.Context, _ int) (sample, error) { return timed(statWalk(ctx, dir), nil) }}, err
}

func run20(_ context.Context, s *suite) (*scene, error) {
	text := "ARG BUSYBOX\nFROM $BUSYBOX\n"
	for i := range 20 {
		text += fmt.Sprintf("RUN echo %d\n", i)
	}
	dir, err := s.context(text)
	return &scene{job: job{dir: dir, noCache: true}, floor: func(ctx context.Context, _ int) (sample, error) {
		began := time.Now()
		for range 20 {
			cmd := exec.CommandContext(ctx, "/bin/busybox", "true")
			if os.Getuid() == 0 { // the namespaces of a step, of whose making nobody is spared
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
					syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP}
			}
			if err := cmd.Run(); err != nil {
				return sample{}, err
			}
		}
		return sample{took: time.Since(began)}, nil
	}}, err
}

func copyLarge(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.files(s.scaled(50_000), copyTree)
	return &scene{job: job{dir: dir}, ready: emptied, files: true, close: func() error { return os.RemoveAll(dir) },
		floor: func(ctx context.Context, _ int) (sample, error) { return s.tarOf(ctx, dir, "tree") }}, err
}

func editOne(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.files(s.scaled(50_000), copyTree)
	j := job{dir: dir}
	return &scene{job: j, prime: built(j), close: func() error { return os.RemoveAll(dir) },
		ready: func(_ context.Context, _ builder, n int) error {
			return os.WriteFile(nthFile(dir, 777), fmt.Appendf(nil, "edited for the %dth time\n", n), 0o644)
		},
		floor: func(ctx context.Context, _ int) (sample, error) {
			walk, err := timed(statWalk(ctx, dir), nil)
			if err != nil {
				return walk, err
			}
			archive, err := s.tarOf(ctx, dir, "tree")
			return sample{took: walk.took + archive.took}, err
		}}, err
}

func copyThenRun(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.files(s.scaled(50_000), "ARG BUSYBOX\nFROM $BUSYBOX\nCOPY tree /tree\nRUN cat /tree/dir00000/file000000 | wc -c\nRUN cat /tree/*/* | wc -c\n")
	return &scene{job: job{dir: dir}, ready: emptied, files: true, close: func() error { return os.RemoveAll(dir) }}, err
}

// npmLike unpacks an archive, as package programs do, into many small files, of
// which one is another each time.
func npmLike(ctx context.Context, s *suite) (*scene, error) {
	dir, err := s.context(`ARG BUSYBOX
FROM $BUSYBOX AS deps
COPY modules.tar /
COPY package.json /app/
RUN cd /app && tar -xf /modules.tar && cp package.json node_modules
FROM $BUSYBOX
COPY --from=deps /app/node_modules /app/node_modules
`)
	if err != nil {
		return nil, err
	}
	modules := filepath.Join(dir, "node_modules")
	random := rand.New(rand.NewPCG(1, 1))
	for i := range s.scaled(80_000) {
		sub := filepath.Join(modules, fmt.Sprintf("package%04d", i/40), "lib")
		if i%40 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return nil, err
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d.js", i%40)), source(random), 0o644); err != nil {
			return nil, err
		}
	}
	kept := filepath.Join(s.dir, "npm-like")
	if err := os.Mkdir(kept, 0o755); err != nil {
		return nil, err
	}
	tar := exec.CommandContext(ctx, "tar", "-C", dir, "-cf", filepath.Join(dir, "modules.tar"), "node_modules")
	if err := errors.Join(quiet(tar), os.Rename(modules, filepath.Join(kept, "node_modules"))); err != nil {
		return nil, err
	}
	return &scene{
		job: job{dir: dir, tag: "npm-like"}, files: true, floorReads: filepath.Join(kept, "node_modules"), close: func() error { return errors.Join(os.RemoveAll(dir), os.RemoveAll(kept)) },
		ready: func(_ context.Context, _ builder, n int) error {
			return os.WriteFile(filepath.Join(dir, "package.json"), fmt.Appendf(nil, `{"version": "1.0.%d"}`, n), 0o644)
		},
		floor: func(ctx context.Context, _ int) (sample, error) {
			links := filepath.Join(kept, "links")
			defer os.RemoveAll(links)
			cmd := exec.CommandContext(ctx, "sh", "-c", `cp -al node_modules links && tar -cf links.tar links && sha256sum links.tar && rm links.tar`)
			cmd.Dir = kept
			return timed(cmd, nil)
		},
	}, nil
}

func copyFrom(ctx context.Context, s *suite) (*scene, error) {
	size := s.scaled(1000)
	dir, err := s.context(fmt.Sprintf(`ARG BUSYBOX
FROM $BUSYBOX AS big
RUN dd if=/dev/urandom of=/big bs=1M count=%d
FROM $BUSYBOX
COPY edit /edit
COPY --from=big /big /big
`, size))
	if err != nil {
		return nil, err
	}
	edit := func(n int) error { return os.WriteFile(filepath.Join(dir, "edit"), fmt.Appendln(nil, n), 0o644) }
	file := filepath.Join(s.dir, "big")
	j := job{dir: dir, tag: "copy-from"}
	err = errors.Join(edit(0), quiet(exec.CommandContext(ctx, "dd", "if=/dev/urandom", "of="+file, "bs=1M", fmt.Sprintf("count=%d", size))))
	return &scene{
		job: j, prime: built(j), close: func() error { return os.Remove(file) },
		ready: func(ctx context.Context, b builder, n int) error { return errors.Join(s.room(ctx, b, j), edit(n)) },
		floor: func(ctx context.Context, _ int) (sample, error) {
			defer os.Remove(file + ".link")
			return timed(exec.CommandContext(ctx, "sh", "-c", `ln "$0" "$0.link" && sha256sum "$0.link"`, file), nil)
		},
	}, err
}

func chmodLarge(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.context(fmt.Sprintf(`ARG BUSYBOX
FROM $BUSYBOX AS base
RUN mkdir /data && dd if=/dev/urandom of=/data/0 bs=1M count=1 && for i in $(seq %d); do cp /data/0 /data/$i; done
FROM base
ARG N
RUN chmod -R go-rwx /data && : $N
`, s.scaled(1000)))
	j := numbered(job{dir: dir}, 0)
	return &scene{
		job: job{dir: dir}, prime: built(j), vary: numbered,
		ready: func(ctx context.Context, b builder, _ int) error { return s.room(ctx, b, j) },
	}, err
}

func parallelSleep(_ context.Context, s *suite) (*scene, error) {
	dir, err := s.stages("sleep 1")
	return &scene{job: job{dir: dir}, vary: numbered, floor: func(ctx context.Context, _ int) (sample, error) {
		return timed(exec.CommandContext(ctx, "/bin/busybox", "sleep", "1"), nil)
	}}, err
}

// stages makes a context whose Dockerfile has eight stages with a command.
func (s *suite) stages(command string) (string, error) {
	var stages, copies strings.Builder
	stages.WriteString("ARG BUSYBOX\n")
	for i := range 8 {
		fmt.Fprintf(&stages, "FROM $BUSYBOX AS s%d\nARG N\nRUN %s; echo $N %d > /done\n", i, command, i)
		fmt.Fprintf(&copies, "COPY --from=s%d /done /done%d\n", i, i)
	}
	return s.context(stages.String() + "FROM scratch\n" + copies.String())
}

// parallelCPU counts in a shell. How far it has to for a second is found out
// first.
func parallelCPU(ctx context.Context, s *suite) (*scene, error) {
	loop := func(n int) string {
		return fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); done", n)
	}
	const try = 300_000
	one, err := timed(exec.CommandContext(ctx, "/bin/busybox", "sh", "-c", loop(try)), nil)
	if err != nil {
		return nil, err
	}
	command := loop(int(float64(try) * float64(time.Second) / float64(one.took)))
	dir, err := s.stages(command)
	return &scene{job: job{dir: dir}, vary: numbered, floor: func(ctx context.Context, _ int) (sample, error) {
		return timed(sideBySide(ctx, "1 2 3 4 5 6 7 8", `/bin/busybox sh -c "$0"`, command), nil)
	}}, err
}

// sideBySide runs a command of a shell for each of some words, in $x, all at once.
// It fails when one of them does.
func sideBySide(ctx context.Context, words, command string, args ...string) *exec.Cmd {
	script := "set -o pipefail; for x in " + words + "; do { " + command + "; } & all=\"$all $!\"; done; for p in $all; do wait $p || exit; done"
	return exec.CommandContext(ctx, "bash", append([]string{"-c", script}, args...)...)
}
