package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// rootlessUser is who builds where the suite is run by root; .ci/run makes it,
// with subordinate ids.
const rootlessUser = "whittle-ci"

// run20User has the steps of run20 built by a plain user, with the one provider
// that a user has. The floor is the same build by root.
func run20User(ctx context.Context, s *suite) (*scene, error) {
	sc, err := run20(ctx, s)
	if err != nil {
		return nil, err
	}
	root := s.builder("whittle tree")
	if root == nil {
		return nil, errors.New("not here: root has no provider tree to compare with")
	}
	as, err := s.asUser(ctx, root)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(sc.job.dir, 0o755); err != nil {
		return nil, err
	}
	sc.run = func(ctx context.Context, b builder, j job) (sample, error) {
		if b != root {
			return sample{}, errors.New("not a user's")
		}
		cmd := as(ctx, "build", "-q", "--no-cache", "--build-arg", "BUSYBOX=busybox", j.dir)
		return timed(cmd, b)
	}
	sc.floor = func(ctx context.Context, _ int) (sample, error) { return timed(root.build(ctx, sc.job), nil) }
	return sc, nil
}

// builder returns the one of that name; nil when it is not here.
func (s *suite) builder(name string) *whittle {
	for _, b := range s.builders {
		if w, ok := b.(*whittle); ok && w.name() == name {
			return w
		}
	}
	return nil
}

// asUser returns what makes commands of whittle as a plain user, who has the
// busybox stand-in.
func (s *suite) asUser(ctx context.Context, root *whittle) (func(context.Context, ...string) *exec.Cmd, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("not here: this user's own figures are those of run-20")
	}
	u, err := user.Lookup(rootlessUser)
	if err != nil {
		return nil, fmt.Errorf("not here: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	home, err3 := s.folder()
	if err := errors.Join(err1, err2, err3, s.need(ctx, root, "busybox")); err != nil {
		return nil, err
	}
	// What the user needs: a way there, a folder, the program, the image.
	program, image := filepath.Join(home, filepath.Base(s.whittle)), filepath.Join(home, "busybox.tar")
	err = errors.Join(quiet(exec.CommandContext(ctx, "cp", s.whittle, program)),
		quiet(root.command(ctx, "tag", root.base("busybox"), "busybox")),
		quiet(root.command(ctx, "save", "-o", image, "busybox")),
		os.Chmod(s.dir, 0o711), os.Chmod(program, 0o755), os.Chown(home, int(uid), int(gid)), os.Chmod(image, 0o644))
	if err != nil {
		return nil, err
	}
	as := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "WHITTLE_ROOTFS=tree", "WHITTLE_ROOT=" + filepath.Join(home, "store")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}
	return as, quiet(as(ctx, "load", "-i", image))
}
